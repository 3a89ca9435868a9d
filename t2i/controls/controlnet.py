"""Residuals of a ControlNet in one denoiser pass.

B batch rows, C channels, H W size at a block of the UNet, Y X image size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from t2i.attention.hooks.shared_hooks import running_control_network
from t2i.conditioning.conditioning import Conditioning
from t2i.controls.block_scales import compute_residual_scales
from t2i.controls.branch_rows import (
    list_controlled_branches,
    select_branch_rows,
    zero_fill_absent_branches,
)
from t2i.controls.control import Control
from t2i.controls.hint_pictures import resize_mask_to_block
from t2i.controls.padding_mask import masking_padding_tokens
from t2i.denoiser.families.sd import ADDED_CONDITIONS, CONTROL_DOWN_PREFIX, CONTROL_MID
from t2i.errors import ArgumentError


@dataclass(frozen=True)
class PreparedControlNet:
    """ControlNet prepared for one run: its control, with pictures and mask as tensors.

    number : of the control among those of the run
    hint_BCYX : one row per image
    mask_B1YX : one row per image; None without a mask
    """

    control: Control
    number: int
    hint_BCYX: Tensor
    mask_B1YX: Tensor | None = None
    _masks: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def acts_on_cond_alone(self) -> bool:
        """True if the unconditional rows are not controlled: in the modes "control" and "guess",
        and for networks that give one value per channel, as diffusers has it.
        """
        pooled = bool(self.control.network.config["global_pool_conditions"])
        return pooled or self.control.mode in ("control", "guess")

    def compute_extra_conditioning(
        self, latents_BCHW: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> dict[str, Tensor]:
        """Run the ControlNet for a denoiser pass and return its residuals as entries of
        `Conditioning.extra`, one row per row of the pass; empty where no row is controlled.
        """
        branches = list_controlled_branches(conditioning.branches, self.acts_on_cond_alone)
        if not branches:
            return {}
        own = conditioning.select_branches(branches)
        latents_BCHW = select_branch_rows(latents_BCHW, conditioning.branches, branches)
        dtype = self.control.network.dtype
        added = {name: own.extra[name] for name in ADDED_CONDITIONS if name in own.extra}
        hint_BCYX = torch.cat([self.hint_BCYX] * len(branches))
        with (
            running_control_network(self.number, branches),
            masking_padding_tokens(self.control.model, own.mask_BT),
        ):
            down, mid_BCHW = self.control.model(
                latents_BCHW.to(dtype),
                timestep,
                encoder_hidden_states=own.text_BTD.to(dtype),
                **self.build_network_hint_arguments(hint_BCYX),
                conditioning_scale=float(self.control.scale),
                guess_mode=self.control.mode == "guess",
                added_cond_kwargs=added or None,
                return_dict=False,
            )
        residuals = self.apply_strengths([*down, mid_BCHW], len(branches))
        names = [f"{CONTROL_DOWN_PREFIX}{index}" for index in range(len(down))] + [CONTROL_MID]
        return {
            name: zero_fill_absent_branches(residual_BCHW, conditioning.branches, branches)
            for name, residual_BCHW in zip(names, residuals, strict=True)
        }

    def build_network_hint_arguments(self, hint_BCYX: Tensor) -> dict[str, Any]:
        """Return the arguments that pass a hint to the ControlNet's forward call, and for a union
        network the type of the hint.
        """
        if not self.control.is_union:
            return {"controlnet_cond": hint_BCYX}
        number = self.control.type_number
        one_hot = hint_BCYX.new_zeros(
            len(hint_BCYX), self.control.network.config["num_control_type"]
        )
        one_hot[:, number] = 1
        return {
            "controlnet_cond": [hint_BCYX],
            "control_type": one_hot,
            "control_type_idx": [number],
        }

    def apply_strengths(self, residuals: Sequence[Tensor], num_branches: int) -> Sequence[Tensor]:
        """Return the ControlNet's residuals, multiplied by the strengths of their blocks and of the
        control's mask.
        """
        scales = compute_residual_scales(self.control)
        if scales is not None:
            residuals = [one * scale for one, scale in zip(residuals, scales, strict=True)]
        if self.mask_B1YX is None:
            return residuals
        return [one * self.resize_mask_to_residual(one, num_branches) for one in residuals]

    def resize_mask_to_residual(self, residual_BCHW: Tensor, num_branches: int) -> Tensor:
        """Return the control's mask resized to a ControlNet residual, with a row for each row of
        the residual.
        """
        height, width = residual_BCHW.shape[-2:]
        if (height, width) not in self._masks:
            assert self.mask_B1YX is not None
            resized = resize_mask_to_block(self.mask_B1YX, (height, width))
            self._masks[height, width] = resized.to(residual_BCHW)
        return torch.cat([self._masks[height, width]] * num_branches)


def check_maskable(control: Control, number: int) -> None:
    """Raise ArgumentError for a control with a mask whose ControlNet has residuals without
    positions, one value per channel.
    """
    pools = control.network.config.get("global_pool_conditions", False)
    if control.mask is not None and pools:
        raise ArgumentError(
            f"Control {number} has a mask, and its ControlNet (global_pool_conditions) gives one "
            "value for the whole image: leave out the mask."
        )
