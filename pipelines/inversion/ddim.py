"""DDIM inversion by fixed-point iteration: the methods `ddim`, `direct` and `negative-prompt`.

B batch rows (here: 1 image), C channels, H W latent size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipelines.inversion.inversion_run import InversionRunProtocol
from pipelines.inversion.noise_levels import (
    NoiseLevels,
    SamplerStepCoefficients,
    build_run_step_coefficients,
)
from pipelines.inversion.path import SourcePath
from pipelines.inversion.path_scheduler import FixedTimestepsScheduler, to_at_least_float32
from t2i.conditioning.guidance import ClassifierFree
from t2i.conditioning.proximal_guidance import Proximal
from t2i.denoiser.schedulers import Scheduler
from t2i.errors import ArgumentError

OSCILLATION_RATIO = 0.85
"""Share of the move before from which on a move in the opposite direction is damped."""


@dataclass(frozen=True, slots=True)
class DdimInversion:
    """DDIM inversion (Song et al. 2020, https://arxiv.org/abs/2010.02502): targets and source are
    drawn from the noise that the picture came from.

    The source is what the model draws from that noise, which is not exactly the picture.

    iterations : of the fixed point of each step, as AIDI (Pan et al. 2023,
        https://arxiv.org/abs/2309.04907); 1 asks the model at the latents of the step before, as
        published first
    """

    iterations: int = 4

    def __post_init__(self) -> None:
        check_iterations(self.iterations)

    def compute_source_latents_path(self, run: InversionRunProtocol) -> SourcePath:
        """Invert the picture by DDIM: return the path of its latents from noise to the picture.

        Source and targets take its first latents alone.
        """
        latents = invert_ddim(run, self.iterations)
        return SourcePath(build_run_step_coefficients(run.levels), latents, pinned=False)

    def build_guidance_arguments(self, prompt: Any, guidance_scale: float) -> dict[str, Any]:
        """Return the call arguments that the inversion method sets for its edits: none."""
        return {}


@dataclass(frozen=True, slots=True)
class DirectInversion(DdimInversion):
    """Direct inversion (Ju et al. 2023, https://arxiv.org/abs/2310.01506): as `DdimInversion`, and
    the source's row of each step is the path itself.
    """

    def compute_source_latents_path(self, run: InversionRunProtocol) -> SourcePath:
        """Invert the picture by DDIM: return the path of its latents from noise to the picture, to
        which the source is pinned.
        """
        return SourcePath(
            build_run_step_coefficients(run.levels), invert_ddim(run, self.iterations)
        )


@dataclass(frozen=True, slots=True)
class NegativePromptInversion(DirectInversion):
    """Negative-prompt inversion (Miyake et al. 2023, https://arxiv.org/abs/2305.16807): the
    source's prompt takes the place of the negative prompt.

    prox : "l0" or "l1" for proximal guidance (Han et al. 2023, https://arxiv.org/abs/2306.05414),
        which drops the smallest differences of the two predictions, or "none"
    quantile : share of the values that is dropped
    """

    prox: str = "none"
    quantile: float = 0.7

    def __post_init__(self) -> None:
        check_iterations(self.iterations)
        if self.prox not in ("none", "l0", "l1"):
            raise ArgumentError(f"Got prox={self.prox!r:.80}, expected none, l0 or l1.")
        Proximal(1.0, quantile=self.quantile, norm="l0" if self.prox == "none" else self.prox)

    def compute_source_latents_path(self, run: InversionRunProtocol) -> SourcePath:
        """Invert the picture by DDIM: return the path of its latents from noise to the picture, to
        which the source is pinned.

        Guidance between equal texts does not change the source.
        """
        steps, latents = build_run_step_coefficients(run.levels), invert_ddim(run, self.iterations)
        return SourcePath(steps, latents, source_is_guided=False)

    def build_guidance_arguments(self, prompt: Any, guidance_scale: float) -> dict[str, Any]:
        """Return the call arguments that the inversion method sets for its edits: the source's
        prompt as negative prompt, and the guidance, proximal if wanted.
        """
        guidance = (
            ClassifierFree(guidance_scale)
            if self.prox == "none"
            else Proximal(guidance_scale, quantile=self.quantile, norm=self.prox)
        )
        return {"negative_prompt": prompt, "guidance": guidance}


def invert_ddim(run: InversionRunProtocol, iterations: int) -> list[Tensor]:
    """Return the latents of each level, the noisiest first, by DDIM inversion without guidance."""
    inverse = InverseDdimScheduler(run.pipeline_scheduler, run.levels, run.clean_1CHW, iterations)
    run.sample_latents(inverse, run.clean_1CHW, guided=False)
    return inverse.latents


class InverseDdimScheduler(FixedTimestepsScheduler):
    """Scheduler that steps from the picture to noise: the inverse of a DDIM step at each level.

    x' = A D(x) + B x is solved for x, the noisier latents, by fixed-point iteration from x'; the
    denoiser is always told the noisier timestep. For a prediction p with D = f x + g p:
    x = (x' - A g p) / (A f + B), where A f + B is cos(dphi) for v-prediction and a' / a for
    epsilon; where the model predicts the sample, f and g are those of its v. At long steps the
    iterates oscillate about the fixed point: as soon as one moves further than the one before it,
    or nearly as far back (OSCILLATION_RATIO), it and all later ones of its level go half of the
    way, and again half of it the next time.

    latents : those found so far, the noisiest first
    """

    def __init__(
        self,
        like: Scheduler,
        levels: NoiseLevels,
        clean_1CHW: Tensor,
        iterations: int,
        levels_to_invert: int | None = None,
    ) -> None:
        count = levels.num_steps
        first = 0 if levels_to_invert is None else count - levels_to_invert
        numbers = [level for level in reversed(range(first, count)) for _ in range(iterations)]
        super().__init__(like, [levels.timesteps[level] for level in numbers])
        self.numbers = self.step_order = numbers
        self.iterations = iterations
        self.levels = levels
        self.steps = build_run_step_coefficients(levels)
        self.latents = [clean_1CHW]
        self.last_move_1CHW: Tensor | None = None
        self.relaxation = 1.0

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        *,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """Return the next fixed-point iterate of the noisier latents (1, C, H, W), in a tuple."""
        level = self.numbers[self.index]
        if self.index % self.iterations == 0:
            self.last_move_1CHW, self.relaxation = None, 1.0
        iterate_BCHW = to_at_least_float32(sample)
        noisier_BCHW = compute_fixed_point_iterate(
            self.steps[level], self.levels, level, model_output, iterate_BCHW, self.latents[0]
        )
        move_1CHW = noisier_BCHW - iterate_BCHW
        if self.last_move_1CHW is not None and is_oscillating(move_1CHW, self.last_move_1CHW):
            self.relaxation /= 2
        if self.relaxation < 1:
            noisier_BCHW = torch.lerp(iterate_BCHW, noisier_BCHW, self.relaxation)
        self.last_move_1CHW = move_1CHW
        noisier_BCHW = noisier_BCHW.to(sample.dtype)
        self.index += 1
        if self.index % self.iterations == 0:
            self.latents.insert(0, noisier_BCHW)
        return (noisier_BCHW,)


def is_oscillating(move_1CHW: Tensor, last_1CHW: Tensor) -> bool:
    """Return True if a fixed-point iteration diverges or oscillates: its update is larger than the
    last one, or goes back nearly as far.
    """
    share = float(move_1CHW.norm()) / max(float(last_1CHW.norm()), 1e-30)
    return share > 1 or (share > OSCILLATION_RATIO and float((move_1CHW * last_1CHW).sum()) < 0)


def compute_fixed_point_iterate(
    step: SamplerStepCoefficients,
    levels: NoiseLevels,
    level: int,
    prediction_BCHW: Tensor,
    iterate_BCHW: Tensor,
    cleaner_BCHW: Tensor,
) -> Tensor:
    """Invert a sampler step x' = A D + B x by one fixed-point iteration: return the next iterate of
    the noisier latents x, from which the step leads to the cleaner latents x'.

    D = f x + g p is the denoised picture, and p the denoiser's prediction at an iterate of x.
    """
    f, g = step.denoised
    prediction = to_at_least_float32(prediction_BCHW)
    if (f, g) == (0, 1):  # the model predicts the sample: by its v, which determines x everywhere
        a, s = levels.signal[level], levels.noise[level]
        prediction = (a * to_at_least_float32(iterate_BCHW) - prediction) / s
        f, g = a, -s
    divisor = step.clean * f + step.latents
    if abs(divisor) < 1e-6:
        raise ArgumentError(
            "One step from the picture to pure noise cannot be inverted: give at least 2 steps."
        )
    return (to_at_least_float32(cleaner_BCHW) - step.clean * g * prediction) / divisor


def check_iterations(iterations: object) -> None:
    """Raise ArgumentError unless the value is a valid number of fixed-point iterations of an
    inversion step.
    """
    whole = isinstance(iterations, int) and not isinstance(iterations, bool)
    if not whole or not 1 <= iterations <= 100:  # type: ignore[operator]  # checked before
        raise ArgumentError(f"Got iterations={iterations!r:.80}, expected a number from 1 to 100.")


def sample_noise_like_picture(run: InversionRunProtocol) -> Tensor:
    """Return random noise (1, C, H, W) of the shape of the picture's latents, from the run's
    generator.
    """
    clean = run.clean_1CHW
    noise = torch.randn(
        clean.shape,
        generator=run.generator,
        device=run.generator.device,
        dtype=to_at_least_float32(clean).dtype,
    )
    return noise.to(clean.device)
