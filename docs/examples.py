"""Draws every example of the pages as it stands, on one sheet to be looked at: make docs-examples.

python -m docs.examples [PAGE ...] [--out outputs/examples]

A page's commands and Python run in their order in a folder of their own; what they save, and the
pictures that Python holds at the end of a block, stand on the sheet with what made them, and after
them the pictures that the page shows. Look at it when the weights change: where an example is ugly,
choose another prompt or seed on its page (or in docs/pictures.sh, then make docs-pictures).
"""

import argparse
import os
import shlex
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

from PIL import Image

from docs.pages import PAGES, REPO, blocks, links, text_of
from t2i.cli import main as t2i
from t2i.pictures import FORMAT_BY_SUFFIX, build_picture_grid, open_picture, save_picture

COLUMNS, CELL = 8, 160
DRAWING = ("generate", "inspect", "edit")
Labelled = tuple[str, Image.Image]


def examples(page: str) -> Iterator[Labelled]:
    """What the blocks of a page draw, in the folder where this process stands."""
    names: dict[str, Any] = {"__name__": "__main__"}  # blocks follow on one another
    known: set[int] = set()
    there: set[tuple[Path, int]] = set()
    for block in blocks("bash", "python", page=page):
        if block.language == "python":
            exec(compile(block.code, page, "exec"), names)
            yield from ((line_of(block.code, path.name), p) for path, p in saved(there))
            for name, value in names.items():
                if not name.startswith("_") and id(value) not in known:
                    known.add(id(value))
                    yield from ((name, picture) for picture in held(value))
            continue
        for command in block.commands():
            words = shlex.split(command, comments=True)
            if words[0] != "t2i" or (words[1] not in DRAWING and words[1:3] != ["data", "show"]):
                continue
            if code := t2i(words[1:]):
                raise SystemExit(f"{page}: exit code {code} of {command}")
            yield from ((command.removeprefix("t2i "), picture) for _, picture in saved(there))


def illustrations(page: str) -> Iterator[Labelled]:
    """The pictures that lie in the repository and stand on the page."""
    for link in dict.fromkeys(links(text_of(page))):
        if Path(link).suffix in FORMAT_BY_SUFFIX and "://" not in link:
            yield link, open_picture((REPO / page).parent / link)


def saved(there: set[tuple[Path, int]]) -> Iterator[tuple[Path, Image.Image]]:
    """Pictures below this folder that are new since the last look."""
    for path in sorted(Path().rglob("*")):
        if path.suffix in FORMAT_BY_SUFFIX and path.is_file() and not path.is_relative_to("mine"):
            mark = (path, path.stat().st_mtime_ns)
            if mark not in there:
                there.add(mark)
                yield path, open_picture(path)


def held(value: object) -> Iterator[Image.Image]:
    """A picture, a list of them, or a pipeline's result."""
    if isinstance(value, Image.Image):
        yield value
    elif isinstance(value, list):
        yield from (one for one in value if isinstance(one, Image.Image))
    elif not isinstance(value, type) and isinstance(images := getattr(value, "images", None), list):
        yield from held(images)


def line_of(code: str, name: str) -> str:
    """The line that writes the file, else the name."""
    return next((line.strip() for line in code.splitlines() if name in line), name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("pages", nargs="*", default=PAGES, metavar="PAGE", help=", ".join(PAGES))
    parser.add_argument("--out", type=Path, default=Path("outputs/examples"))
    options = parser.parse_args()
    drawn: list[Labelled] = []
    for page in options.pages:
        folder = options.out / Path(page).stem
        folder.mkdir(parents=True)
        for name in ("configs", "docs"):
            (folder / name).symlink_to(os.path.relpath(REPO / name, folder))
        with chdir(folder):
            found = [*examples(page), *illustrations(page)]
        drawn += [(f"{Path(page).name}: {label}", picture) for label, picture in found]
    out = options.out / "examples.png"
    labels = [label for label, _ in drawn]
    save_picture(build_picture_grid([picture for _, picture in drawn], labels, COLUMNS, CELL), out)
    print(f"{out}: {len(drawn)} pictures")


if __name__ == "__main__":
    main()
