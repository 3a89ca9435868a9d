"""From a run's configuration to the target that is trained, its parts fresh or trained before."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import PreTrainedModel

from t2i.denoiser.build import Components, ModelConfig, build
from t2i.denoiser.families.sd import VAE, default_size, pixels_per_latent
from t2i.denoiser.weights import Shapes, check_weights
from t2i.errors import ArgumentError, ModelError
from train.config import RunConfig
from train.randomness import key
from train.targets import Autoencoder, AutoencoderConfig, Denoiser, Target

Part = TypeVar("Part", VAE, UNet2DConditionModel, PreTrainedModel)


def assemble(config: RunConfig, model: ModelConfig) -> Target:
    """Build the model, take up the parts to start from, and make it the target of the run."""
    torch.manual_seed(key(config.seed, "weights"))
    parts = build(model)
    target, batch_size = config.target, config.train.batch_size
    if target.vae is not None:
        parts = replace(parts, vae=trained(parts.vae, target.vae, "vae"))
    if isinstance(target, AutoencoderConfig):
        check_picture_size(config, parts)
        check_crop(config.data.size, target.crop, pixels_per_latent(parts.vae))
        return Autoencoder(parts, target, config.seed, batch_size)
    if target.unet is not None:
        parts = replace(parts, unet=trained(parts.unet, target.unet, "unet"))
    if target.text_encoder is not None:
        text_encoder = trained(parts.text_encoder, target.text_encoder, "text_encoder")
        parts = replace(parts, text_encoder=text_encoder)
    check_picture_size(config, parts, default_size(parts.unet, parts.vae)[0])
    return Denoiser(parts, target, config.objective, config.seed, batch_size)


def trained(part: Part, folder: Path, key: str) -> Part:
    """The weights of `folder` in the shape of `part`. Raises ModelError where they do not fit."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"No trained weights in {folder} (target.{key}): train that part first; "
            "its run writes them when it is finished."
        )
    check_weights(folder, type(part).__name__, None)
    found: Part = type(part).from_pretrained(
        folder, torch_dtype=torch.float32, use_safetensors=True
    )
    here: Shapes = shapes(part)
    there: Shapes = shapes(found)
    differing = [name for name in {*here, *there} if here.get(name) != there.get(name)]
    if differing:
        name = min(differing)
        raise ModelError(
            f"The weights in {folder} (target.{key}) are not of the model's config: {name} is "
            f"{there.get(name, 'absent')}, expected {here.get(name, 'absent')}. "
            "Use the config they were trained with."
        )
    return found


def shapes(part: nn.Module) -> Shapes:
    return {name: tuple(weight.shape) for name, weight in part.state_dict().items()}


def check_crop(size: int, crop: int | None, factor: int) -> None:
    """Raise ArgumentError where crops cannot be cut from the pictures or read by the model."""
    if crop is not None and (crop > size or crop % factor):
        raise ArgumentError(
            f"target.crop = {crop}: expected a multiple of {factor}, the pixels of one latent, of "
            f"at most data.size = {size}."
        )


def check_picture_size(config: RunConfig, parts: Components, expected: int | None = None) -> None:
    """Raise ArgumentError where the data's pictures are not ones the model can read."""
    size, factor = config.data.size, pixels_per_latent(parts.vae)
    if size % factor:
        raise ArgumentError(
            f"data.size = {size} is not a multiple of {factor}, the pixels of one latent: choose "
            f"{size // factor * factor or factor} or {(size // factor + 1) * factor}."
        )
    if expected is not None and size != expected:
        raise ArgumentError(
            f"data.size = {size}, but the model draws {expected} x {expected} pixels: set "
            f"data.size = {expected}, or sample_size = {size // factor} in the model's [unet]."
        )
