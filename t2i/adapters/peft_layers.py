"""LoRA layers on the modules of a model, through peft: adding and removing them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, inject_adapter_in_model
from torch import Tensor, nn

from t2i.adapters.lora_layers import (
    HadamardUpdate,
    Lora,
    LowRankUpdate,
    WeightUpdate,
)
from t2i.adapters.lora_matching import require_model_and_match_lora
from t2i.adapters.peft_reading import iter_peft_layers
from t2i.errors import ArgumentError


def add_lora(
    models: Mapping[str, nn.Module | None], lora: Lora, name: str = "default", scale: float = 1.0
) -> None:
    """Add a LoRA's layers to the models through peft, scaled by `scale`, under an adapter name.

    Raises ArgumentError for a name in use, ModelError for a layer without a module or of another
    shape; the models are then unchanged.
    """
    if not name or "." in name:
        raise ArgumentError(f"Got the name {name!r} for a LoRA: expected one without a dot.")
    targets = {
        part: require_model_and_match_lora(part, models.get(part), layers)
        for part, layers in lora.parts.items()
    }
    for part, (model, _) in targets.items():
        if name in getattr(model, "peft_config", {}):
            raise ArgumentError(f"The {part} already has a LoRA {name!r}: give it another name.")
    for model, layers in targets.values():
        adapters = [
            inject_layers_of_one_kind(model, group, called)
            for called, group in split_into_adapters_of_one_kind(name, layers)
        ]
        for _, module in iter_peft_layers(model):
            module.set_adapter(list(model.peft_config), inference_mode=True)
            for adapter in adapters:
                module.set_scale(adapter, scale)


def remove_lora(models: Iterable[nn.Module | None], name: str | None = None) -> None:
    """Remove the LoRA `name`, or every peft layer, restoring the original modules."""
    model: Any
    for model in models:
        if model is None or not hasattr(model, "peft_config"):
            continue
        removed = [
            known for known in model.peft_config if name is None or is_adapter_of_lora(known, name)
        ]
        others = [known for known in model.peft_config if known not in removed]
        for path, module in list_outermost_peft_layers(model):
            fields = {
                field
                for adapter in removed
                for field in list_adapter_tensor_attributes(module, adapter)
            }
            if not fields:
                continue
            if any(
                True for adapter in others for _ in list_adapter_tensor_attributes(module, adapter)
            ):
                for adapter in removed:
                    module.delete_adapter(adapter)
                module.set_adapter(others, inference_mode=True)
            else:
                replace_module(model, path, module.get_base_layer())
        for adapter in removed:
            del model.peft_config[adapter]
        if not model.peft_config:
            del model.peft_config
            set_peft_loaded_flag(model, False)


@contextmanager
def without_peft_layers(model: Any) -> Iterator[None]:
    """Remove all peft layers of a model within the block, and restore the same objects after."""
    layers = list_outermost_peft_layers(model)
    config = model.peft_config
    for path, module in layers:
        replace_module(model, path, module.get_base_layer())
    del model.peft_config
    set_peft_loaded_flag(model, False)
    try:
        yield
    finally:
        for path, module in layers:
            replace_module(model, path, module)
        model.peft_config = config
        set_peft_loaded_flag(model, True)


def list_outermost_peft_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """Return (path, module) of the peft layers in a model that are not nested in another one."""
    return [(path, module) for path, module in iter_peft_layers(model) if ".base_layer" not in path]


def list_adapter_tensor_attributes(module: Any, adapter: str) -> list[str]:
    """Return the names of a peft layer's attributes that hold an adapter's tensors."""
    return [field for field in module.adapter_layer_names if adapter in getattr(module, field)]


def is_adapter_of_lora(adapter: str, name: str) -> bool:
    """Return True if a peft adapter belongs to the LoRA `name`: `add_lora` makes several adapters
    for a LoRA with several kinds of layers.
    """
    return adapter in (name, *(f"{name}_{kind}" for kind in ("dora", *MARKER_TENSORS)))


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Replace the submodule of a model at a dotted path."""
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def set_peft_loaded_flag(model: Any, loaded: bool) -> None:
    """Set the flag by which diffusers and transformers detect peft's layers on a model."""
    model._hf_peft_config_loaded = loaded


