"""Exact hints of scenes: pictures that say where things are, drawn from the scene itself.

H W size of the picture, N objects.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from t2i.errors import ArgumentError, suggest_choice
from t2i.scenes.layout import compute_mask_bounding_box
from t2i.scenes.sprites import load_object_entries_by_name

SceneHintKind = Literal["segments", "outlines", "colours", "boxes", "layouts"]
COLOUR_LEVELS = (0, 64, 128, 191, 255)
"""Levels of red, green and blue in the colours of segments."""
BLUR_SHARE = 1 / 24
"""Standard deviation of the blur that smooths an area, as a share of the picture's longer side."""
SMOOTH_LEVEL = 0.3
"""Level of the blurred mask above which a position belongs to the smooth area."""
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
        "layouts", segments that are painted roughly in most scenes; "colours", squares of the
        picture's mean colours
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
    return draw_areas(pixels_HWC, names, [fill_box(mask_HW) for mask_HW in masks])


def draw_layout(pixels_HWC: Pixels, names: Sequence[str], masks: Sequence[Mask]) -> Pixels:
    """Return a hint picture (H, W, 3) with an area for each object in the colour of its name, on
    black, as somebody paints them: all as their boxes, as the ellipses in them, as blobs, or
    exactly. The number of objects' pixels decides, so that a scene has one layout.
    """
    covered = sum(int(mask_HW.sum()) for mask_HW in masks)
    shape = AREA_SHAPES[covered % len(AREA_SHAPES)]
    areas = [shape(mask_HW) if mask_HW.any() else mask_HW for mask_HW in masks]
    return draw_areas(pixels_HWC, names, areas)


def draw_areas(pixels_HWC: Pixels, names: Sequence[str], areas: Sequence[Mask]) -> Pixels:
    """Return a hint picture (H, W, 3) of the areas in the colours of their names, the smaller ones
    in front.
    """
    order = sorted(range(len(names)), key=lambda number: -int(areas[number].sum()))
    return draw_segments(
        pixels_HWC, [names[number] for number in order], [areas[number] for number in order]
    )


def fill_box(mask_HW: Mask) -> Mask:
    """Return the bounding box of a mask, filled; of an empty mask the mask."""
    box_HW = np.zeros_like(mask_HW)
    if mask_HW.any():
        left, top, right, bottom = compute_mask_bounding_box(mask_HW)
        box_HW[top:bottom, left:right] = True
    return box_HW


def fill_ellipse(mask_HW: Mask) -> Mask:
    """Return the ellipse that fills the bounding box of a mask, which is not empty."""
    left, top, right, bottom = compute_mask_bounding_box(mask_HW)
    rows_H, columns_W = (np.arange(side) + 0.5 for side in mask_HW.shape)
    down_H1 = ((2 * rows_H - top - bottom) / (bottom - top))[:, None]
    across_1W = ((2 * columns_W - left - right) / (right - left))[None]
    ellipse_HW: Mask = down_H1**2 + across_1W**2 <= 1
    return ellipse_HW


def smooth_mask(mask_HW: Mask) -> Mask:
    """Return a mask with rounded corners and thickened thin parts, within its bounding box, as a
    thick brush paints it.
    """
    blur = ImageFilter.GaussianBlur(max(mask_HW.shape) * BLUR_SHARE)
    soft_HW = np.asarray(Image.fromarray(mask_HW.astype(np.uint8) * 255).filter(blur))
    smooth_HW: Mask = (soft_HW > 255 * SMOOTH_LEVEL) & fill_box(mask_HW)
    return smooth_HW


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


AREA_SHAPES: Sequence[Callable[[Mask], Mask]] = (np.copy, fill_box, fill_ellipse, smooth_mask)
"""Shapes of the areas in a layout; the first is the exact one."""
HINT_DRAWERS: dict[SceneHintKind, Callable[[Pixels, Sequence[str], Sequence[Mask]], Pixels]] = {
    "segments": draw_segments,
    "outlines": draw_outlines,
    "colours": draw_mean_colour_squares,
    "boxes": draw_filled_boxes,
    "layouts": draw_layout,
}
"""Kind of a scene's hint -> the function that draws it."""
