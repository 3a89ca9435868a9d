"""What one command line came to, and where its files are."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

PROMPT = "a red apple to the left of a cat"
SLUG = "a-red-apple-to-the-left-of-a-cat"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def paths(self) -> list[Path]:
        return [Path(line) for line in self.out.splitlines()]

    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document


Cli = Callable[..., Result]


def prompts_runner(cli: Cli, model: Path, steps: int) -> Cli:
    """A function that draws the lines that it is given, as a prompts file, into the folder out."""

    def run(*lines: dict[str, Any]) -> Result:
        Path("p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        options = ("--model", model, "--steps", str(steps), "--out", "out", "--seed", "7")
        return cli("generate", "--prompts", "p.jsonl", *options)

    return run


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path))


def text_of(path: Path) -> dict[str, str]:
    picture = Image.open(path)
    assert isinstance(picture, PngImageFile)
    return dict(picture.text)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def request(path: str) -> dict[str, Any]:
    """The request that a picture has in its metadata."""
    recorded: dict[str, Any] = json.loads(text_of(Path(path))["t2i"])["request"]
    return recorded


def same(one: str, other: str) -> bool:
    return np.array_equal(pixels(Path(one)), pixels(Path(other)))
