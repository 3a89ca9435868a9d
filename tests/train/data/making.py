"""Tiny pictures, each of one colour that its caption names, so that a pair can be told apart."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (30, 40, 220),
    "yellow": (230, 220, 30),
    "cyan": (20, 210, 210),
    "magenta": (210, 20, 200),
    "gray": (128, 128, 128),
    "black": (5, 5, 5),
}
NAMES = tuple(COLOURS)


def plain(colour: str, width: int = 40, height: int = 40) -> Image.Image:
    return Image.new("RGB", (width, height), COLOURS[colour])


def noise(seed: int, width: int, height: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def colour_of(pixels: np.ndarray) -> str:
    """Which of the colours the pixels have on average."""
    mean = pixels.reshape(-1, 3).mean(axis=0)
    return min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))


def folder_of(folder: Path, *colours: str, captions: bool = True) -> Path:
    """One PNG of each colour, of its own size, with its caption beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, colour in enumerate(colours):
        path = folder / f"{number:02}-{colour}.png"
        plain(colour, 40 + 3 * number, 40 + number).save(path)
        if captions:
            path.with_suffix(".txt").write_text(f"a {colour} sheet\n")
    return folder
