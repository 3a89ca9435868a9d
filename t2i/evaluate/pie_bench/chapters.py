"""Report of the part "pie_bench": a table of all edits, one of each editing type, and galleries."""

from collections.abc import Mapping, Sequence

from t2i.evaluate.pie_bench.mapping import EDITING_TYPES
from t2i.evaluate.pie_bench.metrics import LOWER_IS_BETTER, METRIC_TITLES, Metric
from t2i.evaluate.pie_bench.records import PieBenchRecord
from t2i.evaluate.real.baselines import AUTOENCODER, NO_EDIT
from t2i.evaluate.real.chapters import COST_GETTERS, UNITS_BY_HEAD, build_cost_cells
from t2i.evaluate.report.chapter import Block, Cell, Chapter, Gallery, Table
from t2i.evaluate.report.statistics import mean_with_bootstrap_interval
from t2i.terminal import plural

GALLERY_SIZE = 4

EditRecords = Sequence[PieBenchRecord]
"""Records of the edits that a table or gallery is about."""


def build_chapters(
    edits: EditRecords,
    labels: Sequence[str],
    columns: Sequence[Metric],
    steps: int,
    guidance_scale: float,
) -> list[Chapter]:
    """Build the report chapter of the part "pie_bench" from the records of all edits.

    labels : of the methods, in the order of the rows
    """
    by_type: dict[str, list[PieBenchRecord]] = {}
    for one in edits:
        name = EDITING_TYPES.get(one.editing_type, one.editing_type)
        by_type.setdefault(name, []).append(one)
    blocks: list[Block] = [build_method_table("pie_bench", "All edits", edits, labels, columns)]
    blocks += [
        build_method_table(
            f"pie_bench_{name.replace(' ', '_')}", f"Only {name}", some, labels, columns
        )
        for name, some in by_type.items()
        if len(by_type) > 1
    ]
    blocks += [
        Gallery(
            name=f"pie_bench_first_{name.replace(' ', '_')}",
            title=f"The first, {name}",
            pictures=[(one.file, f"{one.source} -> {one.target}") for one in some[:GALLERY_SIZE]],
            columns=1,
        )
        for name, some in by_type.items()
    ]
    refused = dict.fromkeys(
        f"{label} cannot be used here: {reason}"
        for one in edits
        for label, reason in one.refused.items()
    )
    text = (
        "The edits of PIE-Bench (Ju et al. 2023), each an inverted picture edited from its source "
        "prompt to its target prompt. The columns are measured as published, on pictures of the "
        "model's size: background is outside of the edited region, which is black in both pictures "
        "and counts as equal. Rows and time: of the denoiser, to invert and record the source, and "
        f"of each edit of it. {plural(steps, 'step')}, guidance scale {guidance_scale:g}."
    )
    return [Chapter("pie_bench", "PIE-Bench", " ".join([text, *refused]), blocks)]


def build_method_table(
    name: str, title: str, edits: EditRecords, labels: Sequence[str], columns: Sequence[Metric]
) -> Table:
    """Return the table that compares editing methods and baselines on edits of PIE-Bench, a row
    each.
    """
    rows: list[tuple[str, Sequence[Cell]]] = []
    for label in (NO_EDIT, AUTOENCODER, *labels):
        edited = [one.methods.get(label) for one in edits]
        values = [one.controls.get(label) for one in edits]
        if label in labels:
            values = [None if method is None else method.columns for method in edited]
        if any(values):
            rows.append((label, [*build_metric_cells(values, columns), *build_cost_cells(edited)]))
    heads = (*(METRIC_TITLES[column] for column in columns), *COST_GETTERS)
    lower = (*(METRIC_TITLES[column] for column in LOWER_IS_BETTER), *COST_GETTERS)
    return Table(
        name=name,
        title=f"{title}: {plural(len(edits), 'edit')}",
        heads=heads,
        rows=rows,
        units={
            METRIC_TITLES["psnr"]: "dB",
            **{head: UNITS_BY_HEAD.get(head, "") for head in COST_GETTERS},
        },
        better={head: "lower" if head in lower else "higher" for head in heads},
    )


def build_metric_cells(
    values: Sequence[Mapping[Metric, float | None] | None], columns: Sequence[Metric]
) -> list[Cell]:
    """Return the cells of a table row of PIE-Bench: the mean of each metric over the edits, with
    its interval.

    values : columns of each edit; None for an edit that the row's method did not make
    """
    return [
        mean_with_bootstrap_interval([None if one is None else one.get(column) for one in values])
        for column in columns
    ]
