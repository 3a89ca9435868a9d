"""Models built from their config alone on the meta device, within a limit of modules."""

import contextlib
import inspect
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from diffusers.models.adapter import T2IAdapter
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel
from diffusers.models.transformers.prior_transformer import PriorTransformer
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    GPT2Config,
    GPT2Model,
    PretrainedConfig,
    T5Config,
    T5EncoderModel,
)

from t2i.denoiser.loading.config_values import check_config_values
from t2i.errors import ModelError, format_library_error

Config = Mapping[str, Any]

MAX_MODULES = 6000
"""Three times what the UNet of SDXL is made of."""
META_MODEL_CACHE: dict[str, nn.Module] = {}
"""Skeletons made in this process, by class and config as JSON: one run opens its model several
times, and one of SDXL's size takes a second to make."""
MAX_CACHED_META_MODELS = 12


def build_meta_model(class_name: str, config: Config) -> nn.Module:
    """Build a model without weights, on the meta device, from its config; the result is cached and
    must not be changed.

    Raises ModelError for an invalid config or more than MAX_MODULES modules; the message continues
    the name of the file.
    """
    check_config_values(CONFIG_SIGNATURES[class_name], config)
    check_model_type(CONFIG_SIGNATURES[class_name], config)
    check_end_token_is_integer(CONFIG_SIGNATURES[class_name], config)
    if config.get("quantization_config") is not None:
        raise ModelError(
            "describes quantized weights (quantization_config): get the model in half or full "
            "precision."
        )
    try:
        described = json.dumps([class_name, dict(config)], sort_keys=True, default=repr)
        if (cached := META_MODEL_CACHE.get(described)) is not None:
            return cached
        with torch.device("meta"), limiting_module_count():
            made = BUILDERS[class_name](config).eval()
    except Exception as error:  # A wrong config makes constructors fail in any way.
        raise ModelError(
            f"does not describe a {class_name}: {format_library_error(error)}"
        ) from error
    if len(META_MODEL_CACHE) >= MAX_CACHED_META_MODELS:
        META_MODEL_CACHE.clear()
    META_MODEL_CACHE[described] = made
    return made


def check_model_type(kind: Any, config: Config) -> None:
    """Raise ModelError for a transformers config whose model_type is not that of the config class
    which is to read it.
    """
    own = getattr(kind, "model_type", None)
    named = config.get("model_type", own)
    if named != own and not (own == "t5" and named in ("mt5", "umt5")):
        raise ModelError(f"has model_type = {named!r:.80}, expected {own!r}.")


def check_end_token_is_integer(kind: Any, config: Config) -> None:
    """Raise ModelError for a CLIP config whose eos_token_id is not an integer.

    CLIP pools at that token; transformers accepts any JSON value there.
    """
    end = config.get("eos_token_id", 0)
    if kind is CLIPTextConfig and type(end) is not int:
        raise ModelError(
            f"has eos_token_id = {end!r:.80}, expected a whole number, that of the token which "
            "ends a prompt: correct it, or copy the file from the model again."
        )


@contextlib.contextmanager
def limiting_module_count() -> Iterator[None]:
    """Allow this thread at most MAX_MODULES new torch modules within the block, as a config with
    huge numbers could ask for any number.

    They are counted while they are made: no list of keys names every number that a
    constructor loops over.
    """
    here = threading.get_ident()
    made = 0

    def count(module: nn.Module, name: str, part: nn.Module) -> None:
        nonlocal made
        made += threading.get_ident() == here
        if made > MAX_MODULES:
            raise ValueError(f"it would have more than {MAX_MODULES} modules")

    handle = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def list_duplicate_tied_names(model: nn.Module) -> set[str]:
    """Return the duplicate names of tied weights: all but the first name of each parameter that
    several modules share.
    """
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return names - {name for name, _ in model.named_parameters()}


def make_diffusers_builder(kind: Callable[..., nn.Module]) -> Callable[[Config], nn.Module]:
    """Return a function that builds a diffusers model from its config: the keys that are parameters
    of the class become its arguments.
    """
    known = inspect.signature(kind).parameters
    return lambda config: kind(**{key: value for key, value in config.items() if key in known})


def make_transformers_builder(
    kind: Callable[[Any], nn.Module], config_kind: type[PretrainedConfig]
) -> Callable[[Config], nn.Module]:
    """Return a function that builds a transformers model from its config."""
    return lambda config: kind(config_kind.from_dict(dict(config)))


CONFIG_SIGNATURES: dict[str, Callable[..., Any]] = {
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderTiny": AutoencoderTiny,
    "BertModel": BertConfig,
    "CLIPTextModel": CLIPTextConfig,
    "CLIPTextModelWithProjection": CLIPTextConfig,
    "CLIPVisionModelWithProjection": CLIPVisionConfig,
    "ControlNetModel": ControlNetModel,
    "ControlNetUnionModel": ControlNetUnionModel,
    "GPT2Model": GPT2Config,
    "PriorTransformer": PriorTransformer,
    "T2IAdapter": T2IAdapter,
    "T5EncoderModel": T5Config,
    "UNet2DConditionModel": UNet2DConditionModel,
    "VQModel": VQModel,
}
"""Class -> whose signature says what its config may hold."""

BUILDERS: dict[str, Callable[[Config], nn.Module]] = {
    "AutoencoderKL": make_diffusers_builder(AutoencoderKL),
    "AutoencoderTiny": make_diffusers_builder(AutoencoderTiny),
    "BertModel": make_transformers_builder(BertModel, BertConfig),
    "CLIPTextModel": make_transformers_builder(CLIPTextModel, CLIPTextConfig),
    "CLIPTextModelWithProjection": make_transformers_builder(
        CLIPTextModelWithProjection, CLIPTextConfig
    ),
    "CLIPVisionModelWithProjection": make_transformers_builder(
        CLIPVisionModelWithProjection, CLIPVisionConfig
    ),
    "ControlNetModel": make_diffusers_builder(ControlNetModel),
    "ControlNetUnionModel": make_diffusers_builder(ControlNetUnionModel),
    "GPT2Model": make_transformers_builder(GPT2Model, GPT2Config),
    "PriorTransformer": make_diffusers_builder(PriorTransformer),
    "T2IAdapter": make_diffusers_builder(T2IAdapter),
    "T5EncoderModel": make_transformers_builder(T5EncoderModel, T5Config),
    "UNet2DConditionModel": make_diffusers_builder(UNet2DConditionModel),
    "VQModel": make_diffusers_builder(VQModel),
}
