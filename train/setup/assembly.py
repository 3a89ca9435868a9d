"""From a run's configuration to the target that is trained, its parts fresh or trained before."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import PreTrainedModel

from pipelines.text_to_image import TextToImagePipeline
from t2i.adapters.peft_layers import iter_adapter_layers
from t2i.denoiser.build import Components, ModelConfig, build
from t2i.denoiser.families.sd import VAE, default_size, pixels_per_latent
from t2i.denoiser.finite_checks import check_weights_finite
from t2i.denoiser.loading.weight_checks import Shapes, check_weights
from t2i.errors import ArgumentError, ModelError
from t2i.randomness import derive_seed
from t2i.scenes.recogniser import PATCH_SIDE
from t2i.scenes.recogniser_data import Compositions, CompositionsConfig
from train.cache.encoders import Encoders
from train.config.run_config import RunConfig
from train.parallel.fsdp import fill, gathered, is_split
from train.parallel.processes import on_main
from train.targets.autoencoder import AutoencoderConfig, AutoencoderTarget
from train.targets.caption_matcher import AgreementConfig, AgreementTarget
from train.targets.denoiser import DenoiserConfig, DenoiserTarget
from train.targets.finetune import (
    FineTuneConfig,
    FineTuneTarget,
    cast_frozen_weights,
    resolve_objective,
)
from train.targets.recogniser import RecogniserConfig, RecogniserTarget
from train.targets.target import Target

Part = TypeVar("Part", VAE, UNet2DConditionModel, PreTrainedModel)


STORED = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What frozen weights are held in, by the precision of the run."""
Facts = dict[str, Any]
"""JSON data that tells one run from another beside its configuration: the model it is of."""


def assemble(config: RunConfig, encoders: Encoders | None = None) -> tuple[Target, Facts]:
    """Build the model, take up the parts to start from, and make it the target of the run.

    encoders : of a fine-tune, where they are loaded already
    """
    torch.manual_seed(derive_seed(config.seed, "weights"))
    if isinstance(config.target, AgreementConfig):
        return AgreementTarget(config.target, config.seed, config.train.batch_size), {}
    if isinstance(config.target, RecogniserConfig):
        assert isinstance(config.data, CompositionsConfig)
        labels, size = Compositions(config.data).labels, config.data.size
        check_places(size, config.target.channels)
        target = RecogniserTarget(labels, size, config.target, config.seed, config.train.batch_size)
        return target, {}
    if isinstance(config.target, FineTuneConfig):
        return fine_tune(config.target, config, encoders)
    assert config.model is not None
    model = ModelConfig.load(config.model)
    parts = with_trained(build(model), config)
    return target_of(parts, config), facts_of(model, parts)


def put_together(target: Target, config: RunConfig, accelerator: Accelerator) -> Target:
    """The target; where it is split, on the main process one of its own with the whole weights.

    All processes ask for it.
    """
    if not is_split(target):
        return target
    weights = gathered(target.weights(), main=accelerator.is_main_process)
    found = [target]

    def build_whole() -> None:
        found[0], _ = assemble(config)
        for name, weight in found[0].weights().items():
            fill(weight, weights[name])
        found[0].to(accelerator.device)

    on_main(accelerator, build_whole)
    return found[0]


def fine_tune(
    target: FineTuneConfig, config: RunConfig, encoders: Encoders | None
) -> tuple[FineTuneTarget, Facts]:
    """The base model with what is trained of it; the rest is held in the precision of the run."""
    given = {} if encoders is None else encoders.given
    pipe = TextToImagePipeline.from_pretrained(target.base, **given)
    check_plain(pipe.components, target.base)
    objective = resolve_objective(config.objective, pipe.scheduler)
    built = FineTuneTarget(pipe, target, objective, config.seed, config.train.batch_size)
    cast_frozen_weights(built, STORED[config.train.precision])
    facts = {
        "unet": shapes_digest(built.components.unet),
        "vocabulary": vocabulary_digest(built.components),
        "objective": objective.model_dump(mode="json"),
    }
    if encoders is not None:
        built.cache = encoders
        facts["cached"] = encoders.facts
    return built, facts


def check_plain(parts: Mapping[str, Any], base: str) -> None:
    """Raise ModelError for a LoRA that came with the base: what is written would lose it."""
    for name, part in parts.items():
        if isinstance(part, nn.Module) and any(iter_adapter_layers(part)):
            raise ModelError(
                f"The base {base} has a LoRA on its {name}. Load it with t2i.load, merge that with "
                "pipe.fuse_lora() and pipe.unload_lora_weights(), save it, and train on that."
            )


def with_trained(parts: Components, config: RunConfig) -> Components:
    """The parts, those that the target names taken from the folders where they lie."""
    target = config.target
    for name in ("vae", "unet", "text_encoder"):
        if (folder := getattr(target, name, None)) is not None:
            parts = replace(parts, **{name: trained(getattr(parts, name), folder, name)})
    return parts


def target_of(parts: Components, config: RunConfig) -> Target:
    target, batch_size = config.target, config.train.batch_size
    if isinstance(target, AutoencoderConfig):
        check_picture_size(config, parts)
        check_crop(config.data.size, target.crop, pixels_per_latent(parts.vae))
        return AutoencoderTarget(parts, target, config.seed, batch_size)
    assert isinstance(target, DenoiserConfig)
    check_picture_size(config, parts, default_size(parts.unet, parts.vae)[0])
    return DenoiserTarget(parts, target, config.objective, config.seed, batch_size)


def facts_of(model: ModelConfig, parts: Components) -> Facts:
    return {
        **model.model_dump(mode="json", exclude={"tokenizer": {"folder"}}),
        "scaling": parts.vae.config["scaling_factor"],
        "vocabulary": vocabulary_digest(parts),
    }


def vocabulary_digest(parts: Components) -> str:
    words = json.dumps(parts.tokenizer.get_vocab(), sort_keys=True).encode()
    return hashlib.sha256(words).hexdigest()


def shapes_digest(part: nn.Module) -> str:
    told = sorted((name, list(shape)) for name, shape in shapes(part).items())
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


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
    check_weights_finite(str(folder), found)
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


def check_places(size: int, channels: Sequence[int]) -> None:
    """Raise ArgumentError where the recogniser's levels cannot halve the picture."""
    step = PATCH_SIDE * 2 ** (len(channels) - 1)
    if size % step or any(channel % 8 for channel in channels):
        raise ArgumentError(
            f"target.channels = {list(channels)} and data.size = {size}: expected multiples of 8, "
            f"and for so many levels a size that is a multiple of {step}."
        )


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
