"""Word weights applied to text embeddings: the formulas of A1111 and ComfyUI.

R rows, W tokens of a window, D width of an embedding. Nothing here touches a row whose weights
are all 1: it comes back bit for bit.
"""

import torch
from torch import Tensor

MIN_MEAN_TO_MAGNITUDE_RATIO = 1e-5
"""A mean that is less than this share of the numbers' size is rounding, and no measure of them."""


def weight_and_restore_mean(
    text_RWD: Tensor, weight_RW: Tensor, mask_RW: Tensor | None = None
) -> Tensor:
    """Multiply embeddings by word weights, then rescale each window to its old mean (A1111's
    "original").

    z' = z w,  z'' = z' mean(z) / mean(z'): the behaviour that the wiki of stable-diffusion-webui
    describes under "Attention/emphasis". The mean is over all numbers of a window, of the tokens
    in the mask where there is one. It differs from A1111 in two things: there prompts drawn in
    one batch share the mean, here each is alone; and a mean of zero, as a LayerNorm without bias
    gives, is left out of the formula instead of dividing by it.
    """
    counted_RW1 = torch.ones_like(weight_RW) if mask_RW is None else mask_RW.to(weight_RW)
    counted_RW1 = counted_RW1.unsqueeze(-1)
    old_RWD = text_RWD.to(_precise(text_RWD.dtype))
    new_RWD = old_RWD * weight_RW.unsqueeze(-1)

    old_R = (old_RWD * counted_RW1).sum(dim=(1, 2))
    new_R = (new_RWD * counted_RW1).sum(dim=(1, 2))
    least_R = MIN_MEAN_TO_MAGNITUDE_RATIO * (old_RWD.abs() * counted_RW1).sum(dim=(1, 2))
    telling_R = (old_R.abs() > least_R) & (new_R.abs() > least_R)
    scale_R = torch.where(telling_R, old_R, 1.0) / torch.where(telling_R, new_R, 1.0)
    new_RWD = new_RWD * scale_R[:, None, None]

    weighted_R = (weight_RW != 1).any(dim=1)
    return torch.where(weighted_R[:, None, None], new_RWD.to(text_RWD.dtype), text_RWD)


def weight_away_from_empty(text_RWD: Tensor, weight_RW: Tensor, empty_WD: Tensor) -> Tensor:
    """Weight each token's embedding by moving it along the line from the empty prompt's (ComfyUI).

    z' = e + w (z - e), token by token: a weight of 0 is the empty prompt, above 1 exaggerates.
    """
    precise = _precise(text_RWD.dtype)
    old_RWD, empty_WD = text_RWD.to(precise), empty_WD.to(precise)
    weight_RW1 = weight_RW.unsqueeze(-1)
    new_RWD = empty_WD + weight_RW1 * (old_RWD - empty_WD)
    return torch.where(weight_RW1 == 1, text_RWD, new_RWD.to(text_RWD.dtype))


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
