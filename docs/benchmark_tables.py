"""Put the tables and the picture of evaluations of the embedded model on docs/benchmark.md: make
docs-tables.

python -m docs.benchmark_tables outputs/evaluate-embedded-scenes outputs/evaluate-embedded-hints

Each folder is the output of one of the commands in RESULTS, and its evaluation.json is copied to
benchmarks/results. Each table of the page is replaced by the table of the same title in these
files, and the picture by some of the first command's. What the page says of them is not: read it
again.
"""

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
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
FOLDER = REPO / "benchmarks" / "results"
RESULTS = {
    "t2i evaluate embedded": FOLDER / "evaluation-embedded.json",
    "t2i evaluate embedded --suite hints --control segments": FOLDER / "evaluation-hints.json",
}
"""Command -> its kept result."""
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
ORIGIN = r"^Made by `{command}`.*?(?=\. The whole result is )"


def with_tables(page: str, results: Iterable[Mapping[str, Any]]) -> str:
    """The page with the tables of these results and their origins.

    Raises SystemExit for a table of the page that no result has.
    """
    tables: dict[str, Table] = {}

    def replaced(match: re.Match[str]) -> str:
        if match["title"] not in tables:
            raise SystemExit(f"No result has a table {match['title']!r}; there are: {[*tables]}")
        return render_table(tables[match["title"]]) + "\n"

    for result in results:
        tables |= {table.title: table for table in tables_of(result)}
        made = f"Made by {describe_result_origin(result)}"
        pattern = ORIGIN.format(command=re.escape(result["command"]))
        page, found = re.subn(pattern, lambda _, made=made: made, page, flags=re.MULTILINE)
        if found != 1:
            raise SystemExit(f"Found {found} lines that say how {made[8:60]}..., expected 1.")
    return TABLE.sub(replaced, page)


def read_results() -> list[dict[str, Any]]:
    """The kept results, in the order of RESULTS."""
    return [json.loads(path.read_text("utf-8")) for path in RESULTS.values()]


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
    parser.add_argument("folders", type=Path, nargs="+", help="output folders of t2i evaluate")
    for folder in parser.parse_args().folders:
        text = (folder / "evaluation.json").read_text("utf-8")
        kept = RESULTS[json.loads(text)["command"]]
        write_atomically(kept, lambda path, text=text: path.write_text(text, "utf-8"))
        if kept == FOLDER / "evaluation-embedded.json":
            rows = [open_picture(folder / "pictures" / f"{name}.png") for name in SHOWN]
            sheet = stacked(rows)
            write_atomically(
                PICTURE, lambda path, sheet=sheet: sheet.save(path, "WEBP", quality=QUALITY)
            )
    page = with_tables(PAGE.read_text("utf-8"), read_results())
    write_atomically(PAGE, lambda path: path.write_text(page, "utf-8"))


if __name__ == "__main__":
    main()
