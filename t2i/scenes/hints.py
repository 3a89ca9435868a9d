"""Exact hints of scenes: pictures that say where things are, drawn from the scene itself.

H W size of the picture, N objects.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2i.errors import ArgumentError, suggest_choice
from t2i.scenes.layout import compute_mask_bounding_box
from t2i.scenes.sprites import load_object_entries_by_name

SceneHintKind = Literal["segments", "outlines", "colours", "boxes"]
COLOUR_LEVELS = (0, 64, 128, 191, 255)
"""Levels of red, green and blue in the colours of segments."""
COLOUR_BLOCKS = 8
"""Colour blocks along a side, as many as `t2i hint colours` makes."""

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]


def get_segment_colour(name: str) -> tuple[int, int, int]:
    """Return the colour (red, green, blue) of an object of the vocabulary in hints of segments
    and boxes.

    >>> get_segment_colour("apple")
    (255, 255, 255)

    Raises ArgumentError for a name that is no object's.
    """
    colours = compute_segment_palette_of_vocabulary()
    if name not in colours:
        raise ArgumentError(f"No object is called {name!r:.80}. {suggest_choice(name, colours)}")
    return colours[name]


@cache
def compute_segment_palette_of_vocabulary() -> dict[str, tuple[int, int, int]]:
    """Return for every object of the vocabulary its colour (red, green, blue) in hints of segments
    and boxes, by name.

    Each colour is the farthest one from black and from those of the objects before it, so that the
    first objects differ most, and new ones at the end change none.
    """
    grid = np.array(list(product(COLOUR_LEVELS, repeat=3)), dtype=np.int64)
    distances = np.square(grid).sum(axis=1)
    colours = {}
    for name in load_object_entries_by_name():
        chosen = grid[distances.argmax()]
        distances = np.minimum(distances, np.square(grid - chosen).sum(axis=1))
        red, green, blue = chosen.tolist()
        colours[name] = (red, green, blue)
    return colours


def draw_scene_hint(
    kind: SceneHintKind, pixels_HWC: Pixels, names: Sequence[str], masks: Sequence[Mask]
) -> Pixels:
    """Return a control hint picture (H, W, 3) of a scene, of the given kind, which shows where its
    objects are.

    kind : "segments", every object's visible pixels in the colour of its name; "outlines", their
        white borders; "boxes", the boxes around them in those colours, smaller ones in front;
        "colours", squares of the picture's mean colours
    names, masks : of the objects; each mask (H, W) covers the pixels at which the object is visible
    """
    return HINT_DRAWERS[kind](pixels_HWC, names, masks)


def draw_segments(pixels_HWC: Pixels, names: Sequence[str], masks: Sequence[Mask]) -> Pixels:
    """Return a hint picture (H, W, 3) with each object's visible pixels in the colour of its name,
    on black.
    """
    hint_HWC = np.zeros_like(pixels_HWC)
    for name, mask_HW in zip(names, masks, strict=True):
        hint_HWC[mask_HW] = get_segment_colour(name)
    return hint_HWC


def draw_outlines(pixels_HWC: Pixels, _names: Sequence[str], masks: Sequence[Mask]) -> Pixels:
    """Return a hint picture (H, W, 3) with the outermost pixels of every object in white, on
    black.
    """
    hint_HWC = np.zeros_like(pixels_HWC)
    for mask_HW in masks:
        around = np.pad(mask_HW, 1)
        inside_HW = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
        hint_HWC[mask_HW & ~inside_HW] = 255
    return hint_HWC


def draw_filled_boxes(pixels_HWC: Pixels, names: Sequence[str], masks: Sequence[Mask]) -> Pixels:
    """Return a hint picture (H, W, 3) with the filled bounding box of each object in the colour of
    its name, on black.
    """
    hint_HWC = np.zeros_like(pixels_HWC)
    boxes = [
        (*compute_mask_bounding_box(mask_HW), name)
        for name, mask_HW in zip(names, masks, strict=True)
        if mask_HW.any()
    ]
    for left, top, right, bottom, name in sorted(
        boxes, key=lambda box: -(box[2] - box[0]) * (box[3] - box[1])
    ):
        hint_HWC[top:bottom, left:right] = get_segment_colour(name)
    return hint_HWC


def draw_mean_colour_squares(
    pixels_HWC: Pixels, _names: Sequence[str], _masks: Sequence[Mask]
) -> Pixels:
    """Return a hint picture (H, W, 3) of a scene that consists of squares of the picture's mean
    colours.
    """
    height, width = pixels_HWC.shape[:2]
    blocks = min(COLOUR_BLOCKS, height, width)
    small = Image.fromarray(pixels_HWC).resize((blocks, blocks), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST))


HINT_DRAWERS: dict[SceneHintKind, Callable[[Pixels, Sequence[str], Sequence[Mask]], Pixels]] = {
    "segments": draw_segments,
    "outlines": draw_outlines,
    "colours": draw_mean_colour_squares,
    "boxes": draw_filled_boxes,
}
"""Kind of a scene's hint -> the function that draws it."""
