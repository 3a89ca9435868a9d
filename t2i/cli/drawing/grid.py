"""`--grid`: the pictures of one call on one sheet beside them."""

import math
from pathlib import Path
from shlex import quote

from PIL import Image

from t2i.cli.metadata.parsed_metadata import ImageMetadata
from t2i.errors import ArgumentError
from t2i.pictures import MAX_PIXELS, picture_grid, scale_to_width

MAX_CELL_WIDTH = 512
"""Pixels of width that a picture has on a sheet, at most."""
USABLE_AREA = 0.8
"""Of MAX_PIXELS, so that labels have room and the sheet can be opened again."""


class ImageGrid:
    """Pictures as they are made, small, and the seeds that stand beneath them."""

    def __init__(self, num: int) -> None:
        """Raises ArgumentError where there is nothing to lay side by side."""
        if num < 2:
            raise ArgumentError(f"Got --grid with --num {num}: say how many, as in --num 4 --grid.")
        self.num = num
        self.cells: list[Image.Image] = []
        self.seeds: list[int] = []

    def add(self, picture: Image.Image, seed: int) -> None:
        room = USABLE_AREA * MAX_PIXELS / self.num
        width = int(math.sqrt(room * picture.width / picture.height))
        cell = max(1, min(picture.width, MAX_CELL_WIDTH, width))
        self.cells.append(scale_to_width(picture, cell))
        self.seeds.append(seed)

    def page(self) -> Image.Image:
        labels = [f"seed {seed}" for seed in self.seeds]
        return picture_grid(self.cells, labels, math.ceil(math.sqrt(len(self.cells))))


def reproduce_grid_command(path: Path, story: ImageMetadata) -> str:
    """The command that draws all pictures of a sheet again."""
    seed = story.settings.seed
    return f"t2i generate --from {quote(str(path))} --seed {seed} --num {story.pictures} --grid"


def check_single_image(path: Path, story: ImageMetadata) -> None:
    """Raise ArgumentError for a sheet, which is no picture that could be made again."""
    if story.pictures > 1:
        first = story.settings.seed or 0
        last = first + story.pictures - 1
        raise ArgumentError(
            f"{path} is a sheet of {story.pictures} pictures, of the seeds {first} to {last}: say "
            "which with --seed, or draw all of them again with: "
            f"{reproduce_grid_command(path, story)}"
        )
