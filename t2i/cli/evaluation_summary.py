"""Printed summaries of measurements: main figures of an evaluation, costs of preset candidates."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from t2i.terminal import print_result_line, print_rich

if TYPE_CHECKING:
    from t2i.evaluate.tuning.choice import CandidateCost

HEADLINES = (
    ("generation", "one object"),
    ("generation", "both of two objects"),
    ("generation", "relation"),
    ("generation", "background"),
    ("generation", "everything said"),
    ("inspection_seen", "our default"),
    ("inspection_held_out", "our default"),
    ("editing", "no control"),
    ("editing", "+ SelfReplace"),
    ("editing", "+ LocalBlend"),
    ("real_seen", "drawn anew"),
    ("real_seen", "direct, P2P, LocalBlend"),
    ("real_seen", "edit-friendly"),
    ("hints", "no hint"),
    ("hints", "hint"),
    ("hints", "Regions, no hint"),
)
"""(table, label) of each row that is printed."""
MAX_PRINTED_CELLS = 2
"""Cells of a row that are printed, from the left; the others are on the page."""
TABLE_TITLES = {
    "inspection_seen": "heat maps",
    "inspection_held_out": "heat maps, held out",
    "real_seen": "composed pictures",
}
"""Table -> its title on the terminal, where that differs from its name."""
PRINTED_CHAPTERS = ("against",)
"""Chapters requested by an option, whose tables are printed in full."""


def print_headline_figures(document: Mapping[str, Any]) -> None:
    """Print the main figures of an evaluation.json, one per line."""
    for line in format_headline_figures(document):
        print_result_line(line)


def format_headline_figures(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield a printable line for each main figure of an evaluation.json, those of HEADLINES."""
    from t2i.evaluate.report.chapter import Estimate
    from t2i.evaluate.report.number_format import format_cell_with_unit

    blocks = {
        name: block
        for chapter in document["chapters"].values()
        for name, block in chapter["blocks"].items()
        if block["kind"] == "table"
    }
    for name, label in HEADLINES:
        for row in blocks.get(name, {"rows": ()})["rows"]:
            if row["label"] != label:
                continue
            units = blocks[name]["units"]
            figures = [
                f"{head} {format_cell_with_unit(Estimate(cell['value']), units.get(head, ''))}"
                for head, cell in row["cells"].items()
                if isinstance(cell, dict)
            ]
            printed = ", ".join(figures[:MAX_PRINTED_CELLS])
            yield f"{TABLE_TITLES.get(name, name)}, {label}: {printed}"


def print_candidate_costs(costs: "Sequence[CandidateCost]") -> None:
    """Print the table of what each candidate costs."""
    from rich.table import Table
    from rich.text import Text

    from t2i.evaluate.report.number_format import format_number_omitting_unit
    from t2i.evaluate.tuning.choice import JUDGED_CRITERIA, SAID

    def show(figure: Any, end: float | None = None, unit: str = "points") -> str:
        value = format_number_omitting_unit(figure.value, unit)
        return value if end is None else f"{value} ({format_number_omitting_unit(end, unit)})"

    judged = {kind: head for kind, head in JUDGED_CRITERIA.items() if kind in costs[0].differences}
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for head in ("time", "passes", *judged.values(), "distance"):
        table.add_column(Text(head), justify="right")
    for cost in costs:
        cells = [show(cost.time, cost.time.high, "s"), f"{cost.rows:.2f}"]
        for kind in judged:
            found = cost.differences.get(kind)
            end = None if found is None or kind != SAID else found.low
            cells.append("-" if found is None else show(found, end))
        table.add_row(Text(cost.candidate.name), *map(Text, cells), f"{cost.distance.value:.3f}")
    text = "What each costs: time and passes as shares of exact's, points gained or lost against it"
    print_rich(Text(f"{text} (with the worse end of the interval)" if judged else text))
    print_rich(table)


def build_candidate_figures(cost: "CandidateCost") -> dict[str, object]:
    """Return the figures of a candidate as JSON data, with the ends of their intervals."""
    figures = {"time": cost.time, "distance": cost.distance, **cost.differences}
    return {
        name: {"value": one.value, "low": one.low, "high": one.high}
        for name, one in figures.items()
    }
