"""A component's tensors by name and shape, from its config alone: built without memory, and
without the time that a hostile config could cost."""

import contextlib
import inspect
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.autoencoders.vq_model import VQModel
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

from t2i.denoiser.loading.config_values import check_values
from t2i.errors import ModelError, library_message

Config = Mapping[str, Any]

MOST_MODULES = 6000
"""Three times what the UNet of SDXL is made of."""
KEPT: dict[str, nn.Module] = {}
"""Skeletons made in this process, by class and config as JSON: one run opens its model several
times, and one of SDXL's size takes a second to make."""
MOST_KEPT = 12


def skeleton(class_name: str, config: Config) -> nn.Module:
    """The model on the "meta" device: shared by all who ask for it, to be read and run only.

    Raises ModelError where the config describes none, or one of more than MOST_MODULES modules; its
    message follows the name of the file.
    """
    check_values(ARGUMENTS[class_name], config)
    check_model_type(ARGUMENTS[class_name], config)
    check_end(ARGUMENTS[class_name], config)
    if config.get("quantization_config") is not None:
        raise ModelError(
            "describes quantized weights (quantization_config): get the model in half or full "
            "precision."
        )
    try:
        described = json.dumps([class_name, dict(config)], sort_keys=True, default=repr)
        if (kept := KEPT.get(described)) is not None:
            return kept
        with torch.device("meta"), few_modules():
            made = SKELETONS[class_name](config).eval()
    except Exception as error:  # A wrong config makes constructors fail in any way.
        raise ModelError(f"does not describe a {class_name}: {library_message(error)}") from error
    if len(KEPT) >= MOST_KEPT:
        KEPT.clear()
    KEPT[described] = made
    return made


def check_model_type(kind: Any, config: Config) -> None:
    """Raise ModelError where a config of transformers is of another kind than its class."""
    own = getattr(kind, "model_type", None)
    named = config.get("model_type", own)
    if named != own and not (own == "t5" and named in ("mt5", "umt5")):
        raise ModelError(f"has model_type = {named!r:.80}, expected {own!r}.")


def check_end(kind: Any, config: Config) -> None:
    """Raise ModelError where a CLIP text encoder cannot find the end of a prompt, where it reads
    what the whole says: transformers takes any JSON for the token's number."""
    end = config.get("eos_token_id", 0)
    if kind is CLIPTextConfig and type(end) is not int:
        raise ModelError(
            f"has eos_token_id = {end!r:.80}, expected a whole number, that of the token which "
            "ends a prompt: correct it, or copy the file from the model again."
        )


@contextlib.contextmanager
def few_modules() -> Iterator[None]:
    """Within the block this thread may make at most MOST_MODULES modules.

    Counted as they are made, because no list of keys names every number that a constructor loops
    over.
    """
    here = threading.get_ident()
    made = 0

    def count(module: nn.Module, name: str, part: nn.Module) -> None:
        nonlocal made
        made += threading.get_ident() == here
        if made > MOST_MODULES:
            raise ValueError(f"it would have more than {MOST_MODULES} modules")

    handle = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def second_names(model: nn.Module) -> set[str]:
    """Of parameters that have several names, all but the first."""
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return names - {name for name, _ in model.named_parameters()}


def from_arguments(kind: Callable[..., nn.Module]) -> Callable[[Config], nn.Module]:
    """Build from the keys that are arguments; configs carry others, such as versions."""
    known = inspect.signature(kind).parameters
    return lambda config: kind(**{key: value for key, value in config.items() if key in known})


def from_config(
    kind: Callable[[Any], nn.Module], config_kind: type[PretrainedConfig]
) -> Callable[[Config], nn.Module]:
    """Build as transformers does: from the config object of the class."""
    return lambda config: kind(config_kind.from_dict(dict(config)))


ARGUMENTS: dict[str, Callable[..., Any]] = {
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderTiny": AutoencoderTiny,
    "BertModel": BertConfig,
    "CLIPTextModel": CLIPTextConfig,
    "CLIPTextModelWithProjection": CLIPTextConfig,
    "CLIPVisionModelWithProjection": CLIPVisionConfig,
    "GPT2Model": GPT2Config,
    "PriorTransformer": PriorTransformer,
    "T5EncoderModel": T5Config,
    "UNet2DConditionModel": UNet2DConditionModel,
    "VQModel": VQModel,
}
"""Class -> whose signature says what its config may hold."""

SKELETONS: dict[str, Callable[[Config], nn.Module]] = {
    "AutoencoderKL": from_arguments(AutoencoderKL),
    "AutoencoderTiny": from_arguments(AutoencoderTiny),
    "BertModel": from_config(BertModel, BertConfig),
    "CLIPTextModel": from_config(CLIPTextModel, CLIPTextConfig),
    "CLIPTextModelWithProjection": from_config(CLIPTextModelWithProjection, CLIPTextConfig),
    "CLIPVisionModelWithProjection": from_config(CLIPVisionModelWithProjection, CLIPVisionConfig),
    "GPT2Model": from_config(GPT2Model, GPT2Config),
    "PriorTransformer": from_arguments(PriorTransformer),
    "T5EncoderModel": from_config(T5EncoderModel, T5Config),
    "UNet2DConditionModel": from_arguments(UNet2DConditionModel),
    "VQModel": from_arguments(VQModel),
}
