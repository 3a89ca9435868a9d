"""Building the target of a run from its configuration, from fresh or trained weights."""

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
from t2i.adapters.peft_reading import iter_peft_layers
from t2i.denoiser.build import ModelComponents, NewModelConfig, build_fresh_components
from t2i.denoiser.families.sd import VAE, default_height_and_width, pixels_per_latent
from t2i.denoiser.finite_checks import check_weights_finite
from t2i.denoiser.loading.weight_checks import Shapes, check_weights_and_build_meta_model
from t2i.errors import ArgumentError, ModelError
from t2i.randomness import derive_seed
from t2i.scenes.recogniser import PATCH_SIDE_PIXELS
from t2i.scenes.recogniser_data import RecogniserDataset, RecogniserDatasetConfig
from train.cache.encoders import CacheEncoders
from train.config.run_config import RunConfig
from train.objective.base_model_objective import resolve_objective_config
from train.objective.objective import ObjectiveConfig
from train.parallel.fsdp import copy_into_sharded, gather_tensors, is_module_sharded
from train.parallel.processes import run_on_main_and_raise_on_all
from train.setup.control_networks import build_control_network
from train.targets.autoencoder import AutoencoderTarget, AutoencoderTargetConfig
from train.targets.caption_matcher import CaptionMatcherTarget, CaptionMatcherTargetConfig
from train.targets.control_network import (
    ControlNetTarget,
    ControlNetTargetConfig,
    ControlTarget,
    ControlTargetConfig,
    T2IAdapterTarget,
)
from train.targets.denoiser import ScratchDenoiserTarget, ScratchDenoiserTargetConfig
from train.targets.denoising import BaseDenoisingTarget
from train.targets.distillation import DistilledFineTuneTarget
from train.targets.finetune import (
    FineTuneTarget,
    FineTuneTargetConfig,
)
from train.targets.recogniser import RecogniserTarget, RecogniserTargetConfig
from train.targets.target import TrainingTarget

Part = TypeVar("Part", VAE, UNet2DConditionModel, PreTrainedModel)


