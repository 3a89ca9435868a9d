"""The session, as the driver that announces denoiser passes calls it.

B batch rows, C channels, H W latent size.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from t2i.attention.denoiser_pass import DenoiserPass
from t2i.text.token_layout import EncoderInput

CondPass = Callable[[Tensor], object]
"""A denoiser pass of the branch "cond" alone at the current step, on latents (B, C, H, W)."""


class DrivenSession(Protocol):
    """Interface of a session to which a driver announces each denoiser pass and step."""

    @property
    def prompts(self) -> tuple[EncoderInput, ...] | None:
        """Return the prompts that attend() was given."""

    def begin_pass(
        self,
        denoiser_pass: DenoiserPass,
        prompts: Sequence[EncoderInput] | None,
        shape: object,
        latent_size: tuple[int, int] | None,
    ) -> None:
        """Begin a denoiser pass; if `shape`, which stands for all input sizes, is new, the
        attention sites are discovered again.
        """

    def end_pass(self) -> None:
        """End the denoiser pass."""

    def before_pass(
        self, latents_BCHW: Tensor, cond_pass: DenoiserPass, run_cond_pass: CondPass
    ) -> Tensor:
        """Return the latents (B, C, H, W) that replace the denoiser's input at this step."""

    def after_step(self, latents_BCHW: Tensor) -> Tensor:
        """Return the latents (B, C, H, W) that replace those after the step."""
