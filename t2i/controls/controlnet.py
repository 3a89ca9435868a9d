"""Residuals of a ControlNet in one denoiser pass.

B batch rows, C channels, H W size at a block of the UNet, Y X image size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from t2i.conditioning.conditioning import Branch, Conditioning
from t2i.controls.block_scales import compute_residual_scales, list_residual_blocks
from t2i.controls.control import Control
from t2i.controls.hint_pictures import resize_mask_to_block
from t2i.denoiser.families.sd import ADDED_CONDITIONS, CONTROL_DOWN_PREFIX, CONTROL_MID
from t2i.errors import ArgumentError


@dataclass(frozen=True)
class PreparedControlNet:
    """A control of one run, with its pictures as tensors.

    hint_BCYX : one row per image
    mask_B1YX : one row per image; None without a mask
    """

    control: Control
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

    def compute_residuals(
        self, latents_BCHW: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> dict[str, Tensor]:
        """Return the residuals as entries of `Conditioning.extra`, with a row for each row of the
        pass; empty where none of its rows are controlled.
        """
        branches = [
            branch
            for branch in conditioning.branches
            if not (self.acts_on_cond_alone and branch == "uncond")
        ]
        if not branches:
            return {}
        own = conditioning.select_branches(branches)
        latents_BCHW = select_branch_rows(latents_BCHW, conditioning.branches, branches)
        dtype = self.control.network.dtype
        added = {name: own.extra[name] for name in ADDED_CONDITIONS if name in own.extra}
        down, mid_BCHW = self.control.model(
            latents_BCHW.to(dtype),
            timestep,
            encoder_hidden_states=own.text_BTD.to(dtype),
            controlnet_cond=torch.cat([self.hint_BCYX] * len(branches)),
            conditioning_scale=self.control.scale,
            guess_mode=self.control.mode == "guess",
            added_cond_kwargs=added or None,
            return_dict=False,
        )
        residuals = self.apply_strengths([*down, mid_BCHW], len(branches))
        names = [f"{CONTROL_DOWN_PREFIX}{index}" for index in range(len(down))] + [CONTROL_MID]
        return {
            name: fill_absent_branches(residual_BCHW, conditioning.branches, branches)
            for name, residual_BCHW in zip(names, residuals, strict=True)
        }

    def apply_strengths(self, residuals: Sequence[Tensor], num_branches: int) -> Sequence[Tensor]:
        """Return the ControlNet's residuals, multiplied by the strengths of their blocks and of the
        control's mask.
        """
        blocks = list_residual_blocks(self.control.network.config)
        scales = compute_residual_scales(self.control, blocks)
        if scales is not None:
            residuals = [one * scale for one, scale in zip(residuals, scales, strict=True)]
        if self.mask_B1YX is None:
            return residuals
        return [one * self.mask_at(one, num_branches) for one in residuals]

    def mask_at(self, residual_BCHW: Tensor, num_branches: int) -> Tensor:
        """Return the control's mask at the size of a residual, with a row for each of its rows."""
        height, width = residual_BCHW.shape[-2:]
        if (height, width) not in self._masks:
            assert self.mask_B1YX is not None
            resized = resize_mask_to_block(self.mask_B1YX, (height, width))
            self._masks[height, width] = resized.to(residual_BCHW)
        return torch.cat([self._masks[height, width]] * num_branches)


def check_maskable(control: Control, number: int) -> None:
    """Raise ArgumentError for a mask of a ControlNet whose residuals have no positions."""
    if control.mask is not None and control.network.config["global_pool_conditions"]:
        raise ArgumentError(
            f"Control {number} has a mask, and its ControlNet (global_pool_conditions) gives one "
            "value for the whole image: leave out the mask."
        )


def select_branch_rows(
    rows_BCHW: Tensor, branches: Sequence[Branch], wanted: Sequence[Branch]
) -> Tensor:
    """Return the rows of some guidance branches of a batch in which the branches follow one
    another.
    """
    if tuple(wanted) == tuple(branches):
        return rows_BCHW
    by_branch = dict(zip(branches, rows_BCHW.chunk(len(branches)), strict=True))
    return torch.cat([by_branch[branch] for branch in wanted])


def fill_absent_branches(
    rows_BCHW: Tensor, branches: Sequence[Branch], present: Sequence[Branch]
) -> Tensor:
    """Return rows for all branches: those of the present ones, and zeros for the others."""
    if tuple(present) == tuple(branches):
        return rows_BCHW
    by_branch = dict(zip(present, rows_BCHW.chunk(len(present)), strict=True))
    zeros_BCHW = torch.zeros_like(next(iter(by_branch.values())))
    return torch.cat([by_branch.get(branch, zeros_BCHW) for branch in branches])
