"""What docs/getting-started.md tells a reader to type works, and so does docs/tour.ipynb."""

import ast
import shlex
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode
from PIL import Image

from docs.pages import blocks
from docs.tour import PICTURE, TOUR, digest, pictures, run
from t2i.cli import main

PAGE = "docs/getting-started.md"
FEW = ("--set=train.steps=1", "--set=samples.every=0", "--set=samples.steps=1")
SHORT = {
    "generate": ("--steps", "1", "--num", "1"),
    "inspect": ("--steps", "2"),
    "edit": ("--steps", "2"),
}
"""Enough to see that the command lines hold; the last of two spellings counts."""
SHORT_CELLS = {
    '"mushrooms-lora.toml"]': f'"mushrooms-lora.toml", *{FEW}]',
    "] * 4\n": "]\n",
    "generator=seeds(0, 1, 2, 3)": "generator=seeds(0), num_inference_steps=2",
    "generator=seeds(8)": "generator=seeds(8), num_inference_steps=2",
    "seed=8": "seed=8, num_inference_steps=2",
    '["before"] * 4 + ["after"] * 4': '["before", "after"]',
}
LARGEST = 1_000_000


def shortened(words: list[str]) -> list[str]:
    if words[0] == "train" and "--init" not in words:
        return [*words, *FEW]
    return [*words, *SHORT.get(words[0], ())]


@pytest.mark.slow
def test_the_page_works_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = []
    for block in blocks("console", "python", page=PAGE):
        if block.language == "python":
            exec(compile(block.code, PAGE, "exec"), {})
            continue
        for command in block.commands():
            name, *words = shlex.split(command)
            assert name == "t2i"
            assert main(shortened(words)) == 0, command
            commands.append(words[0])
    assert {"generate", "inspect", "edit", "data", "train"} <= set(commands)


def shortened_tour() -> NotebookNode:
    short = nbformat.read(TOUR, as_version=4)
    for long, less in SHORT_CELLS.items():
        cells = [cell for cell in short.cells if long in cell.source]
        assert cells, long
        for cell in cells:
            cell.source = cell.source.replace(long, less)
    return short


def results(notebook: NotebookNode) -> list[Any]:
    """Run the code cells in this process, and return what the last line of each comes to."""
    found, names = [], {"__name__": "__main__"}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        lines = ast.parse(cell.source.removeprefix("%%capture\n"))
        last = lines.body.pop() if isinstance(lines.body[-1], ast.Expr) else None
        exec(compile(lines, TOUR, "exec"), names)
        if isinstance(last, ast.Expr):
            found.append(eval(compile(ast.Expression(last.value), TOUR, "eval"), names))
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:2 steps are too few for self_replace")
def test_the_cells_of_the_tour_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = results(shortened_tour())
    assert all(isinstance(one, Image.Image) for one in found)
    sizes = [picture.size for picture in pictures(nbformat.read(TOUR, as_version=4))]
    assert [picture.size for picture in found][:-1] == sizes[:-1]
    assert len(found) == 5


@pytest.mark.long  # a notebook's own process imports everything: the test above has what it does
def test_the_tour_runs_and_shows_what_it_keeps() -> None:
    sizes = [picture.size for picture in pictures(run(shortened_tour()))]
    kept = nbformat.read(TOUR, as_version=4)
    assert sizes[:-1] == [picture.size for picture in pictures(kept)][:-1]
    assert len(sizes) == 5


def test_the_tour_keeps_what_its_cells_show_today() -> None:
    """Where this fails: make tour."""
    tour = nbformat.read(TOUR, as_version=4)
    assert tour.metadata.run == digest(tour)
    shown = [output for cell in tour.cells for output in cell.get("outputs", ())]
    assert {output.output_type for output in shown} <= {"display_data", "execute_result"}
    assert len(pictures(tour)) == 5
    assert TOUR.stat().st_size < LARGEST
    assert PICTURE.is_file()


def test_the_tour_draws_the_pictures_of_the_page() -> None:
    (drawing,) = (block.code.rstrip() for block in blocks("python", page=PAGE))
    assert any(drawing in cell.source for cell in nbformat.read(TOUR, as_version=4).cells)
