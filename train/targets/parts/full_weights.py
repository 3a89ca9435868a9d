"""Method "full" of a fine-tune: weights of the model itself; and the base class of all methods."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from t2i.errors import ArgumentError
from train.targets.parts.module_patterns import ModulePatterns, match_module_names

ModelName = Literal["unet", "text_encoder", "text_encoder_2"]
ModelsByName = Mapping[str, nn.Module]
"""Trainable models of a pipeline by their names there."""


class FineTunePartConfig(BaseModel):
    """Base class of the configurations of a fine-tune's parts, such as an adapter or new words:
    learning rate and weight decay.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float | None = Field(None, gt=0)
    """Learning rate of this part; `optimizer.learning_rate` when left out."""
    weight_decay: float | None = Field(None, ge=0)
    """Weight decay of this part; `optimizer.weight_decay` when left out."""


class FullWeightsPartConfig(FineTunePartConfig):
    """Configuration of a fine-tune's part that trains weights of the model itself, all or those
    of matching modules.
    """

    method: Literal["full"] = "full"
    of: ModelName = "unet"
    """Model that is trained."""
    modules: ModulePatterns = Field(("*",), min_length=1)
    """Patterns over the names of its modules; cross-attention: ["attn2.to_k", "attn2.to_v"]."""


def get_part_model(models: ModelsByName, of: str, key: str) -> nn.Module:
    """Return the model that a fine-tune's part trains, named by its key `of`, such as
    "unet".

    Raises ArgumentError if the base has no such model.
    """
    if of not in models:
        raise ArgumentError(
            f"{key}.of = {of!r}, but the base model has none: choose one of {', '.join(models)}."
        )
    return models[of]


def enable_full_training(
    part: FullWeightsPartConfig, models: ModelsByName, key: str
) -> list[nn.Parameter]:
    """Enable training of the weights of the matching modules and return them."""
    model = get_part_model(models, part.of, key)
    weights = {
        id(weight): weight
        for name in match_module_names(model, part.modules, f"{key}.modules")
        for weight in model.get_submodule(name).parameters()
    }
    for weight in weights.values():
        weight.requires_grad_(True)
    return [*weights.values()]
