"""LoRA layers on the modules of a model, through peft: taken off them after training, put on them
to draw."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.loha import LoHaLayer
from peft.tuners.lokr import LoKrLayer
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from t2i.adapters.lora_layers import Hadamard, Layer, Lora, Low, scaled_as_peft
from t2i.adapters.module_names import plain, shown, spell
from t2i.adapters.peft_fields import check_fields
from t2i.errors import ArgumentError, ModelError
from t2i.terminal import several

Models = Mapping[str, nn.Module]
"""Part -> the module that diffusers calls so."""
States = Mapping[str, Mapping[str, Tensor]]
"""Part -> what its state_dict() says, or would say."""


def from_model(
    models: Models, adapters: str | Collection[str] = "default", states: States | None = None
) -> Lora:
    """The layers that peft has put on `models`: LoRA, DoRA, rsLoRA, LoHa, LoKr.

    adapters : the name that they were given there, or several
    states : tensors to take instead of the ones in the modules, by the names of state_dict(): of
        averaged weights, or gathered from several processes

    Raises ModelError where there are none, layers of a kind that no file has, or layers that count
    from weights that peft has changed.
    """
    parts: dict[str, dict[str, Layer]] = {}
    called = [adapters] if isinstance(adapters, str) else list(adapters)
    for part, model in models.items():
        for adapter in called:
            if (config := getattr(model, "peft_config", {}).get(adapter)) is not None:
                check_fields(f"The adapter {adapter!r} of {part}", config.to_dict())
        state = model.state_dict() if states is None or part not in states else states[part]
        for name, module in tuned(model):
            for adapter in called:
                layer = taken(f"{part}.{name}", name, module, adapter, state)
                place = plain(name.replace(".base_layer", ""))
                if layer is None:
                    continue
                if place in parts.setdefault(part, {}):
                    raise ModelError(f"{part}.{place} has two of the adapters: merge one first.")
                parts[part][place] = layer
    if not any(parts.values()):
        raise ModelError(f"No layer of {spell(models)} has an adapter {spell(called)}.")
    return Lora(parts)


def taken(
    said: str, name: str, module: nn.Module, adapter: str, state: Mapping[str, Tensor]
) -> Layer | None:
    """One layer; None where the module has none of this name."""

    def get(field: str) -> Tensor | None:
        tensor = state.get(f"{name}.{field}")
        return None if tensor is None else tensor.detach()

    def factors(kind: str, names: tuple[str, ...]) -> dict[str, Tensor]:
        found = {short: get(f"{kind}_{short}.{adapter}") for short in names}
        return {short: tensor for short, tensor in found.items() if tensor is not None}

    if isinstance(module, LoraLayer):
        if adapter not in module.r:
            return None
        down, up = get(f"lora_A.{adapter}.weight"), get(f"lora_B.{adapter}.weight")
        if down is None or up is None or get(f"lora_B.{adapter}.bias") is not None:
            raise ModelError(f"{said} is a LoRA of embeddings or biases, which no file has.")
        magnitude = get(f"lora_magnitude_vector.{adapter}.weight")
        alpha = float(module.lora_alpha[adapter])
        if module.use_rslora.get(adapter):
            alpha *= module.r[adapter] ** 0.5
        return Low(down, up, alpha, None if magnitude is None else magnitude.flatten())
    if isinstance(module, LoHaLayer | LoKrLayer) and adapter in module.r:
        alpha, rank = float(module.alpha[adapter]), module.r[adapter]
        if isinstance(module, LoHaLayer):
            return Hadamard(factors("hada", ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")), alpha)
        found = factors("lokr", ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))
        return scaled_as_peft(found, alpha, rank)
    if adapter in getattr(module, "active_adapters", []):
        raise ModelError(f"{said} is a {type(module).__name__} of peft's, which no file has.")
    return None


def tuned(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield name, module


def put_on(
    models: Mapping[str, nn.Module | None], lora: Lora, name: str = "default", scale: float = 1.0
) -> None:
    """Add the layers to the modules that they name, acting `scale` times as strongly.

    Several may be on at once, under different names.

    Raises ModelError, leaving the models as they were, where a layer finds no module, or one of
    another shape.
    """
    if not name or "." in name:
        raise ArgumentError(f"Got the name {name!r} for a LoRA: expected one without a dot.")
    targets = {part: matched(part, models.get(part), layers) for part, layers in lora.parts.items()}
    for part, (model, _) in targets.items():
        if name in getattr(model, "peft_config", {}):
            raise ArgumentError(f"A LoRA {name!r} is on the {part} already: give it another name.")
    for model, layers in targets.values():
        adapters = [inject(model, group, called) for called, group in grouped(name, layers)]
        for _, module in tuned(model):
            module.set_adapter(list(model.peft_config), inference_mode=True)
            for adapter in adapters:
                module.set_scale(adapter, scale)


def take_off(models: Iterable[nn.Module | None], name: str | None = None) -> None:
    """Remove the layers that `put_on` has put on under a name, or every layer of peft's; the
    modules below are the very same as before."""
    model: Any
    for model in models:
        if model is None or not hasattr(model, "peft_config"):
            continue
        taken = [known for known in model.peft_config if name is None or called_so(known, name)]
        others = [known for known in model.peft_config if known not in taken]
        for path, module in outer(model):
            mine = {field for adapter in taken for field in held(module, adapter)}
            if not mine:
                continue
            if any(True for adapter in others for _ in held(module, adapter)):
                for adapter in taken:
                    module.delete_adapter(adapter)
                module.set_adapter(others, inference_mode=True)
            else:
                place(model, path, module.get_base_layer())
        for adapter in taken:
            del model.peft_config[adapter]
        if not model.peft_config:
            del model.peft_config
            mark(model, False)


@contextmanager
def bare(model: Any) -> Iterator[None]:
    """Within the block the model is without the layers of peft's; after it the very same are on."""
    on = outer(model)
    config = model.peft_config
    for path, module in on:
        place(model, path, module.get_base_layer())
    del model.peft_config
    mark(model, False)
    try:
        yield
    finally:
        for path, module in on:
            place(model, path, module)
        model.peft_config = config
        mark(model, True)


