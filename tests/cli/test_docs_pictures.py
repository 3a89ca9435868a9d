"""The pictures of the pages are what the commands under them make."""

import re
import shlex
from pathlib import Path

from t2i.cli.metadata.reading import build_request_from_metadata, read_metadata

LARGEST = 60_000
INPUTS = {
    "page.webp",
    "right.png",
    "layout.png",
    "photo.png",
    "edits.webp",
    "benchmark.webp",
    "learning.webp",
    "mushrooms.webp",
}
INPUTS |= {f"way-of-a-{what}.svg" for what in ("prompt", "probe", "training-picture")}
"""A screenshot of the page; painted by hand, the mask and the layout; a composed scene, the photo;
what the Python on docs/edits.md makes; rows of an evaluation's;
what benchmarks/learning.py draws, docs/tour.py, and docs/diagrams.py."""


def commands(repo: Path) -> dict[str, list[str]]:
    """Name of each picture that docs/pictures.sh makes -> the words of its command."""
    lines = (repo / "docs/pictures.sh").read_text().splitlines()
    found = [shlex.split(line) for line in lines if line.startswith("t2i ")]
    assert found
    made = {words[words.index("--out") + 1]: words for words in found}
    segmented = {name: words for name, words in made.items() if "--segment" in words}
    return made | {f"{Path(name).stem}-segments.png": words for name, words in segmented.items()}


def test_the_script_makes_the_pictures_that_the_pages_show(repo: Path) -> None:
    pages = "\n".join(page.read_text("utf-8") for page in (repo / "docs").glob("*.md"))
    shown = set(re.findall(r"\]\(images/([\w.-]+)\)", pages))
    assert shown == commands(repo).keys() | INPUTS
    there = {path.name: path.stat().st_size for path in (repo / "docs/images").iterdir()}
    assert there.keys() == shown
    assert max(there.values()) <= LARGEST


def test_each_picture_tells_of_its_command(repo: Path) -> None:
    for name, words in commands(repo).items():
        if words[1] != "generate":
            continue  # a strip of several pictures tells nothing of itself
        request, seed = build_request_from_metadata(read_metadata(repo / "docs/images" / name))
        options = dict(zip(words[3::2], words[4::2], strict=True))
        assert words[:3] == ["t2i", "generate", request.prompt], name
        assert options.pop("--out") == name
        assert int(options.pop("--seed")) == seed, name
        told = {
            "--guidance": f"{request.guidance_scale:g}",
            "--method": request.guidance_method,
            "--image": request.image and request.image.path,
            "--strength": request.strength and f"{request.strength:g}",
            "--size": str(request.width),
            "--upscale": request.upscale and f"{request.upscale.factor:g}",
            "--mask": request.mask and request.mask.path,
            "--control": request.controls
            and f"{request.controls[0].model.path}:{request.controls[0].picture.path}",
            "--reference": request.references
            and request.references[0].option_value.removesuffix(",steps=0-1"),
        }
        assert options == {option: told[option] for option in options}, name
