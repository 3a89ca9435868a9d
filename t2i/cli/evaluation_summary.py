"""The main figures of an evaluation, one on a line; all of them are on its page."""

from collections.abc import Iterator, Mapping
from typing import Any

from t2i.terminal import print_result_line

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
