"""Scores of an edit: the requested change, and what else has changed.

H W size of the picture, F features, P positions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from t2i.evaluate.editing.pairs import PromptPair
from t2i.evaluate.generation.judge import judge_by_statement
from t2i.evaluate.optional_imports import explaining_missing_extra
from t2i.scenes.recognised_objects import Recognition

DILATION_SHARE = 0.03
"""Pixels by which a mask is dilated, as a share of the picture's longer side."""
MAX_PSNR = 100.0
"""PSNR of equal pictures, in dB: no PSNR is larger, and infinity has no mean."""
MIN_GROWTH = 1.05
"""Smallest factor by which a strengthened "large" object's area grows; "small" is divided by it."""


@dataclass(frozen=True, slots=True)
class PixelSimilarity:
    """PSNR (dB), MSE (of colours from 0 to 1) and SSIM of two pictures within a region."""

    psnr: float
    mse: float
    ssim: float


def measure_pixel_similarity(
    one: Image.Image, other: Image.Image, places_HW: NDArray[np.bool_]
) -> PixelSimilarity | None:
    """Measure PSNR, MSE and SSIM of two pictures within a mask (H, W); None if it is empty."""
    return measure_pixel_similarity_within_each_mask(one, other, [places_HW])[0]


def measure_pixel_similarity_within_each_mask(
    one: Image.Image, other: Image.Image, masks: Sequence[NDArray[np.bool_]]
) -> list[PixelSimilarity | None]:
    """Measure PSNR, MSE and SSIM of two pictures within each mask (H, W); None for an empty one.

    Once for all masks: the map of SSIM takes a tenth of a second at 128 x 128.
    """
    if not any(mask_HW.any() for mask_HW in masks):
        return [None] * len(masks)
    one_3HW, other_3HW = to_float64_tensor(one), to_float64_tensor(other)
    error_HW = (one_3HW - other_3HW).square().mean(0)
    ssim_HW = compute_ssim_map(one_3HW, other_3HW)
    found: list[PixelSimilarity | None] = []
    for mask_HW in masks:
        if not mask_HW.any():
            found.append(None)
            continue
        places = torch.from_numpy(mask_HW)
        mse = float(error_HW[places].mean())
        psnr = MAX_PSNR if mse == 0 else min(MAX_PSNR, -10 * math.log10(mse))
        found.append(PixelSimilarity(psnr, mse, float(ssim_HW[places].mean())))
    return found


def compute_ssim_map(one_3HW: Tensor, other_3HW: Tensor) -> Tensor:
    """Return the SSIM of two pictures (3, H, W) from 0 to 1 around each pixel, (H, W)."""
    with explaining_missing_extra():
        from torchmetrics.functional.image import structural_similarity_index_measure

    _, map_13HW = structural_similarity_index_measure(
        one_3HW[None], other_3HW[None], data_range=1.0, return_full_image=True
    )
    map_HW: Tensor = map_13HW[0].mean(0)
    return map_HW


def compute_structure_distance(
    one_Fhw: NDArray[np.float32], other_Fhw: NDArray[np.float32]
) -> float:
    """Return the mean squared difference of the self-similarities of two feature maps (F, h, w).

    After Tumanyan et al. (2022, arXiv 2201.00424, Equation 3), whose features are DINO's keys;
    these are the recogniser's, so that figures of other suites cannot be compared.
    """
    one_PP, other_PP = (
        compute_self_similarity(torch.from_numpy(side)) for side in (one_Fhw, other_Fhw)
    )
    return float((one_PP - other_PP).square().mean())


def compute_self_similarity(features_Fhw: Tensor) -> Tensor:
    """Return the cosine similarity of each two positions of a feature map (F, h, w), (P, P)."""
    unit_FP = functional.normalize(features_Fhw.double().flatten(1), dim=0)
    return unit_FP.T @ unit_FP


def build_unchanged_region_mask(
    pair: PromptPair, source: Recognition, target: Recognition, size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return the mask (H, W) of the region that the edit of a pair should not change.

    It is the outside of the changed object in either picture, dilated by DILATION_SHARE; where the
    background changes, the inside of the source's objects without their edges.
    """
    by = math.ceil(DILATION_SHARE * max(size))
    if pair.object_index is None:
        return ~dilate_mask(~unite_recognised_masks(source, pair.unchanged_object_names, size), by)
    changing = unite_recognised_masks(
        source, pair.changed_object_names, size
    ) | unite_recognised_masks(target, pair.changed_object_names, size)
    return ~dilate_mask(changing, by)


def unite_recognised_masks(
    seen: Recognition, names: tuple[str, ...], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return the union (H, W) of the masks of the named objects that were recognised."""
    places = np.zeros(size, dtype=np.bool_)
    for name in names:
        if name in seen.objects:
            places |= seen.objects[name].mask
    return places


def dilate_mask(mask_HW: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """Dilate a mask (H, W) by `by` pixels to every side."""
    mask_11HW = torch.from_numpy(mask_HW).float()[None, None]
    wide_11HW = functional.max_pool2d(mask_11HW, 2 * by + 1, stride=1, padding=by)
    return np.asarray(wide_11HW[0, 0].numpy() > 0)


def is_edit_successful(pair: PromptPair, source: Recognition, target: Recognition) -> bool:
    """Return True if the target picture shows the change of the prompt, as recognised."""
    if pair.kind == "background":
        return target.background == pair.target.background
    old, new = pair.changed_object_names[0], pair.changed_object_names[-1]
    if pair.kind == "addition":
        return all(name in target.objects for name in (*pair.unchanged_object_names, new))
    if pair.kind == "swap":
        return new in target.objects and old not in target.objects
    assert pair.object_index is not None
    if pair.kind == "recolour":
        colour = pair.target.objects[pair.object_index].colour
        return colour is not None and target.has_colour(new, colour)
    if old not in source.objects or old not in target.objects:
        return False
    growth = target.objects[old].share / source.objects[old].share
    return growth >= MIN_GROWTH if pair.strengthened_word == "large" else growth <= 1 / MIN_GROWTH


def fulfils_target_prompt(pair: PromptPair, target: Recognition) -> bool:
    """Return True if a picture shows all that the target prompt states, as recognised."""
    return all(judge_by_statement(pair.target_statement, target)["everything"])


def to_float64_tensor(picture: Image.Image) -> Tensor:
    """Convert a picture to a float64 tensor (3, H, W) from 0 to 1; SSIM needs the precision."""
    rgb_HW3 = np.asarray(picture.convert("RGB"), dtype=np.float64) / 255
    return torch.from_numpy(rgb_HW3).permute(2, 0, 1)
