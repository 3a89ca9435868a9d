"""`--grid`: a contact sheet of the images of one command."""

import math
from pathlib import Path
from shlex import quote

from PIL import Image

from t2i.cli.metadata.parsed_metadata import ImageMetadata
from t2i.errors import ArgumentError
from t2i.pictures import MAX_PIXELS, build_picture_grid, scale_to_width

MAX_CELL_WIDTH = 512
"""Maximum width of an image on a sheet, in pixels."""
IMAGE_AREA_FRACTION = 0.8
"""Share of MAX_PIXELS for the images: labels need room, and the sheet must be readable."""


class ImageGrid:
    """Contact sheet of the images of one command, scaled down and labelled with their seeds."""

    def __init__(self, num: int) -> None:
        """Prepare a sheet of `num` images. Raises ArgumentError for fewer than two."""
        if num < 2:
            raise ArgumentError(f"Got --grid with --num {num}: say how many, as in --num 4 --grid.")
        self.num = num
        self.cells: list[Image.Image] = []
        self.seeds: list[int] = []

    def add_image(self, picture: Image.Image, seed: int) -> None:
        """Add one image to the sheet, scaled down and labelled with its seed."""
        room = IMAGE_AREA_FRACTION * MAX_PIXELS / self.num
        width = int(math.sqrt(room * picture.width / picture.height))
        cell = max(1, min(picture.width, MAX_CELL_WIDTH, width))
        self.cells.append(scale_to_width(picture, cell))
        self.seeds.append(seed)

    def render_sheet(self) -> Image.Image:
        """Render the images generated so far as one sheet, in a square grid, each labelled with its
        seed.
        """
        labels = [f"seed {seed}" for seed in self.seeds]
        return build_picture_grid(self.cells, labels, math.ceil(math.sqrt(len(self.cells))))


def build_grid_reproduction_command(path: Path, metadata: ImageMetadata) -> str:
    """Return the t2i command that generates all images of a contact sheet again."""
    seed = metadata.settings.seed
    retry = "" if metadata.retry is None else f" --retry {quote(metadata.retry)}"
    return (
        f"t2i generate --from {quote(str(path))} --seed {seed} --num {metadata.num_pictures}"
        f"{retry} --grid"
    )


def check_not_contact_sheet(path: Path, metadata: ImageMetadata) -> None:
    """Raise ArgumentError if metadata are those of a contact sheet, which is not one image."""
    if metadata.num_pictures > 1:
        first = metadata.settings.seed or 0
        last = first + metadata.num_pictures - 1
        seeds = f"{first} to {last}"
        if metadata.retry is not None:
            seeds += ", or of those that --retry chose instead"
        raise ArgumentError(
            f"{path} is a sheet of {metadata.num_pictures} pictures, of the seeds {seeds}: say "
            "which with --seed, as the sheet labels them, or draw all of them again with: "
            f"{build_grid_reproduction_command(path, metadata)}"
        )
