"""Columns of PIE-Bench: what has stayed outside of the edited region, and how the edit succeeded.

As published (Ju et al. 2023, https://arxiv.org/abs/2310.01506): what a column does not look at is
black in both pictures and counts as equal.

H W size of the pictures.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from t2i.evaluate.editing.scores import MAX_PSNR, compute_ssim_map
from t2i.evaluate.pie_bench.judges import JudgeModels, to_rgb_array

Metric = Literal["structure", "psnr", "lpips", "mse", "ssim", "clip", "clip_edited"]
METRICS: tuple[Metric, ...] = get_args(Metric)
METRIC_TITLES: dict[Metric, str] = {
    "structure": "structure distance x1e3",
    "psnr": "background PSNR",
    "lpips": "background LPIPS x1e3",
    "mse": "background MSE x1e4",
    "ssim": "background SSIM x1e2",
    "clip": "CLIP similarity",
    "clip_edited": "CLIP similarity, edited region",
}
LOWER_IS_BETTER: tuple[Metric, ...] = ("structure", "lpips", "mse")
NEEDED_JUDGES: dict[Metric, Literal["dino", "clip", "lpips"]] = {
    "structure": "dino",
    "lpips": "lpips",
    "clip": "clip",
    "clip_edited": "clip",
}
"""Metric -> the judge whose weights it needs."""


@dataclass(frozen=True, slots=True)
class ComparedPictures:
    """Source and edited picture of one edit of PIE-Bench, as the metrics compare them.

    edited_region_HW : mask of the region that the edit may change
    target_prompt : prompt of the edited picture
    """

    source: Image.Image
    edited: Image.Image
    edited_region_HW: NDArray[np.bool_]
    target_prompt: str

    def build_background_tensors(self) -> tuple[Tensor, Tensor]:
        """Return the source and the edited picture as tensors (3, H, W), float64 from 0 to 1, in
        which the edited region is black.
        """
        source, picture = (
            torch.from_numpy(blacken_masked_pixels(one, self.edited_region_HW) / 255.0).permute(
                2, 0, 1
            )
            for one in (self.source, self.edited)
        )
        return source, picture


def compute_chosen_metrics(
    compared: ComparedPictures, columns: tuple[Metric, ...], judges: JudgeModels
) -> dict[Metric, float | None]:
    """Return the named metrics of an edited picture of PIE-Bench, in the units of METRIC_TITLES;
    None where no pixel stays, or none is edited.

    A column is None where no pixel stays, or none is edited, that it could compare.
    """
    return {column: METRIC_FUNCTIONS[column](compared, judges) for column in columns}


def blacken_masked_pixels(picture: Image.Image, mask_HW: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a picture's RGB pixels (H, W, 3), uint8, black where the mask is True."""
    pixels = to_rgb_array(picture)
    pixels[mask_HW] = 0
    return pixels


def measure_structure_distance(compared: ComparedPictures, judges: JudgeModels) -> float | None:
    """Return the structure distance of the whole source and edited pictures, times 1e3."""
    assert judges.dino is not None
    return judges.dino.compute_structure_distance(compared.source, compared.edited) * 1e3


def measure_mse(compared: ComparedPictures, _judges: JudgeModels) -> float | None:
    """Return the mean squared error of source and edited picture outside of the edited region,
    times 1e4.
    """
    if compared.edited_region_HW.all():
        return None
    source_3HW, picture_3HW = compared.build_background_tensors()
    return float((source_3HW - picture_3HW).square().mean()) * 1e4


def measure_psnr(compared: ComparedPictures, judges: JudgeModels) -> float | None:
    """Return the PSNR of source and edited picture outside of the edited region, in dB."""
    mse = measure_mse(compared, judges)
    if mse is None:
        return None
    return MAX_PSNR if mse == 0 else min(MAX_PSNR, -10 * math.log10(mse / 1e4))


def measure_ssim(compared: ComparedPictures, _judges: JudgeModels) -> float | None:
    """Return the SSIM of source and edited picture outside of the edited region, times 1e2."""
    if compared.edited_region_HW.all():
        return None
    return float(compute_ssim_map(*compared.build_background_tensors()).mean()) * 1e2


def measure_lpips(compared: ComparedPictures, judges: JudgeModels) -> float | None:
    """Return LPIPS, the perceptual distance, of source and edited picture outside of the edited
    region, times 1e3.
    """
    if compared.edited_region_HW.all():
        return None
    assert judges.lpips is not None
    source_13HW, picture_13HW = (
        one[None].float() * 2 - 1 for one in compared.build_background_tensors()
    )
    return float(judges.lpips(source_13HW, picture_13HW)) * 1e3


def measure_clip_similarity(compared: ComparedPictures, judges: JudgeModels) -> float | None:
    """Return the CLIP similarity of the edited picture and the target's prompt."""
    assert judges.clip is not None
    return judges.clip.compute_similarity(compared.edited, compared.target_prompt)


def measure_edited_region_clip_similarity(
    compared: ComparedPictures, judges: JudgeModels
) -> float | None:
    """Return the CLIP similarity of the edited region alone (all else black) and the target prompt;
    None if no pixel was edited.
    """
    if not compared.edited_region_HW.any():
        return None
    assert judges.clip is not None
    region = Image.fromarray(blacken_masked_pixels(compared.edited, ~compared.edited_region_HW))
    return judges.clip.compute_similarity(region, compared.target_prompt)


METRIC_FUNCTIONS: dict[Metric, Callable[[ComparedPictures, JudgeModels], float | None]] = {
    "structure": measure_structure_distance,
    "psnr": measure_psnr,
    "lpips": measure_lpips,
    "mse": measure_mse,
    "ssim": measure_ssim,
    "clip": measure_clip_similarity,
    "clip_edited": measure_edited_region_clip_similarity,
}
