"""Models built from their config alone on the meta device, within a limit of modules."""

import contextlib
import inspect
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import diffusers
import torch
import transformers
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

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
    signature = find_config_signature(class_name)
    check_config_values(signature, config)
    check_model_type(signature, config)
    check_end_token_is_integer(signature, config)
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
            made = build_from_config(class_name, config).eval()
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
    if kind is transformers.CLIPTextConfig and type(end) is not int:
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


def find_config_signature(class_name: str) -> Callable[..., Any]:
    """Return whose signature says what the config of a model class may hold: a transformers config
    class, or the class of diffusers itself.
    """
    config_name = CONFIG_BY_TRANSFORMERS_CLASS.get(class_name)
    found: Callable[..., Any] = (
        getattr(diffusers, class_name)
        if config_name is None
        else getattr(transformers, config_name)
    )
    return found


def build_from_config(class_name: str, config: Config) -> nn.Module:
    """Build a model of one of MODEL_CLASSES from its config. For a class of diffusers the keys that
    are its parameters become its arguments.
    """
    signature = find_config_signature(class_name)
    made: nn.Module
    if class_name in CONFIG_BY_TRANSFORMERS_CLASS:
        config_kind: Any = signature
        made = getattr(transformers, class_name)(config_kind.from_dict(dict(config)))
    else:
        known = inspect.signature(signature).parameters
        made = signature(**{key: value for key, value in config.items() if key in known})
    return made


CONFIG_BY_TRANSFORMERS_CLASS = {
    "BertModel": "BertConfig",
    "CLIPTextModel": "CLIPTextConfig",
    "CLIPTextModelWithProjection": "CLIPTextConfig",
    "CLIPVisionModelWithProjection": "CLIPVisionConfig",
    "GPT2Model": "GPT2Config",
    "T5EncoderModel": "T5Config",
}
"""Model class of transformers -> its config class. Both are imported where they are used: each
model's module takes time, and a run needs two of them."""

MODEL_CLASSES = {
    *CONFIG_BY_TRANSFORMERS_CLASS,
    *("AutoencoderKL", "AutoencoderTiny", "ControlNetModel", "ControlNetUnionModel"),
    *("PriorTransformer", "T2IAdapter", "UNet2DConditionModel", "VQModel"),
}
"""Classes that can be built from a config; those of diffusers have no config class."""