def split_into_adapters_of_one_kind(
    name: str, layers: Mapping[str, WeightUpdate]
) -> Iterator[tuple[str, dict[str, WeightUpdate]]]:
    """Group a LoRA's layers by kind (LoRA, DoRA, LoHa, LoKr), as one peft config describes one kind
    only; yield (adapter name, layers).

    The first group is called `name`, further ones `name` and their kind.
    """
    groups: dict[str, dict[str, WeightUpdate]] = {}
    for module, layer in layers.items():
        dora = isinstance(layer, LowRankUpdate) and layer.magnitude is not None
        groups.setdefault("dora" if dora else layer.kind, {})[module] = layer
    for number, (kind, group) in enumerate(groups.items()):
        yield (f"{name}_{kind}" if number else name), group


def inject_layers_of_one_kind(model: Any, layers: Mapping[str, WeightUpdate], adapter: str) -> str:
    """Create peft's layers for LoRA layers of one kind and fill in their tensors; return the
    adapter name.
    """
    kind = next(iter(layers.values())).kind
    names = {f"{name}.{MARKER_TENSORS[kind]}": torch.empty(0) for name in layers}
    # On the meta device, so that nothing is drawn from torch's generator.
    inject_adapter_in_model(
        build_injection_config(layers), model, adapter, low_cpu_mem_usage=True, state_dict=names
    )
    set_peft_loaded_flag(model, True)
    for name, layer in layers.items():
        module: Any = model.get_submodule(name)
        base = module.get_base_layer()
        options = {"device": base.weight.device, "dtype": base.weight.dtype}
        if isinstance(layer, LowRankUpdate):
            fill_lora_layer(module, adapter, layer, base.weight, options)
        else:
            for field in module.adapter_layer_names:
                factors = getattr(module, field)
                factors.pop(adapter) if adapter in factors else None
            for field, factor in layer.named_tensors().items():
                getattr(module, field)[adapter] = build_frozen_parameter(factor.to(**options))
    return adapter


def fill_lora_layer(
    module: Any, adapter: str, layer: LowRankUpdate, weight: Tensor, options: Mapping[str, Any]
) -> None:
    """Set the factors and magnitude of an adapter in peft's LoRA layer, in the dtype and on the
    device of the layer's weight.
    """
    rank = layer.rank
    ones = (1,) * (weight.dim() - 2)
    down = layer.down.to(**options).reshape(rank, *weight.shape[1:])
    up = layer.up.to(**options).reshape(-1, rank, *ones)
    module.lora_A[adapter].weight = build_frozen_parameter(down)
    module.lora_B[adapter].weight = build_frozen_parameter(up)
    if layer.magnitude is not None:
        magnitude = layer.magnitude.to(**options)
        shape = (1, -1, *ones) if ones else (-1,)
        module.lora_magnitude_vector[adapter].weight = build_frozen_parameter(
            magnitude.reshape(shape)
        )


def build_frozen_parameter(tensor: Tensor) -> nn.Parameter:
    """Return a contiguous parameter without a gradient."""
    return nn.Parameter(tensor.contiguous(), requires_grad=False)


def build_injection_config(layers: Mapping[str, WeightUpdate]) -> PeftConfig:
    """Build the peft config that injects layers of one kind into a model: rank and alpha of each
    module by its full name.
    """
    first = next(iter(layers.values()))
    ranks = {build_exact_pattern(name): layer.rank for name, layer in layers.items()}
    alphas = {build_exact_pattern(name): layer.scale * layer.rank for name, layer in layers.items()}
    uniform = len(set(zip(ranks.values(), alphas.values(), strict=True))) == 1
    shared: dict[str, Any] = {
        "r": first.rank,
        "rank_pattern": {} if uniform else ranks,
        "alpha_pattern": {} if uniform else alphas,
        "target_modules": list(layers),
        "inference_mode": True,
    }
    alpha = first.scale * first.rank
    if isinstance(first, LowRankUpdate):
        dora = first.magnitude is not None
        # peft annotates an int and accepts any number.
        return LoraConfig(**shared, lora_alpha=alpha, use_dora=dora)  # type: ignore[arg-type]
    if isinstance(first, HadamardUpdate):
        return LoHaConfig(**shared, alpha=alpha)  # type: ignore[arg-type]
    return LoKrConfig(**shared, alpha=alpha)  # type: ignore[arg-type]


def build_exact_pattern(name: str) -> str:
    """Return the regular expression that matches exactly this module in the rank and alpha tables
    of peft's config.
    """
    return f"^{re.escape(name)}"


MARKER_TENSORS = {"lora": "lora_A.weight", "loha": "hada_w1_a", "lokr": "lokr_w1"}
"""A tensor that each kind of layer has; peft finds the target modules by it."""
