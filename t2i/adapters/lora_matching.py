"""Matching of a LoRA's layers to the modules of a model."""

from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from t2i.adapters.lora_layers import LowRankUpdate, WeightUpdate
from t2i.adapters.module_names import printable_name, strip_module_name_prefixes, summarize_names
from t2i.errors import ModelError
from t2i.terminal import plural


def require_model_and_match_lora(
    part: str, model: nn.Module | None, layers: Mapping[str, WeightUpdate]
) -> tuple[Any, dict[str, WeightUpdate]]:
    """Match a LoRA's layers to the modules of a model; return the model, and its module name ->
    layer.

    Raises ModelError for missing modules and for weights of another shape.
    """
    if model is None:
        raise build_misfit_error(f"it changes a {part}, which this model does not have")
    known = {strip_module_name_prefixes(name): name for name, _ in model.named_modules()}
    if missing := layers.keys() - known.keys():
        raise build_misfit_error(
            f"{len(missing):,} of its {plural(len(layers), 'layer')} for the {part} have no "
            f"module in this model: {summarize_names(missing)}"
        )
    targets = {known[name]: layer for name, layer in layers.items()}
    for name, layer in targets.items():
        weight = get_base_layer(part, name, model.get_submodule(name)).weight
        expected, given = tuple(weight.flatten(1).shape), find_update_shape(layer)
        if given != expected:
            raise build_misfit_error(
                f"it changes a weight of {list(given)} in {part}.{printable_name(name)}, which is "
                f"{list(expected)} here"
            )
    return model, targets


def build_misfit_error(problem: str) -> ModelError:
    """Return the error for a LoRA that does not fit a model."""
    return ModelError(
        f"The LoRA does not fit this model: {problem}. Choose one made for this kind of model."
    )


def get_base_layer(part: str, name: str, module: nn.Module) -> nn.Linear | nn.Conv2d:
    """Return the linear layer or convolution below peft's layers of a model's module. Raises
    ModelError for a module of another type.
    """
    base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    if not isinstance(base, nn.Linear | nn.Conv2d):
        raise build_misfit_error(
            f"it changes {part}.{name}, a {type(base).__name__}, expected a linear layer or a "
            "convolution"
        )
    return base


def find_update_shape(layer: WeightUpdate) -> tuple[int, ...]:
    """Return the shape (out, in * height * width) of the weight that a LoRA layer updates."""
    if isinstance(layer, LowRankUpdate):
        return layer.up.shape[0], layer.down[0].numel()
    meta = {
        name: torch.empty(tensor.shape, device="meta") for name, tensor in layer.factors.items()
    }
    return tuple(type(layer)(meta, layer.alpha).build_matrix().shape)
