"""Null-text inversion: the method `null-text`.

B batch rows (here: 1 image), C channels, H W latent size, T text tokens, D text width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipelines.inversion.ddim import check_iterations, invert_ddim
from pipelines.inversion.inversion_run import InversionRunProtocol
from pipelines.inversion.noise_levels import SamplerStepCoefficients, build_run_step_coefficients
from pipelines.inversion.path import SourcePath
from pipelines.inversion.path_scheduler import apply_step_coefficients, to_at_least_float32
from t2i.conditioning.conditioning import Conditioning
from t2i.conditioning.guidance import check_finite_number
from t2i.conditioning.run_state import RunState, StepCallback
from t2i.errors import ArgumentError

UNCOND_BRANCH = "uncond"


@dataclass(frozen=True, slots=True)
class NullTextInversion:
    """Null-text inversion (Mokady et al. 2023, https://arxiv.org/abs/2211.09794, algorithm 1): DDIM
    inversion, then an optimised unconditional embedding for each step.

    For each step an unconditional embedding is optimised, with which the guided step from the
    replayed latents leads to the path of DDIM inversion.

    iterations : of the fixed point of DDIM inversion
    inner_steps : steps of Adam for each embedding
    learning_rate : of step i it is this times (1 - i / 100)
    """

    iterations: int = 4
    inner_steps: int = 10
    learning_rate: float = 1e-2

    def __post_init__(self) -> None:
        check_iterations(self.iterations)
        check_finite_number("learning_rate", self.learning_rate)
        if self.learning_rate <= 0:
            raise ArgumentError(
                f"Got learning_rate={self.learning_rate}, expected a number above 0."
            )
        if not isinstance(self.inner_steps, int) or not 1 <= self.inner_steps <= 1000:
            raise ArgumentError(
                f"Got inner_steps={self.inner_steps!r:.80}, expected a number from 1 to 1000."
            )

    def compute_source_latents_path(self, run: InversionRunProtocol) -> SourcePath:
        """Invert the picture by DDIM: return the path of its latents from noise to the picture.

        The source's run under guidance is recorded while an unconditional embedding is optimised
        for each step.
        """
        latents, steps = invert_ddim(run, self.iterations), build_run_step_coefficients(run.levels)
        optimisation = OptimiseUncondCallback(self, steps, latents)
        return SourcePath(
            steps,
            latents,
            pinned=False,
            uncond_embeddings=optimisation.embeddings,
            step_callbacks=[optimisation],
        )

    def build_guidance_arguments(self, prompt: Any, guidance_scale: float) -> dict[str, Any]:
        """Return no arguments: null-text sets none for its edits."""
        return {}


class OptimiseUncondCallback(StepCallback):
    """Step callback that optimises the unconditional embedding of each step before its pass.

    embeddings : (1, T, D), one per step so far
    """

    def __init__(
        self,
        method: NullTextInversion,
        steps: Sequence[SamplerStepCoefficients],
        path: Sequence[Tensor],
    ) -> None:
        self.method = method
        self.steps = steps
        self.path = path
        self.embeddings: list[Tensor] = []

    def before_pass(self, run: RunState) -> None:
        """Replace the unconditional embedding of this step by the optimised one.

        A step without guidance keeps its own.
        """
        if UNCOND_BRANCH not in run.pass_conditioning.branches:
            self.embeddings.append(run.conditioning.select_branches((UNCOND_BRANCH,)).text_BTD)
            return
        uncond_1TD = self.optimise_uncond_embedding(run)
        self.embeddings.append(uncond_1TD)
        run.conditioning = replace_branch_text_embedding(
            run.conditioning, UNCOND_BRANCH, uncond_1TD
        )

    def optimise_uncond_embedding(self, run: RunState) -> Tensor:
        """Return the unconditional embedding (1, T, D) with which this step ends closest to the
        path.
        """
        assert run.denoise is not None
        step, end_1CHW = self.steps[run.step], self.path[run.step + 1]
        uncond = run.conditioning.select_branches((UNCOND_BRANCH,))
        cond = run.conditioning.select_branches(("cond",))
        cond_1CHW: Tensor = run.denoise(run.latents_BCHW, cond)
        text_1TD = to_at_least_float32(uncond.text_BTD.detach()).clone().requires_grad_()
        rate = self.method.learning_rate * (1 - run.step / 100)
        adam = torch.optim.Adam([text_1TD], lr=max(rate, 0.0))
        for _ in range(self.method.inner_steps):
            with torch.enable_grad():
                given = replace(uncond, text_BTD=text_1TD.to(uncond.text_BTD.dtype))
                uncond_1CHW = run.denoise(run.latents_BCHW, given)
                guided = run.guidance.combine({UNCOND_BRANCH: uncond_1CHW, "cond": cond_1CHW}, run)
                moved = apply_step_coefficients(step, guided, run.latents_BCHW)
                loss = (moved - end_1CHW.to(moved)).square().mean()
                (text_1TD.grad,) = torch.autograd.grad(loss, [text_1TD])
            adam.step()
            if float(loss.detach()) < 1e-5 + run.step * 2e-5:
                break
        return text_1TD.detach().to(uncond.text_BTD.dtype)


class UncondScheduleCallback(StepCallback):
    """Step callback that sets the unconditional text embedding of each step to a given one.

    embedding_at : number of a step -> (1, T, D), for every image
    """

    def __init__(self, embedding_at: Callable[[int], Tensor]) -> None:
        self.embedding_at = embedding_at

    def before_pass(self, run: RunState) -> None:
        """Set the unconditional text embedding of this step, if the run has an unconditional
        branch.
        """
        if UNCOND_BRANCH in run.conditioning.branches:
            uncond_1TD = self.embedding_at(run.step)
            run.conditioning = replace_branch_text_embedding(
                run.conditioning, UNCOND_BRANCH, uncond_1TD
            )


def replace_branch_text_embedding(
    conditioning: Conditioning, branch: str, text_1TD: Tensor
) -> Conditioning:
    """Return the conditioning with one text embedding (1, T, D) for every row of a branch."""
    text_BTD = conditioning.text_BTD.clone()
    first = conditioning.branches.index(branch) * conditioning.num_images
    text_BTD[first : first + conditioning.num_images] = text_1TD.to(text_BTD)
    return replace(conditioning, text_BTD=text_BTD)
