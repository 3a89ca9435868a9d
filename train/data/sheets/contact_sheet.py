"""Contact sheet of one's own pictures, cropped and captioned as in training."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from t2i.data.training_example import TrainingExample
from t2i.pictures import PAPER, build_picture_grid
from train.data.pictures import Pictures

CELL_SIDE = 192
COLUMNS = 6
MASKED_OUT_TINT = (235, 150, 150)


def draw_contact_sheet(pictures: Pictures, indices: Sequence[int]) -> Image.Image:
    """Draw a sheet of training pictures as cropped and captioned in training, with their sizes,
    each before its hint if there are hints.
    """
    samples = [pictures.read_example(index, index) for index in indices]
    labels = [
        f"{sample.caption or '(no caption)'}\n{sample.pixels.shape[1]}x{sample.pixels.shape[0]}"
        + (" prior" if pictures.is_class_picture(index) else "")
        for index, sample in zip(indices, samples, strict=True)
    ]
    cells = [fit_into_cell(fade_masked_out_pixels(sample)) for sample in samples]
    if any(sample.hint is not None for sample in samples):
        blank = np.full((1, 1, 3), PAPER, dtype=np.uint8)
        hints = [blank if sample.hint is None else sample.hint for sample in samples]
        beside = [fit_into_cell(Image.fromarray(hint)) for hint in hints]
        cells = [cell for both in zip(cells, beside, strict=True) for cell in both]
        labels = [text for label in labels for text in (label, "hint")]
    return build_picture_grid(cells, labels, COLUMNS)


def select_evenly_spaced_picture_indices(pictures: Pictures, most: int) -> list[int]:
    """Return at most `most` picture indices, evenly spaced over the data set, for a contact
    sheet.
    """
    number = min(most, len(pictures))
    return [index * len(pictures) // number for index in range(number)]


def fade_masked_out_pixels(sample: TrainingExample) -> Image.Image:
    """Return a training picture in which the pixels that its loss mask excludes are pale and
    hatched.
    """
    if sample.loss_mask is None:
        return Image.fromarray(sample.pixels)
    height, width = sample.loss_mask.shape
    pale = 0.25 * sample.pixels.mean(axis=-1, keepdims=True) + 165.0
    pale = np.broadcast_to(pale, sample.pixels.shape).copy()
    diagonal = np.add.outer(np.arange(height), np.arange(width))
    pale[diagonal * 24 // max(height, width) % 3 == 0] = MASKED_OUT_TINT
    counted = sample.loss_mask[..., None] / 255
    return Image.fromarray(np.rint(counted * sample.pixels + (1 - counted) * pale).astype(np.uint8))


def fit_into_cell(picture: Image.Image) -> Image.Image:
    """Return the picture scaled to fit a square cell of a contact sheet and aligned to the bottom
    of the cell, above its caption.
    """
    scale = CELL_SIDE / max(picture.size)
    method = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    cell = Image.new("RGB", (CELL_SIDE, CELL_SIDE), PAPER)
    cell.paste(picture.resize(size, method), ((CELL_SIDE - size[0]) // 2, CELL_SIDE - size[1]))
    return cell
