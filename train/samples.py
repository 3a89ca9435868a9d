"""Pictures drawn during a run, always the same prompts and seeds, so that two sheets compare."""

from typing import TYPE_CHECKING

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from pipelines.text_to_image import TextToImagePipeline

AT_ONCE = 8
"""Pictures in one batch of the sampler."""


class SamplesConfig(BaseModel):
    """What is drawn, and how often."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(0, ge=0)
    """Steps between sheets; 0 draws none."""
    prompts: tuple[str, ...] = ()
    """A denoiser draws each; an autoencoder shows the first pictures of its data instead."""
    seed: int = Field(0, ge=0)
    """Of the first prompt; the next have seed + 1, seed + 2, ..."""
    steps: int = Field(20, ge=1, le=1000)
    guidance_scale: float = Field(4.0, ge=0)
    columns: int = Field(6, ge=1)


def pictures_of(pixels_BCHW: torch.Tensor) -> list[Image.Image]:
    """Pixels (B, 3, H, W) from -1 to 1 as pictures."""
    bytes_BHWC = ((pixels_BCHW + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in bytes_BHWC]


def draw_prompts(pipe: "TextToImagePipeline", config: SamplesConfig) -> list[Image.Image]:
    """A picture of each prompt, at its own seed."""
    pipe.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]
    pictures: list[Image.Image] = []
    for start in range(0, len(config.prompts), AT_ONCE):
        prompts = config.prompts[start : start + AT_ONCE]
        seeds = [config.seed + start + number for number in range(len(prompts))]
        pictures += pipe(
            prompts,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            return_dict=False,
        )[0]
    return pictures
