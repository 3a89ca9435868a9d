"""Method "lora", "loha" or "lokr" of a fine-tune: low-rank adapters through peft."""

from typing import Any, Literal

import peft
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import Field
from torch import nn

from t2i.errors import ArgumentError
from train.targets.parts.full_weights import (
    FineTunePartConfig,
    ModelName,
    ModelsByName,
    get_part_model,
)
from train.targets.parts.module_patterns import ModulePatterns, match_module_names

ATTENTION_PROJECTIONS_BY_MODEL_TYPE: dict[str, ModulePatterns] = {
    "unet": ("to_q", "to_k", "to_v", "to_out.0"),
    "clip_text_model": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "t5": ("q", "k", "v", "o"),
    "bert": ("query", "key", "value", "attention.output.dense"),
    "gpt2": ("c_attn", "attn.c_proj"),
}
"""Names of the attention projections, by the type of model."""


class AdapterPartConfig(FineTunePartConfig):
    """Configuration of a fine-tune's part that trains low-rank adapter layers (LoRA, LoHa, LoKr).

    LoRA: Hu et al. (2021), arXiv 2106.09685; DoRA: Liu et al. (2024), arXiv 2402.09353; rsLoRA:
    Kalajdzievski (2023), arXiv 2312.03732; LoHa and LoKr: Yeh et al. (2023), arXiv 2309.14859.
    """

    method: Literal["lora", "loha", "lokr"] = "lora"
    of: ModelName = "unet"
    """Model that gets the adapter."""
    modules: ModulePatterns | None = Field(None, min_length=1)
    """Patterns over the names of its modules; the attention projections when left out."""
    rank: int = Field(8, ge=1)
    alpha: float | None = Field(None, gt=0)
    """The adapter is scaled by alpha / rank, with rslora alpha / sqrt(rank); default: the rank."""
    dora: bool = False
    """Train the magnitude of each weight's columns separately."""
    rslora: bool = False
    factor: int = Field(-1, ge=-1)
    """Size of the smaller matrix of LoKr; -1 takes the most even split."""


def inject_adapter(
    part: AdapterPartConfig, models: ModelsByName, name: str, key: str
) -> list[nn.Parameter]:
    """Inject the adapter `name` into the matching layers and return its weights.

    key : config key of the part, for messages

    Raises ArgumentError for patterns that match no linear or convolutional layer, and for a layer
    that has an adapter of another part.
    """
    model = get_part_model(models, part.of, key)
    patterns = part.modules or default_module_patterns(model)
    layers = [
        n
        for n in match_module_names(model, patterns, f"{key}.modules")
        if _can_have_adapter(model, n)
    ]
    if not layers:
        raise ArgumentError(
            f"{key}.modules = {list(patterns)} matches no linear or convolutional layer of "
            f"{part.of}, the only ones that can have a {part.method}."
        )
    taken = [n for n in layers if isinstance(model.get_submodule(n), BaseTunerLayer)]
    if taken:
        raise ArgumentError(
            f"{key}.modules: {taken[0]} of {part.of} already has the adapter of another part: "
            "let each layer match one part."
        )
    peft.inject_adapter_in_model(_peft_config(part, layers), model, name)
    weights = [weight for path, weight in model.named_parameters() if f".{name}." in f"{path}."]
    for weight in weights:
        weight.requires_grad_(True)
    return weights


def default_module_patterns(model: nn.Module) -> ModulePatterns:
    """Return the default module patterns of an adapter: the attention projections of this type
    of model.

    Raises ArgumentError for an unknown type of model.
    """
    kind = getattr(model.config, "model_type", "unet")
    if kind not in ATTENTION_PROJECTIONS_BY_MODEL_TYPE:
        raise ArgumentError(
            f"There are no default layers for a model of type {kind!r}: name them in 'modules' of "
            "the part."
        )
    return ATTENTION_PROJECTIONS_BY_MODEL_TYPE[kind]


def _can_have_adapter(model: nn.Module, name: str) -> bool:
    module = model.get_submodule(name)
    of_another = isinstance(module, BaseTunerLayer)
    inside = any(isinstance(model.get_submodule(up), BaseTunerLayer) for up in _ancestors(name))
    return not inside and (of_another or isinstance(module, nn.Linear | nn.Conv2d))


def _ancestors(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _peft_config(part: AdapterPartConfig, layers: list[str]) -> peft.PeftConfig:
    if part.method != "lora" and (part.dora or part.rslora):
        raise ArgumentError(f"dora and rslora are forms of method = 'lora', not {part.method!r}.")
    alpha: Any = {"alpha": part.rank if part.alpha is None else part.alpha}
    shared: dict[str, Any] = {"r": part.rank, "target_modules": layers}
    if part.method == "loha":
        return peft.LoHaConfig(**alpha, **shared)
    if part.method == "lokr":
        return peft.LoKrConfig(decompose_factor=part.factor, **alpha, **shared)
    forms: dict[str, Any] = {"use_dora": part.dora, "use_rslora": part.rslora}
    return peft.LoraConfig(lora_alpha=alpha["alpha"], **forms, **shared)
