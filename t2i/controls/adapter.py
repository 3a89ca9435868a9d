"""Features of a T2I-Adapter, computed once a run.

B batch rows (here: images), C channels, H W size at a block of the UNet, Y X image size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2i.conditioning.conditioning import Conditioning
from t2i.controls.block_scales import compute_residual_scales
from t2i.controls.branch_rows import list_controlled_branches, zero_fill_absent_branches
from t2i.controls.control import Control
from t2i.controls.hint_pictures import repeat_per_image, resize_mask_to_block
from t2i.denoiser.families.sd import ADAPTER_PREFIX
from t2i.errors import ArgumentError


@dataclass(frozen=True)
class AdapterFeatures:
    """T2I-Adapter prepared for one run: its control, and the features that it computed from the
    pictures.

    features : one tensor (B, C, H, W) for each block, with all strengths applied
    """

    control: Control
    features: Sequence[Tensor]

    def compute_extra_conditioning(
        self, latents_BCHW: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> dict[str, Tensor]:
        """Return the T2I-Adapter's features as entries of `Conditioning.extra`, one row per row of
        the denoiser pass; empty where no row is controlled.
        """
        present = list_controlled_branches(conditioning.branches, self.control.mode == "control")
        if not present:
            return {}
        rows = (torch.cat([feature_BCHW] * len(present)) for feature_BCHW in self.features)
        return {
            f"{ADAPTER_PREFIX}{index}": zero_fill_absent_branches(
                rows_BCHW, conditioning.branches, present
            )
            for index, rows_BCHW in enumerate(rows)
        }


def compute_adapter_features(
    control: Control, number: int, hint_BCYX: Tensor, mask_B1YX: Tensor | None, num_images: int
) -> AdapterFeatures:
    """Run a T2I-Adapter on the pictures of its control, and return its features for every image of
    the run.

    number : of the control, for messages
    hint_BCYX : one row per picture
    mask_B1YX : one row per image; None without a mask

    Raises ArgumentError for an image whose sides the adapter cannot halve as often as the UNet.
    """
    divisor = control.network.total_downscale_factor
    height, width = hint_BCYX.shape[-2:]
    if height % divisor or width % divisor:
        raise ArgumentError(
            f"Control {number} is a T2I-Adapter, and the image has {width}x{height} pixels: for an "
            f"adapter both sides must be multiples of {divisor}."
        )
    if hint_BCYX.shape[1] == 1:
        # The strides of diffusers' gray hints: others are other rounding.
        hint_BCYX = hint_BCYX.clone(memory_format=torch.channels_last)
    scales = compute_residual_scales(control)
    features = []
    for index, feature_BCHW in enumerate(control.model(hint_BCYX)):
        feature_BCHW = feature_BCHW * control.scale
        if scales is not None:
            feature_BCHW = feature_BCHW * scales[index]
        # A copy has other strides and so other rounding: none where diffusers makes none.
        if num_images != feature_BCHW.shape[0]:
            feature_BCHW = repeat_per_image("picture", feature_BCHW, num_images)
        if mask_B1YX is not None:
            mask_B1HW = resize_mask_to_block(mask_B1YX, tuple(feature_BCHW.shape[-2:]))
            feature_BCHW = feature_BCHW * mask_B1HW.to(feature_BCHW)
        features.append(feature_BCHW)
    return AdapterFeatures(control, features)