FROZEN_DTYPE_BY_PRECISION = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision of a run -> type of the weights that are not trained."""
ModelIdentity = dict[str, Any]
"""JSON data on the model of a run, by which a resume recognises it."""


def assemble_target(
    config: RunConfig, encoders: CacheEncoders | None = None
) -> tuple[TrainingTarget, ModelIdentity]:
    """Build the training target of a run: the model to train, with fresh or loaded weights.

    encoders : those of a fine-tune, where they are loaded already
    """
    torch.manual_seed(derive_seed(config.seed, "weights"))
    if isinstance(config.target, CaptionMatcherTargetConfig):
        return CaptionMatcherTarget(config.target, config.seed, config.train.batch_size), {}
    if isinstance(config.target, RecogniserTargetConfig):
        assert isinstance(config.data, RecogniserDatasetConfig)
        labels, size = RecogniserDataset(config.data).labels, config.data.size
        check_recogniser_size_and_channels(size, config.target.channels)
        target = RecogniserTarget(labels, size, config.target, config.seed, config.train.batch_size)
        return target, {}
    if isinstance(config.target, FineTuneTargetConfig):
        return build_fine_tune_target(config.target, config, encoders)
    if isinstance(config.target, ControlTargetConfig):
        return build_control_target(config.target, config, encoders)
    assert config.model is not None
    model = NewModelConfig.load_toml(config.model)
    parts = replace_parts_by_trained_ones(build_fresh_components(model), config)
    return build_scratch_target(parts, config), build_scratch_model_identity(model, parts)


def gather_unsharded_target(
    target: TrainingTarget, config: RunConfig, accelerator: Accelerator
) -> TrainingTarget:
    """Return the target; where FSDP shards it, return on the main process a copy with whole
    weights.

    All processes must call this together.
    """
    if not is_module_sharded(target):
        return target
    weights = gather_tensors(
        target.collect_trained_parameters_by_name(), main=accelerator.is_main_process
    )
    found = [target]

    def build_whole() -> None:
        found[0], _ = assemble_target(config)
        for name, weight in found[0].collect_trained_parameters_by_name().items():
            copy_into_sharded(weight, weights[name])
        found[0].to(accelerator.device)

    run_on_main_and_raise_on_all(accelerator, build_whole)
    return found[0]


def build_fine_tune_target(
    target: FineTuneTargetConfig, config: RunConfig, encoders: CacheEncoders | None
) -> tuple[FineTuneTarget, ModelIdentity]:
    """Build the target that fine-tunes a base model; frozen weights get the precision of the
    run.
    """
    given = {} if encoders is None else encoders.given
    pipe = TextToImagePipeline.from_pretrained(target.base, **given)
    check_base_has_no_lora(pipe.components, target.base)
    objective = resolve_objective_config(config.objective, pipe.scheduler)
    kind = DistilledFineTuneTarget if target.consistency_steps else FineTuneTarget
    built = kind(pipe, target, objective, config.seed, config.train.batch_size)
    facts = cast_base_and_build_identity(built, objective, config, encoders)
    return built, facts | {"reference": built.compute_reference_digest()}


def build_control_target(
    target: ControlTargetConfig, config: RunConfig, encoders: CacheEncoders | None
) -> tuple[ControlTarget, ModelIdentity]:
    """Build the target that trains a control beside a base model, whose weights get the precision
    of the run.
    """
    given = {} if encoders is None else encoders.given
    pipe = TextToImagePipeline.from_pretrained(target.base, **given)
    check_base_has_no_lora(pipe.components, target.base)
    objective = resolve_objective_config(config.objective, pipe.scheduler)
    network = build_control_network(target, pipe, config)
    kind = ControlNetTarget if isinstance(target, ControlNetTargetConfig) else T2IAdapterTarget
    built = kind(pipe, network, target, objective, config.seed, config.train.batch_size)
    facts = cast_base_and_build_identity(built, objective, config, encoders)
    return built, facts | {"network": digest_weight_shapes(network)}


def cast_base_and_build_identity(
    built: BaseDenoisingTarget,
    objective: ObjectiveConfig,
    config: RunConfig,
    encoders: CacheEncoders | None,
) -> ModelIdentity:
    """Cast the frozen weights of a base model to the precision of the run, hand the target the
    encoders of the cache, and return what identifies the base model.
    """
    cast_frozen_weights(built, FROZEN_DTYPE_BY_PRECISION[config.train.precision])
    facts = {
        "unet": digest_weight_shapes(built.components.unet),
        "vocabulary": digest_vocabulary(built.components),
        "objective": objective.model_dump(mode="json"),
    }
    if encoders is not None:
        built.cache = encoders
        facts["cached"] = encoders.facts
    return facts


def check_base_has_no_lora(parts: Mapping[str, Any], base: str) -> None:
    """Raise ModelError for a base model with a LoRA attached, which an export would lose."""
    for name, part in parts.items():
        if isinstance(part, nn.Module) and any(iter_peft_layers(part)):
            raise ModelError(
                f"The base {base} has a LoRA on its {name}. Load it with t2i.load, merge that with "
                "pipe.fuse_lora() and pipe.unload_lora_weights(), save it, and train on that."
            )


def replace_parts_by_trained_ones(parts: ModelComponents, config: RunConfig) -> ModelComponents:
    """Replace the fresh weights of VAE, UNet or text encoder by trained ones, where the target's
    configuration names their folders.
    """
    target = config.target
    for name in ("vae", "unet", "text_encoder"):
        if (folder := getattr(target, name, None)) is not None:
            parts = replace(
                parts, **{name: load_component_from_folder(getattr(parts, name), folder, name)}
            )
    return parts


def build_scratch_target(parts: ModelComponents, config: RunConfig) -> TrainingTarget:
    """Build the target that trains parts of a model from scratch."""
    target, batch_size = config.target, config.train.batch_size
    if isinstance(target, AutoencoderTargetConfig):
        check_picture_size(config.data.size, parts)
        check_crop_size(config.data.size, target.crop, pixels_per_latent(parts.vae))
        return AutoencoderTarget(parts, target, config.seed, batch_size)
    assert isinstance(target, ScratchDenoiserTargetConfig)
    check_picture_size(config.data.size, parts, default_height_and_width(parts.unet, parts.vae)[0])
    return ScratchDenoiserTarget(parts, target, config.objective, config.seed, batch_size)


def build_scratch_model_identity(model: NewModelConfig, parts: ModelComponents) -> ModelIdentity:
    """Return the data that identifies a model trained from scratch; it must be the same when the
    run is resumed.
    """
    return {
        **model.model_dump(mode="json", exclude={"tokenizer": {"folder"}}),
        "scaling": parts.vae.config["scaling_factor"],
        "vocabulary": digest_vocabulary(parts),
    }


def digest_vocabulary(parts: ModelComponents) -> str:
    """Return the SHA-256 of a tokenizer's vocabulary."""
    words = json.dumps(parts.tokenizer.get_vocab(), sort_keys=True).encode()
    return hashlib.sha256(words).hexdigest()


