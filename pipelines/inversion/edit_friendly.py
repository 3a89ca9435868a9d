"""Paths of independent noise: the methods `edit-friendly`, `turbo` and `difference`.

With d = x - x* the step of a target, x' = A D(x, target) + B x + r with the source's own residual
r = x*' - A D(x*, source) - B x*, is d' = A (D(x, target) - D(x*, source)) + B d. The methods differ
in the path x*, in A and B, and in the guidance.

C channels, H W latent size.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pipelines.inversion.ddim import sample_noise_like_picture
from pipelines.inversion.inversion_run import InversionRunProtocol
from pipelines.inversion.noise_levels import (
    SamplerStepCoefficients,
    build_run_step_coefficients,
    build_step_coefficients,
)
from pipelines.inversion.path import SourcePath
from pipelines.inversion.path_scheduler import to_at_least_float32
from t2i.conditioning.guidance import ClassifierFree, check_finite_number
from t2i.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class EditFriendlyInversion:
    """Edit-friendly inversion (Huberman-Spiegelglas et al. 2023, https://arxiv.org/abs/2304.06140):
    each noise level gets independent noise, and each step's residual is added to the edits.

    The latents of each level are the picture with noise of their own, x_t = a x0 + s n_t. What the
    published code divides by the step's sigma is kept undivided, so that the last step, where
    sigma is 0, is exact too.

    skip : share of the run that is left out at its noisy begin; more keeps more of the picture
    eta : of the step, 1 as published (DDPM)
    """

    skip: float = 0.0
    eta: float = 1.0

    def __post_init__(self) -> None:
        check_fraction_below_one("skip", self.skip)
        check_finite_number("eta", self.eta)
        if not 0 <= self.eta <= 1:
            raise ArgumentError(f"Got eta={self.eta}, expected a number from 0 to 1.")

    def compute_source_latents_path(self, run: InversionRunProtocol) -> SourcePath:
        """Return a path of latents from noise to the picture, with independent noise at each level;
        each step of a target adds the source's residual.
        """
        skipped = int(self.skip * run.levels.num_steps)
        return SourcePath(
            build_run_step_coefficients(run.levels, eta=self.eta, skip=skipped),
            noise_picture_at_each_level(run, skipped),
            has_residuals=True,
        )

    def build_guidance_arguments(self, prompt: Any, guidance_scale: float) -> dict[str, Any]:
        """Return the call arguments that the inversion method sets for its edits: none."""
        return {}


@dataclass(frozen=True, slots=True)
class TurboEdit:
    """Inversion method TurboEdit (Deutch et al. 2024, https://arxiv.org/abs/2408.00735) for models
    of few steps.

    The path has one step less noise than the timestep that the denoiser is told, and the difference
    of target and source at the target's latents is stressed: as guidance whose unconditional text
    is the source's.

    pull : w of the paper, 1 for none
    max_last_residual : largest norm of the last step's residual, as published for SDXL-Turbo
    """

    pull: float = 1.5
    max_last_residual: float = 15.5

    def __post_init__(self) -> None:
        check_finite_number("pull", self.pull)
        check_finite_number("max_last_residual", self.max_last_residual)
        if self.max_last_residual <= 0:
            raise ArgumentError(
                f"Got max_last_residual={self.max_last_residual}, expected a number above 0."
            )

    def compute_source_latents_path(self, run: InversionRunProtocol) -> SourcePath:
        """Return a path of latents from noise to the picture, with independent noise at each level,
        one step less of it than the denoiser is told.
        """
        levels = run.levels
        last = levels.num_steps
        clean = to_at_least_float32(run.clean_1CHW)
        latents = [
            (
                levels.signal[level + 1] * clean
                + levels.noise[level + 1] * sample_noise_like_picture(run)
            ).to(run.clean_1CHW)
            for level in range(last)
        ]
        return SourcePath(
            build_run_step_coefficients(levels, eta=1.0),
            [*latents, run.clean_1CHW],
            has_residuals=True,
            source_is_guided=False,
            max_last_residual=self.max_last_residual,
        )

    def build_guidance_arguments(self, prompt: Any, guidance_scale: float) -> dict[str, Any]:
        """Return the call arguments that the inversion method sets for its edits: the source's
        prompt as the unconditional text, and `pull` as guidance scale.
        """
        return {"negative_prompt": prompt, "guidance": ClassifierFree(self.pull)}


@dataclass(frozen=True, slots=True)
class FlowEdit:
    """FlowEdit (Kulikov et al. 2024, https://arxiv.org/abs/2412.08629) and its form for diffusion:
    no inversion, the difference of target and source moves the picture.

    Source and target are noised alike, with new noise at each step. With y = x0 + d / a the
    picture on its way: y' = r y + (1 - r) (x0 + D(target) - D(source)).

    skip : share of the run that is left out at its noisy begin
    keep : r; "path" for (s' / a') / (s / a), which follows the sampler and is FlowEdit for flow
        models; a number from 0, which is InfEdit's form (Xu et al. 2023,
        https://arxiv.org/abs/2312.04965), to 1
    """

    skip: float = 0.0
    keep: str | float = "path"

    def __post_init__(self) -> None:
        check_fraction_below_one("skip", self.skip)
        known = self.keep == "path" or not isinstance(self.keep, str | bool)
        if not known or (self.keep != "path" and not 0 <= float(self.keep) <= 1):
            raise ArgumentError(f"Got keep={self.keep}, expected path, or a number from 0 to 1.")

    def compute_source_latents_path(self, run: InversionRunProtocol) -> SourcePath:
        """Return a path of latents from noise to the picture, with independent noise at each level,
        and the steps that a target's difference to it takes.
        """
        levels = run.levels
        skipped = int(self.skip * levels.num_steps)
        steps = [
            self.build_difference_step(run, level) for level in range(skipped, levels.num_steps)
        ]
        return SourcePath(
            tuple(steps), noise_picture_at_each_level(run, skipped), has_residuals=True
        )

    def build_difference_step(
        self, run: InversionRunProtocol, level: int
    ) -> SamplerStepCoefficients:
        """Build the step of the difference d of target and source from a noise level to the next:
        d' = a' (1 - r) (D - D*) + (a' r / a) d.
        """
        levels = run.levels
        along_path = build_step_coefficients(levels, level, level + 1)
        if self.keep == "path":
            return along_path
        r, a, a_to = float(self.keep), levels.signal[level], levels.signal[level + 1]
        # From pure noise d is 0: what it is multiplied by does not matter.
        kept = a_to * r / a if a > 0 else 0.0
        return replace(along_path, clean=a_to * (1 - r), latents=kept)

    def build_guidance_arguments(self, prompt: Any, guidance_scale: float) -> dict[str, Any]:
        """Return the call arguments that the inversion method sets for its edits: none."""
        return {}


def noise_picture_at_each_level(run: InversionRunProtocol, skipped: int) -> list[Tensor]:
    """Return the picture's latents noised to each noise level from `skipped` on, with independent
    noise at each; the clean latents last.
    """
    levels, clean = run.levels, to_at_least_float32(run.clean_1CHW)
    noised = [
        (levels.signal[level] * clean + levels.noise[level] * sample_noise_like_picture(run)).to(
            run.clean_1CHW
        )
        for level in range(skipped, levels.num_steps)
    ]
    return [*noised, run.clean_1CHW]


def check_fraction_below_one(name: str, share: object) -> None:
    """Raise ArgumentError unless the argument is a number of at least 0 and below 1, a fraction of
    the run.
    """
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if not number or not math.isfinite(share) or not 0 <= share < 1:  # type: ignore[arg-type,operator]  # checked
        raise ArgumentError(
            f"Got {name}={share!r:.80}, expected a share of the run from 0 to below 1, such as "
            "0.25."
        )
