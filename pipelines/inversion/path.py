"""Path of a picture's latents from noise to the picture, as an inversion method finds it.

C channels, H W latent size, T text tokens, D text width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pipelines.inversion.noise_levels import SamplerStepCoefficients
from t2i.conditioning.run_state import StepCallback
from t2i.errors import ArgumentError
from t2i.terminal import plural


@dataclass(frozen=True, slots=True)
class SourcePath:
    """Latents of a picture at each step of a run, and how the targets of an edit step beside it.

    steps : N, the sampler that the targets take
    latents : N + 1 tensors (1, C, H, W), the noisiest first; with `pinned` False only the first is
        used, and the source is what the model makes of it
    pinned : the source's row of each step is the path itself
    has_residuals : the targets are moved by what the path differs from the model's own step
    source_is_guided : False where the unconditional text is the source's own prompt, so that
        guidance does not change its prediction
    max_last_residual : largest norm of the last residual; a larger one is scaled down
    uncond_embeddings : unconditional text embedding of each step, (1, T, D), or None; they may be
        known only when the step is recorded
    step_callbacks : of the source's recorded run
    """

    steps: tuple[SamplerStepCoefficients, ...]
    latents: Sequence[Tensor]
    pinned: bool = True
    has_residuals: bool = False
    source_is_guided: bool = True
    max_last_residual: float | None = None
    uncond_embeddings: Sequence[Tensor] | None = None
    step_callbacks: Sequence[StepCallback] = ()

    def __post_init__(self) -> None:
        if len(self.latents) != len(self.steps) + 1:
            raise ArgumentError(
                f"Got {len(self.latents)} latents for {plural(len(self.steps), 'step')}, expected "
                "one more than steps."
            )