def digest_weight_shapes(part: nn.Module) -> str:
    """Return the SHA-256 of the names and shapes of a model's weights."""
    named = sorted((name, list(shape)) for name, shape in map_weight_shapes(part).items())
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def load_component_from_folder(part: Part, folder: Path, key: str) -> Part:
    """Load one component of a model, such as its autoencoder, with trained weights, from the folder
    of an earlier training run or model.

    Raises ModelError unless its shapes are those of `part`.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"No trained weights in {folder} (target.{key}): train that part first; "
            "its run writes them when it is finished."
        )
    check_weights_and_build_meta_model(folder, type(part).__name__, None)
    found: Part = type(part).from_pretrained(
        folder, torch_dtype=torch.float32, use_safetensors=True
    )
    check_weights_finite(str(folder), found)
    here: Shapes = map_weight_shapes(part)
    there: Shapes = map_weight_shapes(found)
    differing = [name for name in {*here, *there} if here.get(name) != there.get(name)]
    if differing:
        name = min(differing)
        raise ModelError(
            f"The weights in {folder} (target.{key}) are not of the model's config: {name} is "
            f"{there.get(name, 'absent')}, expected {here.get(name, 'absent')}. "
            "Use the config they were trained with."
        )
    return found


def map_weight_shapes(part: nn.Module) -> Shapes:
    """Map the names of a model's weights to their tensor shapes."""
    return {name: tuple(weight.shape) for name, weight in part.state_dict().items()}


def check_recogniser_size_and_channels(size: int, channels: Sequence[int]) -> None:
    """Raise ArgumentError where the recogniser cannot halve the picture at each of its levels."""
    step = PATCH_SIDE_PIXELS * 2 ** (len(channels) - 1)
    if size % step or any(channel % 8 for channel in channels):
        raise ArgumentError(
            f"target.channels = {list(channels)} and data.size = {size}: expected multiples of 8, "
            f"and for so many levels a size that is a multiple of {step}."
        )


def check_crop_size(size: int, crop: int | None, factor: int) -> None:
    """Raise ArgumentError for crops that exceed the pictures or do not fit the latents."""
    if crop is not None and (crop > size or crop % factor):
        raise ArgumentError(
            f"target.crop = {crop}: expected a multiple of {factor}, the pixels of one latent, of "
            f"at most data.size = {size}."
        )


def check_picture_size(size: int, parts: ModelComponents, expected: int | None = None) -> None:
    """Raise ArgumentError where a model cannot read pictures of this size.

    expected : the only size that is allowed, if any
    """
    factor = pixels_per_latent(parts.vae)
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


def cast_frozen_weights(target: BaseDenoisingTarget, kind: torch.dtype) -> None:
    """Cast the frozen weights to the dtype of the computation, to save memory."""
    precise = target.vae.config.get("force_upcast", False)
    kept = {id(weight) for weight in target.vae.parameters() if precise}
    for weight in target.parameters():
        if not weight.requires_grad and id(weight) not in kept:
            weight.data = weight.data.to(kind)
