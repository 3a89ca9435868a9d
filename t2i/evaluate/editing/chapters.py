"""Report of the editing part: tables and galleries."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from t2i.evaluate.editing.methods import METHODS, NO_EDIT, STRENGTHENING_METHODS, EditSettings
from t2i.evaluate.editing.pairs import CHANGE_TITLES
from t2i.evaluate.editing.records import (
    EditedPictureRecord,
    PromptPairRecord,
    RelativeCostRecord,
    TwoObjectPromptRecord,
)
from t2i.evaluate.editing.two_objects import EDIT_NAMES, VARIANTS
from t2i.evaluate.report.chapter import Block, Cell, Chapter, Estimate, Gallery, Table
from t2i.evaluate.report.statistics import mean_with_bootstrap_interval, proportion_with_interval
from t2i.evaluate.suite_part import Record
from t2i.terminal import plural

MEASURE_GETTERS: dict[str, Callable[[EditedPictureRecord], float | None]] = {
    "structure distance x1e3": lambda one: one.structure * 1e3,
    "background PSNR": lambda one: None if one.stayed is None else one.stayed.psnr,
    "background MSE x1e4": lambda one: None if one.stayed is None else one.stayed.mse * 1e4,
    "background SSIM x1e2": lambda one: None if one.stayed is None else one.stayed.ssim * 1e2,
    "text-picture score": lambda one: one.fit,
    "the same, edited place": lambda one: one.fit_there,
    "whole PSNR": lambda one: one.whole.psnr,
}
"""Column head -> function that reads its value from the record of an edited picture.

The measures that PIE-Bench has are in its units.
"""
COLUMN_HEADS = ("success", "whole caption", *MEASURE_GETTERS)
UNITS_BY_HEAD = {"success": "%", "whole caption": "%", "background PSNR": "dB", "whole PSNR": "dB"}
LOWER_IS_BETTER = ("structure distance x1e3", "background MSE x1e4")
RANKING_METHOD = "+ LocalBlend"
"""Editing method by whose results the worst and best pairs of the galleries are chosen."""
GALLERY_SIZE = 6


def build_chapters(
    records: Mapping[str, Record], settings: EditSettings, steps: int
) -> list[Chapter]:
    """Build the report chapter of the editing part from the records of its units, by key."""
    pairs: dict[str, list[PromptPairRecord]] = {}
    two: list[TwoObjectPromptRecord] = []
    costs: list[RelativeCostRecord] = []
    for unit, record in records.items():
        kind = unit.split("/")[0]
        if kind in CHANGE_TITLES:
            pairs.setdefault(kind, []).append(PromptPairRecord.model_validate(record))
        elif kind == "two":
            two.append(TwoObjectPromptRecord.model_validate(record))
        else:
            costs.append(RelativeCostRecord.model_validate(record))
    apart = ("addition", "strengthen")
    every = [one for kind, several in pairs.items() if kind not in apart for one in several]
    blocks: list[Block] = []
    if every:
        blocks.append(
            build_edit_method_table("editing", "Another object, colour or background", every)
        )
    blocks += [
        build_edit_method_table(f"editing_{kind}", f"Only {title}", pairs[kind])
        for kind, title in CHANGE_TITLES.items()
        if kind in pairs
    ]
    if two:
        blocks.append(build_two_object_prompt_table(two))
    if costs:
        blocks.append(build_cost_table(costs))
    blocks += build_galleries([one for several in pairs.values() for one in several], two)
    return [
        Chapter("editing", "Editing", describe_tables_and_settings(every, settings, steps), blocks)
    ]


def describe_tables_and_settings(
    every: Sequence[PromptPairRecord], settings: EditSettings, steps: int
) -> str:
    """Return the text that explains the editing tables and the settings of the edits."""
    right = proportion_with_interval([one.source_right for one in every])
    sources = "" if right is None else f" {right.value:.0%} of the sources show all of theirs."
    return (
        "A prompt is drawn, and the same prompt changed in one thing, from the same noise. "
        "Success: by the recogniser the change has happened: the new object is there, the old one "
        "gone, the object has the new colour, the background is the new one, a strengthened "
        "object covers 5 % more or less. Whole caption: all that the new prompt says is "
        f"there, as the model also draws other things wrongly.{sources} Background: the places "
        "that were to stay, outside of the changed object in either picture and a little around "
        "it; where the background itself changes, inside the objects, without their edges. "
        "Structure distance is after Tumanyan et al. (2022) with the recogniser's features in the "
        "place of DINO's, so that it cannot be held against other suites; LPIPS needs weights "
        "that do not come along and is left out. Text-picture score: how well the picture fits "
        "the new prompt, from -1 to 1; of the edited place, which is cut out where the source's "
        "object was, how well it fits the new object's own words. It is the judge's own score, no "
        "CLIP score. Costs are the processor's time (middle and range of the rounds) and what "
        f"torch holds at once, of a source and its target; with {' and '.join(EDIT_NAMES)} of one "
        f"picture. {plural(steps, 'step')}; word maps of the source for "
        f"{format_step_window(settings.cross_replace)} of them, its layout for "
        f"{format_step_window(settings.self_replace)}, "
        f"blend above {settings.blend_threshold:g}, keys and values shared for "
        f"{format_step_window(settings.share_keys_values)}, queries and keys for "
        f"{format_step_window(settings.inject_queries_keys)}; stronger words "
        f"{settings.weight:g} times "
        f"in maps, {settings.prompt_weight:g} in prompts."
    )


def format_step_window(window: tuple[float, float]) -> str:
    """Format a window of steps, as fractions of the run, as "0 to 0.8"."""
    return f"{window[0]:g} to {window[1]:g}"


def build_edit_method_table(name: str, title: str, pairs: Sequence[PromptPairRecord]) -> Table:
    """Build the table that compares the editing methods on some prompt pairs, a row each."""
    rows: list[tuple[str, Sequence[Cell]]] = []
    for method in (*METHODS, *STRENGTHENING_METHODS):
        edited = [one.methods[method] for one in pairs if method in one.methods]
        if edited:
            rows.append((method, build_edit_method_cells(edited)))
    return Table(
        name=name,
        title=f"{title}: {plural(len(pairs), 'pair')}",
        heads=COLUMN_HEADS,
        rows=rows,
        units=UNITS_BY_HEAD,
        better={head: "lower" if head in LOWER_IS_BETTER else "higher" for head in COLUMN_HEADS},
    )


def build_edit_method_cells(edited: Sequence[EditedPictureRecord]) -> list[Cell]:
    """Build the cells of an editing method, in the order of COLUMN_HEADS, from its pictures."""
    figures = [
        mean_with_bootstrap_interval([reading(one) for one in edited])
        for reading in MEASURE_GETTERS.values()
    ]
    return [
        proportion_with_interval([one.success for one in edited]),
        proportion_with_interval([one.everything for one in edited]),
        *figures,
    ]


def build_two_object_prompt_table(two: Sequence[TwoObjectPromptRecord]) -> Table:
    """Build the table of two-object prompts: success without an edit and with each edit."""
    rows: list[tuple[str, Sequence[Cell]]] = [
        (
            name,
            [
                proportion_with_interval([one.both[name] for one in two]),
                proportion_with_interval([one.relation[name] for one in two]),
                None
                if name == NO_EDIT
                else mean_with_bootstrap_interval([one.whole[name].psnr for one in two]),
            ],
        )
        for name in VARIANTS
    ]
    heads = ("both objects", "as they should stand", "PSNR to no control")
    return Table(
        name="editing_two",
        title=f"Two objects in one prompt: {plural(len(two), 'prompt')}",
        heads=heads,
        rows=rows,
        units={heads[0]: "%", heads[1]: "%", heads[2]: "dB"},
        better={heads[0]: "higher", heads[1]: "higher"},
    )


def build_cost_table(costs: Sequence[RelativeCostRecord]) -> Table:
    """Build the table of each method's time and memory, relative to no edit."""
    rows: list[tuple[str, Sequence[Cell]]] = [
        (cost.method, [median_with_min_max_interval(cost.time), Estimate(cost.extra_bytes / 2**20)])
        for cost in costs
    ]
    heads = ("time, times", "more at the peak")
    return Table(
        name="editing_cost",
        title="What it costs, beside the same pictures without an edit",
        heads=heads,
        rows=rows,
        units={heads[1]: "MiB"},
        better=dict.fromkeys(heads, "lower"),
    )


