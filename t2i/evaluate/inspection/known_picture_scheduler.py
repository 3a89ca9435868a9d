"""Scheduler of a known picture: the denoiser sees noised versions of it at given levels.

B batch rows, C channels, H W latent size, L levels of noise, Y X picture size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.text_to_image import TextToImagePipeline
from t2i.denoiser.families import sd
from t2i.errors import ModelError


class KnownPictureScheduler:
    """Scheduler that steps to the noised known picture, whatever the model predicts.

    Each denoiser pass is a first step from a real picture at that level of noise.
    """

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, config: Any, timesteps: Tensor, noised: Sequence[Tensor]) -> None:
        self.config, self.timesteps, self.noised = config, timesteps, noised
        self._turn = 0

    def set_timesteps(self, num_inference_steps: int, device: torch.device) -> None:
        """Restart at the first noise level; the number of steps must equal that of levels."""
        if num_inference_steps != len(self.timesteps):
            raise ValueError(f"there are {len(self.timesteps)} levels of noise")
        self.timesteps, self._turn = self.timesteps.to(device), 0

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Return the latents unchanged: they have the scale of the denoiser's input."""
        return sample

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, *, return_dict: bool
    ) -> Any:
        """Return the known picture's latents at the next noise level, not a prediction."""
        self._turn += 1
        return (self.noised[min(self._turn, len(self.noised) - 1)],)


def build_known_picture_scheduler(
    pipe: TextToImagePipeline,
    pixels: NDArray[np.uint8],
    levels: Sequence[float],
    generator: torch.Generator,
) -> KnownPictureScheduler:
    """Build the scheduler that shows the model a picture (Y, X, 3) at these noise levels.

    levels : fractions of the noise schedule, from 0 to 1; all share one noise
    """
    device = pipe._execution_device
    pixels_13YX = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        clean_1CHW = sd.encode_pixels(pipe.vae, pixels_13YX.to(device), generator)
    noise_1CHW = torch.randn(clean_1CHW.shape, generator=generator).to(clean_1CHW)

    timesteps_L, alpha_L, sigma_L = compute_timesteps_and_scales_at_levels(pipe.scheduler, levels)
    noised = [
        (alpha * clean_1CHW.float() + sigma * noise_1CHW.float()).to(clean_1CHW)
        for alpha, sigma in zip(alpha_L.tolist(), sigma_L.tolist(), strict=True)
    ]
    return KnownPictureScheduler(pipe.scheduler.config, timesteps_L, noised)


def compute_timesteps_and_scales_at_levels(
    scheduler: Any, levels: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the timesteps of noise levels, and the factors of picture and noise, (L,) each.

    levels : fractions of the noise schedule, from 0 to 1

    For flow matching the level is the factor of the noise itself. Raises ModelError for a
    scheduler without a schedule.
    """
    config = scheduler.config
    count = int(config["num_train_timesteps"])
    share_L = torch.tensor(levels, dtype=torch.float64)
    flow = config.get("prediction_type") == "flow_prediction"
    if flow or type(scheduler).__name__.startswith("FlowMatch"):
        return (share_L * count).float(), 1 - share_L, share_L
    alphas_cumprod: Tensor | None = getattr(scheduler, "alphas_cumprod", None)
    if alphas_cumprod is None:
        raise ModelError(
            f"A {type(scheduler).__name__} does not say how much noise a timestep means, so that "
            "real pictures cannot be shown to the model. Give the model a scheduler that does, "
            "such as a DDIMScheduler."
        )
    timesteps_L = (share_L * count).long().clamp(max=count - 1)
    alpha2_L = alphas_cumprod.double().cpu()[timesteps_L]
    return timesteps_L, alpha2_L.sqrt(), (1 - alpha2_L).sqrt()


def copy_pipeline_with_scheduler(
    pipe: TextToImagePipeline, scheduler: KnownPictureScheduler
) -> TextToImagePipeline:
    """Return a text-to-image pipeline with the same components and another scheduler."""
    zeros = pipe.config.get("force_zeros_for_empty_prompt", True)
    parts = pipe.components | {"scheduler": scheduler}
    along = TextToImagePipeline(**parts, force_zeros_for_empty_prompt=zeros)
    along.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]  # diffusers lacks types
    return along
