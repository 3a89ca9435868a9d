"""Proximal guidance, which drops the smallest differences between the two predictions.

B batch rows (here: images), C channels, H W latent size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from t2i.conditioning.conditioning import Branch
from t2i.conditioning.guidance import check_finite_number
from t2i.conditioning.run_state import RunState
from t2i.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Proximal:
    """Classifier-free guidance by the proximal operator of the difference of its predictions
    (ProxEdit, Han et al. 2023, section 3.2, https://arxiv.org/abs/2306.05414).

    quantile : of the absolute differences of an image; it is the threshold
    norm : "l0" sets differences up to the threshold to 0; "l1" also shrinks the others by it
    """

    possible_branches: ClassVar[tuple[Branch, ...]] = ("uncond", "cond")

    scale: float
    quantile: float = 0.7
    norm: str = "l0"

    def __post_init__(self) -> None:
        check_finite_number("guidance_scale", self.scale)
        check_finite_number("quantile", self.quantile)
        if not 0 <= self.quantile <= 1:
            raise ArgumentError(f"Got quantile={self.quantile}, expected a number from 0 to 1.")
        if self.norm not in ("l0", "l1"):
            raise ArgumentError(f"Got norm={self.norm!r:.80}, expected 'l0' or 'l1'.")

    def branches(self, run: RunState) -> tuple[Branch, ...]:
        """Return the guidance branches that the denoiser computes at this step: "uncond" and
        "cond".
        """
        return self.possible_branches

    def combine(self, predictions: Mapping[Branch, Tensor], run: RunState) -> Tensor:
        """Combine the branches' predictions into uncond + scale * prox(cond - uncond), (B, C, H,
        W).
        """
        uncond_BCHW = predictions["uncond"]
        difference_BCHW = predictions["cond"] - uncond_BCHW
        size_BCHW = difference_BCHW.abs()
        wide_BV = size_BCHW.flatten(1).to(torch.promote_types(size_BCHW.dtype, torch.float32))
        threshold_B = wide_BV.quantile(self.quantile, dim=1)
        threshold_B111 = threshold_B.to(size_BCHW)[:, None, None, None]
        if self.norm == "l0":
            kept_BCHW = difference_BCHW * (size_BCHW > threshold_B111)
        else:
            kept_BCHW = difference_BCHW.sign() * (size_BCHW - threshold_B111).clamp(min=0)
        return uncond_BCHW + self.scale * kept_BCHW
