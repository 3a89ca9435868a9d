"""Protocols of an inversion method, and of the run of the source that it is given.

C channels, H W latent size.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from pipelines.inversion.noise_levels import NoiseLevels
from pipelines.inversion.path import SourcePath
from t2i.denoiser.schedulers import Scheduler


class InversionRunProtocol(Protocol):
    """Interface by which an inversion method runs the model with the source's prompt: noise
    levels, the picture's latents, and the sampling loop.
    """

    @property
    def levels(self) -> NoiseLevels:
        """Noise levels of the run in which the picture is inverted."""

    @property
    def clean_1CHW(self) -> Tensor:
        """Latents of the picture to invert, without noise, (1, C, H, W)."""

    @property
    def generator(self) -> torch.Generator:
        """Generator of the random noise that an inversion method draws."""

    @property
    def pipeline_scheduler(self) -> Scheduler:
        """Scheduler of the pipeline, whose config describes the model's noise."""

    def sample_latents(
        self,
        scheduler: Any,
        latents_1CHW: Tensor,
        *,
        guided: bool,
    ) -> Tensor:
        """Run the sampling loop with this scheduler from these latents; return the latents after
        its last step, (1, C, H, W).

        guided : with the guidance of the edits; else the conditional prediction alone
        """


class InversionMethod(Protocol):
    """Interface of an inversion method, such as DDIM inversion; the fields of its implementations
    are the arguments that a user may give.
    """

    def compute_source_latents_path(self, run: InversionRunProtocol) -> SourcePath:
        """Invert the picture: return the path of its latents from noise to the picture, and how an
        edit's targets step beside it.
        """

    def build_guidance_arguments(self, prompt: Any, guidance_scale: float) -> dict[str, Any]:
        """Return the call arguments that the inversion method sets for its edits, such as the
        negative prompt; they hold for the source and all targets.

        prompt, guidance_scale : of the source
        """
