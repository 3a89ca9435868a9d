"""Put the tables and the picture of an evaluation of the embedded model on docs/benchmark.md: make
docs-tables.

python -m docs.benchmark_tables outputs/evaluate-embedded-scenes

Each table of the page's section "The embedded model" is replaced by the table of the same title in
the folder's evaluation.json, which is copied to benchmarks/results/evaluation-embedded.json, and
its picture by some of the folder's. What the page says of both is not: read it again.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from docs.pages import REPO
from t2i.atomic_files import write_atomically
from t2i.evaluate.report.chapter import Cell, Table
from t2i.evaluate.report.earlier_result import EarlierEstimate, EarlierTable
from t2i.evaluate.report.markdown import describe_result_origin, render_table
from t2i.pictures import open_picture

PAGE = REPO / "docs" / "benchmark.md"
RESULT = REPO / "benchmarks" / "results" / "evaluation-embedded.json"
PICTURE = REPO / "docs" / "images" / "benchmark.webp"
QUALITY = 70
SHOWN = (
    "editing-swap-0001",
    "editing-recolour-0003",
    "editing-background-0003",
    "editing-two-0004",
    "inspection-held_out-0003",
)
TABLE = re.compile(r"^\*\*(?P<title>[^*\n]+)\*\*\n\n(?:\|.*\n)+", re.MULTILINE)
ORIGIN = re.compile(r"^Made by `t2i evaluate embedded`.*?(?=\. The whole result is )", re.MULTILINE)


def with_tables(page: str, result: Mapping[str, Any]) -> str:
    """The page with this result's tables and their origin.

    Raises SystemExit for a table of the page that the result has not.
    """
    tables = {table.title: table for table in tables_of(result)}

    def replaced(match: re.Match[str]) -> str:
        if match["title"] not in tables:
            raise SystemExit(f"The result has no table {match['title']!r}; it has: {[*tables]}")
        return render_table(tables[match["title"]]) + "\n"

    page, found = ORIGIN.subn(lambda _: f"Made by {describe_result_origin(result)}", page)
    if found != 1:
        raise SystemExit(f"Found {found} lines that say how the result was made, expected 1.")
    return TABLE.sub(replaced, page)


def tables_of(result: Mapping[str, Any]) -> list[Table]:
    """All tables of an evaluation.json, as its report has them."""
    found = []
    for chapter in result["chapters"].values():
        for name, block in chapter["blocks"].items():
            if block["kind"] == "table":
                earlier = EarlierTable.model_validate(block)
                rows = [
                    (row.label, [cell(row.cells.get(head)) for head in earlier.heads])
                    for row in earlier.rows
                ]
                units, better = block["units"], block["better"]
                found.append(Table(name, earlier.title, earlier.heads, rows, units, better))
    return found


def cell(value: EarlierEstimate | str | None) -> Cell:
    return value.estimate if isinstance(value, EarlierEstimate) else value


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """The pictures below one another, on white."""
    sheet = Image.new(
        "RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white"
    )
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (0, sum(above.height for above in pictures[:number])))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.benchmark_tables")
    parser.add_argument("folder", type=Path, help="the output folder of t2i evaluate embedded")
    folder: Path = parser.parse_args().folder
    text = (folder / "evaluation.json").read_text("utf-8")
    page = with_tables(PAGE.read_text("utf-8"), json.loads(text))
    write_atomically(PAGE, lambda path: path.write_text(page, "utf-8"))
    write_atomically(RESULT, lambda path: path.write_text(text, "utf-8"))
    rows = [open_picture(folder / "pictures" / f"{name}.png") for name in SHOWN]
    write_atomically(PICTURE, lambda path: stacked(rows).save(path, "WEBP", quality=QUALITY))


if __name__ == "__main__":
    main()
