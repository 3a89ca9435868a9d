"""docs/architecture.md, its diagrams and README's map name what is there."""

import re
from pathlib import Path

import pytest

from docs.diagrams import DIAGRAMS, svg
from docs.pages import text_of

PLACES = re.compile(r"`((?:t2i|pipelines|train|configs|benchmarks|docs|tests)/[\w./*]*)`")


@pytest.mark.parametrize("name", sorted(DIAGRAMS))
def test_a_diagram_shows_modules_that_exist_and_is_drawn_anew(name: str, repo: Path) -> None:
    for stage in DIAGRAMS[name]:
        assert (repo / stage.module).is_file(), stage.module
    drawn = (repo / "docs" / "images" / f"{name}.svg").read_text("utf-8")
    assert drawn == svg(DIAGRAMS[name]), "run: python -m docs.diagrams"
    assert f"images/{name}.svg" in text_of("docs/architecture.md")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_every_module_and_folder_that_a_page_names_exists(page: str, repo: Path) -> None:
    named = PLACES.findall(text_of(page))
    assert named
    missing = [place for place in named if not list(repo.glob(place.rstrip("/")))]
    assert missing == []


def test_the_map_of_the_readme_names_every_package(repo: Path) -> None:
    readme = text_of("README.md")
    map_ = readme[readme.index("## The map") :]
    for top in ("t2i", "pipelines", "train"):
        for path in (repo / top).iterdir():
            if path.is_dir() and (path / "__init__.py").is_file():
                assert f"{path.name}/" in map_, f"{path.relative_to(repo)} is not in README's map"
