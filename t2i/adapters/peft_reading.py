"""Reading of the LoRA layers that peft has added to models."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from peft.tuners.loha import LoHaLayer
from peft.tuners.lokr import LoKrLayer
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from t2i.adapters.lora_layers import (
    HadamardUpdate,
    Lora,
    LowRankUpdate,
    WeightUpdate,
    convert_peft_kronecker,
)
from t2i.adapters.module_names import strip_module_name_prefixes, summarize_names
from t2i.adapters.peft_fields import check_peft_config_fields
from t2i.errors import ModelError

ModelByPart = Mapping[str, nn.Module]
"""Name of a model part, as in diffusers -> module."""
StateDictByPart = Mapping[str, Mapping[str, Tensor]]
"""Name of a model part -> state_dict."""


def read_lora_from_models(
    models: ModelByPart,
    adapters: str | Collection[str] = "default",
    states: StateDictByPart | None = None,
) -> Lora:
    """Return as one `Lora` the LoRA, DoRA, rsLoRA, LoHa and LoKr layers that peft added to models.

    adapters : name or names of the adapters in peft
    states : state dicts to read instead of the modules' tensors: EMA weights, or weights gathered
        from several processes

    Raises ModelError for no such adapter, for layers without a file format, or for layers that
    apply to weights that peft changed.
    """
    parts: dict[str, dict[str, WeightUpdate]] = {}
    names = [adapters] if isinstance(adapters, str) else list(adapters)
    for part, model in models.items():
        for adapter in names:
            if (config := getattr(model, "peft_config", {}).get(adapter)) is not None:
                check_peft_config_fields(f"The adapter {adapter!r} of {part}", config.to_dict())
        state = model.state_dict() if states is None or part not in states else states[part]
        for name, module in iter_peft_layers(model):
            for adapter in names:
                layer = read_adapter_layer(f"{part}.{name}", name, module, adapter, state)
                target = strip_module_name_prefixes(name.replace(".base_layer", ""))
                if layer is None:
                    continue
                if target in parts.setdefault(part, {}):
                    raise ModelError(f"{part}.{target} has two of the adapters: merge one first.")
                parts[part][target] = layer
    if not any(parts.values()):
        raise ModelError(
            f"No layer of {summarize_names(models)} has an adapter {summarize_names(names)}."
        )
    return Lora(parts)


def read_adapter_layer(
    label: str, name: str, module: nn.Module, adapter: str, state: Mapping[str, Tensor]
) -> WeightUpdate | None:
    """Return the factors and alpha of a peft adapter on one module; None if it has none there.

    label : the module's name in error messages
    name : its name in `state`
    """

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
            raise ModelError(
                f"{label} is a LoRA of embeddings or biases, which no file format supports."
            )
        magnitude = get(f"lora_magnitude_vector.{adapter}.weight")
        alpha = float(module.lora_alpha[adapter])
        if module.use_rslora.get(adapter):
            alpha *= module.r[adapter] ** 0.5
        return LowRankUpdate(down, up, alpha, None if magnitude is None else magnitude.flatten())
    if isinstance(module, LoHaLayer | LoKrLayer) and adapter in module.r:
        alpha, rank = float(module.alpha[adapter]), module.r[adapter]
        if isinstance(module, LoHaLayer):
            return HadamardUpdate(
                factors("hada", ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")), alpha
            )
        found = factors("lokr", ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))
        return convert_peft_kronecker(found, alpha, rank)
    if adapter in getattr(module, "active_adapters", []):
        raise ModelError(
            f"{label} is a {type(module).__name__} of peft's, which no file format supports."
        )
    return None


def iter_peft_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Iterate over (name, module) of peft's layers in a model."""
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield name, module
