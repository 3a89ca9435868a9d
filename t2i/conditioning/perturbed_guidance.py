"""Guidance away from the prediction under perturbed self-attention.

B batch rows (here: images), C channels, H W latent size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from t2i.conditioning.conditioning import Branch
from t2i.conditioning.guidance import (
    check_finite_number,
    check_guidance_scales,
    rescale_to_conditional_std,
)
from t2i.conditioning.guidance_interval import Interval
from t2i.conditioning.run_state import Guidance, RunState
from t2i.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class PerturbedAttention:
    """Perturbed-attention guidance (Ahn et al. 2024, https://arxiv.org/abs/2403.17377).

    cond + s (cond - perturbed), where the branch "perturbed" has the prompt of "cond" but the
    identity as its self-attention map at `sites`; above scale 1 together with classifier-free
    guidance: uncond + scale (cond - uncond) + s (cond - perturbed). The rows are perturbed by the
    denoiser's caller: see t2i/denoiser/perturbed_attention.py.
    """

    scale: float
    perturbed_scale: float = 3.0
    """The paper's s."""
    sites: tuple[str, ...] = ("mid",)
    """Where to perturb: regular expressions, each searched in the names of the modules."""
    rescale: float = 0.0

    def __post_init__(self) -> None:
        check_guidance_scales(self.scale, self.rescale)
        check_finite_number("perturbed_scale", self.perturbed_scale)
        if self.perturbed_scale <= 0:
            raise ArgumentError(
                f"Got perturbed_scale={self.perturbed_scale}, expected a number above 0, such as 3."
            )
        if (
            not isinstance(self.sites, tuple)
            or not self.sites
            or not all(isinstance(site, str) and site for site in self.sites)
        ):
            raise ArgumentError(
                f"Got sites={self.sites!r}, expected a tuple of parts of module names, such as "
                "('mid',)."
            )

    @property
    def possible_branches(self) -> tuple[Branch, ...]:
        """Guidance branches that a run may compute: "cond", "perturbed", and above scale 1
        "uncond".
        """
        return ("uncond", "cond", "perturbed") if self.scale > 1 else ("cond", "perturbed")

    def branches(self, run: RunState) -> tuple[Branch, ...]:
        """Return the guidance branches that the denoiser computes at this step: always all of
        `possible_branches`.
        """
        return self.possible_branches

    def combine(self, predictions: Mapping[Branch, Tensor], run: RunState) -> Tensor:
        """Combine the branches' predictions: guide that of "cond" away from the one under perturbed
        self-attention and, above scale 1, from the unconditional one, (B, C, H, W).
        """
        cond_BCHW = predictions["cond"]
        guided_BCHW = cond_BCHW
        if self.scale > 1:
            uncond_BCHW = predictions["uncond"]
            guided_BCHW = uncond_BCHW + self.scale * (cond_BCHW - uncond_BCHW)
        away_BCHW = cond_BCHW - predictions["perturbed"]
        guided_BCHW = guided_BCHW + self.perturbed_scale * away_BCHW
        return rescale_to_conditional_std(guided_BCHW, cond_BCHW, self.rescale)


def list_perturbed_site_patterns(guidance: Guidance) -> tuple[str, ...]:
    """Return the site patterns at which a guidance perturbs self-attention; empty for a guidance
    that does not.
    """
    if isinstance(guidance, Interval):
        return list_perturbed_site_patterns(guidance.guidance)
    return guidance.sites if isinstance(guidance, PerturbedAttention) else ()
