"""The session, as the driver that announces denoiser passes calls it.

B batch rows, C channels, H W latent size.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from t2i.attention.denoiser_pass import DenoiserPass
from t2i.text.token_windows import EncoderInput

RunCondPass = Callable[[Tensor], object]
"""A denoiser pass of the branch "cond" alone at the current step, on latents (B, C, H, W)."""
RunWithText = Callable[[Callable[[Tensor], Tensor]], object]
"""A repetition of the denoiser's last pass with another text: what is given the text (B, T, D) of
that pass returns the one to run it with."""


class DrivenSession(Protocol):
    """Interface of a session to which a driver announces each denoiser pass and step."""

    @property
    def prompts_given_to_attend(self) -> tuple[EncoderInput, ...] | None:
        """Prompts that were given to attend(); None if there were none."""

    def begin_pass(
        self,
        denoiser_pass: DenoiserPass,
        prompts: Sequence[EncoderInput] | None,
        input_shapes: object,
        latent_size: tuple[int, int] | None,
    ) -> None:
        """Begin a denoiser pass of a run; new `input_shapes` let the sites be discovered again.

        denoiser_pass : step, branches and batch rows of the pass
        prompts : prompts_given_to_attend of the call; None if the driver does not know them
        input_shapes : any hashable value that differs where the inputs of the denoiser do
        latent_size : height and width of the latents; None if they are no picture
        """

    def end_pass(self) -> None:
        """End the denoiser pass of the session that `begin_pass` began."""

    def read_joint_concepts(self, run_with_text: RunWithText) -> None:
        """Let the session's probes read their concepts in a joint-attention denoiser, by
        repetitions of the pass that has ended.
        """

    def edit_latents_before_pass(
        self, latents_BCHW: Tensor, cond_pass: DenoiserPass, run_cond_pass: RunCondPass
    ) -> Tensor:
        """Let the session's edits act before a denoiser pass that the driver announces; return the
        latents (B, C, H, W) that the denoiser gets instead.
        """

    def edit_latents_after_step(self, latents_BCHW: Tensor) -> Tensor:
        """Let the session's edits act after a step that the driver announces; return the latents
        (B, C, H, W) that replace those of the step.
        """
