"""Contact sheet of a data set: each picture beside its masks in colours, with its caption."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2i.data.training_dataset import TrainingDataset
from t2i.data.training_example import TrainingExample
from t2i.errors import ArgumentError
from t2i.pictures import build_picture_grid

# One per named thing, in caption order; a fourth and later ones start again.
MASK_COLOURS = ((230, 50, 50), (40, 110, 240), (30, 170, 80), (240, 180, 30), (160, 70, 210))
PICTURE_WIDTH = 192


def draw_training_example_sheet(
    dataset: TrainingDataset, indices: Sequence[int], masks: bool = True
) -> Image.Image:
    """Draw a sheet of training examples with their captions; with `masks`, each beside its masks;
    those that have a hint beside this instead.

    The thing named first in a caption is red, the second blue, the third green.
    """
    wrong = [index for index in indices if not 0 <= index < len(dataset)]
    if wrong:
        raise ArgumentError(
            f"No sample {wrong[0]}: the data set holds {len(dataset)}, counted from 0."
        )
    samples = [dataset.read_example(index, 0) for index in indices]
    pictures = []
    for sample in samples:
        beside = overlay_masks(sample) if masks and sample.hint is None else sample.hint
        picture = enlarge_pixels(sample.pixels)
        pictures.append(
            picture
            if beside is None
            else join_equal_heights_side_by_side(picture, enlarge_pixels(beside))
        )
    wide = any(picture.width > picture.height for picture in pictures)
    return build_picture_grid(
        pictures, [sample.caption for sample in samples], columns=4 if wide else 6
    )


def overlay_masks(sample: TrainingExample) -> NDArray[np.uint8]:
    """Return the masks in colours over the picture in pale gray, (H, W, 3) uint8."""
    gray = 0.35 * sample.pixels.mean(axis=-1, keepdims=True) + 140.0
    overlay = np.broadcast_to(gray, sample.pixels.shape).copy()
    for number, mask in enumerate(sample.masks):
        tint = np.array(MASK_COLOURS[number % len(MASK_COLOURS)], dtype=np.float64)
        overlay[mask] = 0.25 * overlay[mask] + 0.75 * tint
    return np.asarray(np.rint(overlay), dtype=np.uint8)


def enlarge_pixels(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return the picture enlarged by an integer factor, with square, sharp pixels."""
    factor = max(1, round(PICTURE_WIDTH / pixels.shape[1]))
    return Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1))


def join_equal_heights_side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Return both pictures in one, with a gap of two pixels."""
    both = Image.new("RGB", (left.width + right.width + 2, left.height), (255, 255, 255))
    both.paste(left, (0, 0))
    both.paste(right, (left.width + 2, 0))
    return both