def outer(model: nn.Module) -> list[tuple[str, Any]]:
    """Path and module of the layers that stand in no other of them."""
    return [(path, module) for path, module in tuned(model) if ".base_layer" not in path]


def held(module: Any, adapter: str) -> list[str]:
    """The fields of a layer that an adapter has a part of."""
    return [field for field in module.adapter_layer_names if adapter in getattr(module, field)]


def called_so(adapter: str, name: str) -> bool:
    """Whether `put_on` gives this name to layers that it puts on under `name`."""
    return adapter in (name, *(f"{name}_{kind}" for kind in ("dora", *PREFIXES)))


def place(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def mark(model: Any, carries: bool) -> None:
    """Tell diffusers and transformers whether layers of peft's are on their model."""
    model._hf_peft_config_loaded = carries


def matched(
    part: str, model: nn.Module | None, layers: Mapping[str, Layer]
) -> tuple[Any, dict[str, Layer]]:
    """The model, and the layers under the names that it has for its modules. Raises ModelError
    where they do not fit."""
    if model is None:
        raise misfit(f"it changes a {part}, which this model does not have")
    known = {plain(name): name for name, _ in model.named_modules()}
    if missing := layers.keys() - known.keys():
        raise misfit(
            f"{len(missing):,} of its {several(len(layers), 'layer')} for the {part} are of no "
            f"module of this model: {spell(missing)}"
        )
    found = {known[name]: layer for name, layer in layers.items()}
    for name, layer in found.items():
        weight = base_of(part, name, model.get_submodule(name)).weight
        expected, given = tuple(weight.flatten(1).shape), product_shape(layer)
        if given != expected:
            raise misfit(
                f"it changes a weight of {list(given)} in {part}.{shown(name)}, which is "
                f"{list(expected)} here"
            )
    return model, found


def misfit(what: str) -> ModelError:
    return ModelError(
        f"The LoRA does not fit this model: {what}. Choose one that was made for models of its "
        "kind."
    )


def base_of(part: str, name: str, module: nn.Module) -> nn.Linear | nn.Conv2d:
    base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    if not isinstance(base, nn.Linear | nn.Conv2d):
        raise misfit(
            f"it changes {part}.{name}, a {type(base).__name__}, expected a linear layer or a "
            "convolution"
        )
    return base


def product_shape(layer: Layer) -> tuple[int, ...]:
    """(out, in * height * width) of the weight that it changes."""
    if isinstance(layer, Low):
        return layer.up.shape[0], layer.down[0].numel()
    meta = {
        name: torch.empty(tensor.shape, device="meta") for name, tensor in layer.factors.items()
    }
    return tuple(type(layer)(meta, layer.alpha).product().shape)


def grouped(name: str, layers: Mapping[str, Layer]) -> Iterator[tuple[str, dict[str, Layer]]]:
    """Layers that one config of peft's can describe, and a name for them: the first have `name`."""
    groups: dict[str, dict[str, Layer]] = {}
    for module, layer in layers.items():
        dora = isinstance(layer, Low) and layer.magnitude is not None
        groups.setdefault("dora" if dora else layer.kind, {})[module] = layer
    for number, (kind, group) in enumerate(groups.items()):
        yield (f"{name}_{kind}" if number else name), group


def inject(model: Any, layers: Mapping[str, Layer], adapter: str) -> str:
    """Make peft's layers for one group, then give them the tensors."""
    kind = next(iter(layers.values())).kind
    names = {f"{name}.{PREFIXES[kind]}": torch.empty(0) for name in layers}
    # Without memory, and so without a draw from torch's generator.
    inject_adapter_in_model(
        config_for(layers), model, adapter, low_cpu_mem_usage=True, state_dict=names
    )
    mark(model, True)
    for name, layer in layers.items():
        module: Any = model.get_submodule(name)
        base = module.get_base_layer()
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        if isinstance(layer, Low):
            fill_low(module, adapter, layer, base.weight, like)
        else:
            for field in module.adapter_layer_names:
                factors = getattr(module, field)
                factors.pop(adapter) if adapter in factors else None
            for field, factor in layer.tensors().items():
                getattr(module, field)[adapter] = frozen(factor.to(**like))
    return adapter


def fill_low(
    module: Any, adapter: str, layer: Low, weight: Tensor, like: Mapping[str, Any]
) -> None:
    rank = layer.rank
    ones = (1,) * (weight.dim() - 2)
    down = layer.down.to(**like).reshape(rank, *weight.shape[1:])
    up = layer.up.to(**like).reshape(-1, rank, *ones)
    module.lora_A[adapter].weight = frozen(down)
    module.lora_B[adapter].weight = frozen(up)
    if layer.magnitude is not None:
        magnitude = layer.magnitude.to(**like)
        shape = (1, -1, *ones) if ones else (-1,)
        module.lora_magnitude_vector[adapter].weight = frozen(magnitude.reshape(shape))


def frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.contiguous(), requires_grad=False)


