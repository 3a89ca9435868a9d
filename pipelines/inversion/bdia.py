"""Exact inversion by bidirectional integration: the method `bdia`.

C channels, H W latent size.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pipelines.inversion.ddim import InverseDdimScheduler, check_iterations
from pipelines.inversion.inversion_run import InversionRunProtocol
from pipelines.inversion.noise_levels import (
    NoiseLevels,
    SamplerStepCoefficients,
    build_run_step_coefficients,
    build_step_coefficients,
)
from pipelines.inversion.path import SourcePath
from pipelines.inversion.path_scheduler import (
    FixedTimestepsScheduler,
    apply_step_coefficients,
    to_at_least_float32,
)
from t2i.conditioning.guidance import check_finite_number
from t2i.denoiser.schedulers import Scheduler
from t2i.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class BdiaInversion:
    """Inversion method BDIA-DDIM (Zhang et al. 2023, https://arxiv.org/abs/2307.10829): a sampler
    that reads the last two latents and can be run backwards exactly, with one pass a step.

    With z_j at level j, N the picture: z_(j+1) = gamma (z_(j-1) - up(z_j)) + down(z_j), where up
    and down are the DDIM steps from z_j to its neighbours.

    gamma : 1 trusts the older latents most; below it errors grow by 1 / gamma a step on the way up
    iterations : of the first, ordinary step
    """

    gamma: float = 1.0
    iterations: int = 4

    def __post_init__(self) -> None:
        check_finite_number("gamma", self.gamma)
        check_iterations(self.iterations)
        if not 0 < self.gamma <= 1:
            raise ArgumentError(f"Got gamma={self.gamma}, expected a number above 0, up to 1.")

    def compute_source_latents_path(self, run: InversionRunProtocol) -> SourcePath:
        """Invert the picture by BDIA: return the path of its latents from noise to the picture.

        Its first step, which has no older latents, has a residual.
        """
        levels = run.levels
        first = InverseDdimScheduler(
            run.pipeline_scheduler, levels, run.clean_1CHW, self.iterations, levels_to_invert=1
        )
        run.sample_latents(first, run.clean_1CHW, guided=True)
        steps = build_bdia_step_coefficients(levels, self.gamma)
        latents = first.latents
        if len(steps) > 1:
            inverse = InverseBdiaScheduler(run.pipeline_scheduler, steps, latents)
            run.sample_latents(inverse, latents[0], guided=True)
            latents = inverse.latents
        return SourcePath(steps, latents, has_residuals=True)

    def build_guidance_arguments(self, prompt: Any, guidance_scale: float) -> dict[str, Any]:
        """Return the call arguments that the inversion method sets for its edits: none."""
        return {}


def build_bdia_step_coefficients(
    levels: NoiseLevels, gamma: float
) -> tuple[SamplerStepCoefficients, ...]:
    """Return the coefficients of the steps of BDIA's sampler: the first is DDIM's, each of the
    others computes the next latents from the last two.
    """
    first, *others = build_run_step_coefficients(levels)
    steps = [first]
    for level, down in enumerate(others, start=1):
        up = build_step_coefficients(levels, level, level - 1)
        steps.append(
            replace(
                down,
                clean=down.clean - gamma * up.clean,
                latents=down.latents - gamma * up.latents,
                previous=gamma,
            )
        )
    return tuple(steps)


class InverseBdiaScheduler(FixedTimestepsScheduler):
    """Scheduler that solves BDIA's steps for the older latents, from the picture to noise.

    latents : those found so far, the noisiest first
    """

    def __init__(
        self, like: Scheduler, steps: tuple[SamplerStepCoefficients, ...], latents: list[Tensor]
    ) -> None:
        self.steps = steps[:0:-1]
        super().__init__(like, [step.timestep for step in self.steps])
        self.step_order = range(len(steps) - 1, 0, -1)
        self.latents = list(latents)

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        *,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """Solve BDIA's step for the older latents: return the next noisier ones (1, C, H, W), in a
        tuple.
        """
        step = self.steps[self.index]
        own = apply_step_coefficients(step, model_output, sample)
        older_1CHW = ((to_at_least_float32(self.latents[1]) - own) / step.previous).to(sample.dtype)
        self.latents.insert(0, older_1CHW)
        self.index += 1
        return (older_1CHW,)
