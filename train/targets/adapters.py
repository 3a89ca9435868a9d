"""Low-rank adapters through peft: LoRA, DoRA and rsLoRA, LoHa, LoKr."""

from typing import Any, Literal

import peft
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import Field
from torch import nn

from t2i.errors import ArgumentError
from train.targets.module_patterns import Patterns, named
from train.targets.trained_parts import Models, Of, Part, model_of

ATTENTION: dict[str, Patterns] = {
    "unet": ("to_q", "to_k", "to_v", "to_out.0"),
    "clip_text_model": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "t5": ("q", "k", "v", "o"),
    "bert": ("query", "key", "value", "attention.output.dense"),
    "gpt2": ("c_attn", "attn.c_proj"),
}
"""The projections of attention, by the kind of model."""


class AdapterPart(Part):
    """Layers of low rank beside those of the model, which stay as they are.

    LoRA: Hu et al. (2021), arXiv 2106.09685; DoRA: Liu et al. (2024), arXiv 2402.09353; rsLoRA:
    Kalajdzievski (2023), arXiv 2312.03732; LoHa and LoKr: Yeh et al. (2023), arXiv 2309.14859.
    """

    method: Literal["lora", "loha", "lokr"] = "lora"
    of: Of = "unet"
    """Which model."""
    modules: Patterns | None = Field(None, min_length=1)
    """Patterns over the names of its modules; the projections of attention when left out."""
    rank: int = Field(8, ge=1)
    alpha: float | None = Field(None, gt=0)
    """The adapter weighs alpha / rank, with rslora alpha / sqrt(rank); the rank when left out."""
    dora: bool = False
    """Train the length of each weight's columns by itself."""
    rslora: bool = False
    factor: int = Field(-1, ge=-1)
    """LoKr's: sizes of the smaller matrix; -1 takes the most even split."""


def attach(part: AdapterPart, models: Models, name: str, key: str) -> list[nn.Parameter]:
    """Lay the adapter `name` beside the matching layers; its weights.

    Raises ArgumentError for patterns without a layer that can carry one, and for a layer that
    carries one of another part.
    """
    model = model_of(models, part.of, key)
    patterns = part.modules or default_modules(model)
    carriers = [n for n in named(model, patterns, f"{key}.modules") if carries(model, n)]
    if not carriers:
        raise ArgumentError(
            f"{key}.modules = {list(patterns)} matches no linear or convolutional layer of "
            f"{part.of}, which alone can carry a {part.method}."
        )
    taken = [n for n in carriers if isinstance(model.get_submodule(n), BaseTunerLayer)]
    if taken:
        raise ArgumentError(
            f"{key}.modules: {taken[0]} of {part.of} carries the adapter of another part already: "
            "let each layer match one."
        )
    peft.inject_adapter_in_model(config_of(part, carriers), model, name)
    weights = [weight for path, weight in model.named_parameters() if f".{name}." in f"{path}."]
    for weight in weights:
        weight.requires_grad_(True)
    return weights


def default_modules(model: nn.Module) -> Patterns:
    kind = getattr(model.config, "model_type", "unet")
    if kind not in ATTENTION:
        raise ArgumentError(
            f"No layers are known by default for a {kind!r}: name them in 'modules' of the part."
        )
    return ATTENTION[kind]


def carries(model: nn.Module, name: str) -> bool:
    module = model.get_submodule(name)
    of_another = isinstance(module, BaseTunerLayer)
    inside = any(isinstance(model.get_submodule(up), BaseTunerLayer) for up in above(name))
    return not inside and (of_another or isinstance(module, nn.Linear | nn.Conv2d))


def above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def config_of(part: AdapterPart, carriers: list[str]) -> peft.PeftConfig:
    if part.method != "lora" and (part.dora or part.rslora):
        raise ArgumentError(f"dora and rslora are forms of method = 'lora', not {part.method!r}.")
    alpha: Any = {"alpha": part.rank if part.alpha is None else part.alpha}
    shared: dict[str, Any] = {"r": part.rank, "target_modules": carriers}
    if part.method == "loha":
        return peft.LoHaConfig(**alpha, **shared)
    if part.method == "lokr":
        return peft.LoKrConfig(decompose_factor=part.factor, **alpha, **shared)
    forms: dict[str, Any] = {"use_dora": part.dora, "use_rslora": part.rslora}
    return peft.LoraConfig(lora_alpha=alpha["alpha"], **forms, **shared)