def config_for(layers: Mapping[str, Layer]) -> PeftConfig:
    """Rank and alpha of each module by its whole name."""
    first = next(iter(layers.values()))
    ranks = {exactly(name): layer.rank for name, layer in layers.items()}
    alphas = {exactly(name): layer.scale * layer.rank for name, layer in layers.items()}
    one = len(set(zip(ranks.values(), alphas.values(), strict=True))) == 1
    shared: dict[str, Any] = {
        "r": first.rank,
        "rank_pattern": {} if one else ranks,
        "alpha_pattern": {} if one else alphas,
        "target_modules": list(layers),
        "inference_mode": True,
    }
    alpha = first.scale * first.rank
    if isinstance(first, Low):
        dora = first.magnitude is not None
        # peft's type says a whole number, and it divides any.
        return LoraConfig(**shared, lora_alpha=alpha, use_dora=dora)  # type: ignore[arg-type]
    if isinstance(first, Hadamard):
        return LoHaConfig(**shared, alpha=alpha)  # type: ignore[arg-type]
    return LoKrConfig(**shared, alpha=alpha)  # type: ignore[arg-type]


def exactly(name: str) -> str:
    return f"^{re.escape(name)}"


PREFIXES = {"lora": "lora_A.weight", "loha": "hada_w1_a", "lokr": "lokr_w1"}
"""A tensor that each kind of layer has, by which peft finds the modules."""
