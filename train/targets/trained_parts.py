"""What of a model is trained, and how: parts of a fine-tune, freely mixed."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from t2i.errors import ArgumentError
from train.targets.module_patterns import Patterns, named

Of = Literal["unet", "text_encoder", "text_encoder_2"]
Models = Mapping[str, nn.Module]
"""The models of a pipeline that can be trained, by their names there."""


class Part(BaseModel):
    """What all parts have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float | None = Field(None, gt=0)
    """Of this part; `optimizer.learning_rate` when left out."""
    weight_decay: float | None = Field(None, ge=0)
    """Of this part; `optimizer.weight_decay` when left out."""


class FullPart(Part):
    """Weights of the model itself."""

    method: Literal["full"] = "full"
    of: Of = "unet"
    """Which model."""
    modules: Patterns = Field(("*",), min_length=1)
    """Patterns over the names of its modules; cross-attention: ["attn2.to_k", "attn2.to_v"]."""


def model_of(models: Models, of: str, key: str) -> nn.Module:
    """Raise ArgumentError where the base has no such model."""
    if of not in models:
        raise ArgumentError(
            f"{key}.of = {of!r}, but the base model has none: choose one of {', '.join(models)}."
        )
    return models[of]


def train_in_full(part: FullPart, models: Models, key: str) -> list[nn.Parameter]:
    """Let the weights of the matching modules be trained; those weights."""
    model = model_of(models, part.of, key)
    weights = {
        id(weight): weight
        for name in named(model, part.modules, f"{key}.modules")
        for weight in model.get_submodule(name).parameters()
    }
    for weight in weights.values():
        weight.requires_grad_(True)
    return [*weights.values()]
