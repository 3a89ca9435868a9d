"""Weights with which an edited picture is blended into a photo: 0 keeps the photo exactly.

Y X image size.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

EDGE_WIDTHS_PER_SIDE = 64
"""The soft edge of a mask is 1 / EDGE of the longer side wide."""
MAX_DETAIL_REACH_IN_EDGES = 4
"""Edges that a detail of the photo reaches, at most, out of the change that it belongs to."""
MIN_COLOUR_CHANGE = 0.05
"""Change of a colour, of 1, from which on it is one; the autoencoder alone makes smaller ones."""


def compute_inward_feather_weights(mask_YX: Tensor, width: int | None = None) -> Tensor:
    """Return blend weights that are 0 outside a binary mask and rise from its edge to 1 inside it.

    In a part of the mask that is thinner than twice the edge they reach 1 all the same. The border
    of the picture is no edge.

    width : of the edge in pixels; None for 1 / EDGE of the longer side
    """
    width = compute_default_feather_width(mask_YX) if width is None else width
    eroded_11YX = mask_YX[None, None].float()
    depth_11YX = eroded_11YX.clone()
    for _ in range(width):
        eroded_11YX = -functional.max_pool2d(-eroded_11YX, 3, stride=1, padding=1)
        depth_11YX += eroded_11YX
    window = 2 * width + 1
    deepest_11YX = functional.max_pool2d(depth_11YX, window, stride=1, padding=width)
    return (depth_11YX / deepest_11YX.clamp(min=1))[0, 0]


def compute_side_fade_weights(
    height: int, width: int, sides: tuple[bool, bool, bool, bool]
) -> Tensor:
    """Return blend weights (Y, X) that are 1 inside a picture and fade towards the given ones of
    its four sides.

    sides : left, top, right, bottom
    """
    ones_YX = torch.ones(height, width)
    edge = compute_default_feather_width(ones_YX)
    left, top, right, bottom = (edge * side for side in sides)
    wide_YX = functional.pad(ones_YX, (left, right, top, bottom))
    return compute_inward_feather_weights(wide_YX, edge)[top : top + height, left : left + width]


def compute_changed_area_weights(
    image: Image.Image, reference: Image.Image, photo: Image.Image | None = None
) -> Tensor:
    """Return blend weights (Y, X) that are 1 in the area where two images of equal size differ,
    with a soft edge around it.

    photo : that the reference is a model's reproduction of: where the image equals it nothing
        changed, and what it has and the reference lacks, such as whiskers, belongs to the change
        that it touches
    """
    changed_11YX = build_difference_mask(image, reference)
    width = compute_default_feather_width(changed_11YX[0, 0])
    differs_11YX = build_difference_mask(image, photo or reference)
    changed_11YX = dilate_mask(changed_11YX * differs_11YX, width)
    for _ in range(MAX_DETAIL_REACH_IN_EDGES * width):
        changed_11YX = torch.maximum(changed_11YX, dilate_mask(changed_11YX, 1) * differs_11YX)
    closed_11YX = -dilate_mask(-dilate_mask(changed_11YX, width), width)
    return compute_inward_feather_weights(dilate_mask(closed_11YX, width)[0, 0], width)


def build_difference_mask(image: Image.Image, reference: Image.Image) -> Tensor:
    """Return a mask (1, 1, Y, X) that is 1 where the colours of two images differ; differences of
    single pixels are smoothed away.
    """
    one, other = (np.asarray(one.convert("RGB"), np.float32) for one in (image, reference))
    change_11YX = torch.from_numpy(np.abs(one - other).max(axis=2) / 255)[None, None]
    smooth_11YX = functional.avg_pool2d(change_11YX, 3, 1, padding=1, count_include_pad=False)
    return (smooth_11YX > MIN_COLOUR_CHANGE).float()


def compute_default_feather_width(pixels_YX: Tensor) -> int:
    """Return the default width in pixels of the soft edge with which an edit is blended into a
    photo of this size.
    """
    return max(1, round(max(pixels_YX.shape) / EDGE_WIDTHS_PER_SIDE))


def dilate_mask(mask_11YX: Tensor, radius: int) -> Tensor:
    """Return a mask (1, 1, Y, X) grown by a number of pixels to every side."""
    return functional.max_pool2d(mask_11YX, 2 * radius + 1, stride=1, padding=radius)
