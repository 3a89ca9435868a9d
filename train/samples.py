"""Pictures drawn during a run, always the same prompts and seeds, so that two sheets compare."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from t2i.pictures import save_picture, sheet
from train.batch import Batch
from train.export import pipeline
from train.targets import Autoencoder, Denoiser, Target, encode


class SamplesConfig(BaseModel):
    """What is drawn, and how often."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(0, ge=0)
    """Steps between sheets; 0 draws none."""
    prompts: tuple[str, ...] = ()
    """A denoiser draws each; an autoencoder shows the first pictures of its data instead."""
    seed: int = Field(0, ge=0)
    """Of the first prompt; the next have seed + 1, seed + 2, ..."""
    steps: int = Field(20, ge=1)
    guidance_scale: float = Field(4.0, ge=0)
    columns: int = Field(6, ge=1)


def draw(target: Target, config: SamplesConfig, batch: Batch, path: Path) -> None:
    """Write a sheet of what the target makes now. Leaves modes and random state as they were."""
    training = target.training
    target.eval()
    try:
        if isinstance(target, Denoiser):
            pictures = from_prompts(target, config)
            labels = list(config.prompts)
        else:
            assert isinstance(target, Autoencoder)
            pictures = reconstructions(target, batch.pixels_BCHW)
            labels = [f"{name} (below: decoded)" for name in batch.names]
        save_picture(sheet(pictures, labels, config.columns), path)
    finally:
        target.train(training)


def from_prompts(target: Denoiser, config: SamplesConfig) -> list[Image.Image]:
    pipe = pipeline(target.components, target.objective.config)
    pipe.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]
    pictures: list[Image.Image] = []
    for start in range(0, len(config.prompts), 8):
        prompts = list(config.prompts[start : start + 8])
        seeds = [config.seed + start + i for i in range(len(prompts))]
        pictures += pipe(
            prompts,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            return_dict=False,
        )[0]
    return pictures


@torch.no_grad()
def reconstructions(target: Autoencoder, pixels_BCHW: Tensor) -> list[Image.Image]:
    """Each picture above what is decoded from its latents without noise."""
    vae = target.components.vae
    decoded_BCHW = vae.decode(encode(vae, pixels_BCHW), return_dict=False)[0]
    both = torch.cat([pixels_BCHW, decoded_BCHW.float()], dim=2).clamp(-1, 1)
    bytes_BHWC = ((both + 1) * 127.5).round().permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8)
    return [Image.fromarray(picture) for picture in bytes_BHWC]
