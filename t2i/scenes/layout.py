"""Layout of a scene, and its rendering from sprites.

H W size of the picture.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2i.scenes.captions import Caption
from t2i.scenes.object_placement import Arrangement, PlacedObject
from t2i.scenes.sprites import load_premultiplied_sprite


@dataclass(frozen=True, slots=True)
class SceneLayout:
    """Complete description of a scene before rendering: objects, background and caption.

    objects : in the order of `choose_random_arrangement_sizes_and_positions`
    tint : RGB colour of the background, from 0 to 255
    """

    objects: tuple[PlacedObject, ...]
    arrangement: Arrangement
    background: str
    tint: tuple[int, int, int]
    brightness_gradient: int
    """How much brighter the background is at its far end, right or bottom, than at the near one."""
    gradient_direction: Literal["across", "down"]
    caption: Caption


def render_picture_and_masks(
    layout: SceneLayout, size: int
) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """Render a scene's layout: return its picture (H, W, 3) and, for each object, the mask (H, W)
    of its visible pixels.
    """
    pixels = render_background(
        layout.tint, layout.brightness_gradient, layout.gradient_direction, size
    )
    masks: list[NDArray[np.bool_]] = []
    for placed in layout.objects:
        paste_sprite_and_update_masks(
            pixels,
            masks,
            load_premultiplied_sprite(placed.name, placed.colour),
            placed.side,
            placed.centre,
        )
    return pixels, masks


def render_background(
    tint: tuple[int, int, int],
    brightness_gradient: int,
    gradient_direction: Literal["across", "down"],
    size: int,
) -> NDArray[np.uint8]:
    """Render a background (H, W, 3) that is brighter at its right or bottom edge.

    brightness_gradient : difference of the edges, of 255; negative if it is darker there
    """
    ramp = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    shades = np.asarray(tint, dtype=np.float32) + ramp[:, None] * brightness_gradient
    shades = np.clip(np.rint(shades), 0, 255).astype(np.uint8)
    pixels = np.empty((size, size, 3), dtype=np.uint8)
    pixels[...] = shades[:, None] if gradient_direction == "down" else shades
    return pixels


def paste_sprite_and_update_masks(
    pixels: NDArray[np.uint8],
    masks: list[NDArray[np.bool_]],
    picture: Image.Image,
    side: float,
    centre: tuple[float, float],
) -> None:
    """Paste a sprite onto the picture, append its mask, and remove it from the earlier masks.

    picture : mode RGBa
    side : of the sprite, and `centre` across and down, as shares of the picture's side
    """
    size = len(pixels)
    wide = max(8, round(side * size))
    left, top = (min(max(round(c * size - wide / 2), 0), size - wide) for c in centre)
    rgba = np.asarray(picture.resize((wide, wide), Image.Resampling.HAMMING))
    window = np.s_[top : top + wide, left : left + wide]

    # premultiplied "over"
    behind = pixels[window].astype(np.uint16) * (255 - rgba[..., 3:].astype(np.uint16))
    pixels[window] = np.minimum(rgba[..., :3] + (behind + 127) // 255, 255).astype(np.uint8)
    solid = rgba[..., 3] > 127
    for earlier in masks:
        earlier[window] &= ~solid
    mask = np.zeros((size, size), dtype=np.bool_)
    mask[window] = solid
    masks.append(mask)


def compute_mask_bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return the bounding box of a mask's True pixels: left, top, right, bottom (right and bottom
    exclusive).
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