def median_with_min_max_interval(values: Sequence[float]) -> Estimate:
    """Return the median of some values, with their whole range as the interval."""
    return Estimate(median(values), min(values), max(values), len(values))


def build_galleries(
    pairs: Sequence[PromptPairRecord], two: Sequence[TwoObjectPromptRecord]
) -> list[Gallery]:
    """Build the galleries of edited pictures: the worst, the best, and the first of each kind."""
    ranked = sorted(pairs, key=success_and_psnr_sort_key)
    count = min(GALLERY_SIZE, len(ranked) // 2)
    shown = [
        build_pairs_gallery("worst", f"The worst, by {RANKING_METHOD}", ranked[:count]),
        build_pairs_gallery("best", f"The best, by {RANKING_METHOD}", ranked[::-1][:count]),
        *(
            build_pairs_gallery(f"first_{kind}", f"The first, {title}", of_kind[:GALLERY_SIZE])
            for kind, title in CHANGE_TITLES.items()
            if (of_kind := [one for one in pairs if one.kind == kind])
        ),
    ]
    if two:
        pictures = [(one.file, build_two_object_picture_label(one)) for one in two[:GALLERY_SIZE]]
        shown.append(Gallery("editing_first_two", "The first, two objects", pictures, columns=2))
    return shown


def success_and_psnr_sort_key(one: PromptPairRecord) -> tuple[bool, float]:
    """Return the key that sorts pairs by success, then background PSNR, of RANKING_METHOD."""
    edited = one.methods[RANKING_METHOD]
    return edited.success, 0.0 if edited.stayed is None else edited.stayed.psnr


def build_pairs_gallery(name: str, title: str, pairs: Sequence[PromptPairRecord]) -> Gallery:
    """Build a gallery of prompt pairs, labelled with the editing methods that succeeded."""
    pictures = []
    for one in pairs:
        worked = [method for method, edited in one.methods.items() if edited.success]
        label = f"{one.source} -> {one.target} [worked: {', '.join(worked) or 'none'}]"
        pictures.append((one.file, label))
    return Gallery(f"editing_{name}", title, pictures, columns=1)


def build_two_object_picture_label(one: TwoObjectPromptRecord) -> str:
    """Return the gallery label of a two-object prompt: its caption, and the edits that met it."""
    right = [name for name in VARIANTS if one.relation[name]]
    return f"{one.caption} [right: {', '.join(right) or 'none'}]"
