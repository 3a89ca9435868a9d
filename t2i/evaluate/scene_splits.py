"""Splits of scenes that a part uses: seeds and counts, from which every caption follows."""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from t2i.denoiser.families import sd
from t2i.errors import ArgumentError
from t2i.evaluate.suite_part import EvaluationContext
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig

Split = TypeVar("Split", bound=str)
MAX_OBJECTS_IN_SCENE = 3
"""Largest number of objects that a scene is composed of."""


class SceneSplitConfig(BaseModel):
    """Configuration of a split of scenes: the first `count` scenes of a seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(ge=0)
    count: int = Field(ge=1)


def build_scene_splits(
    context: EvaluationContext, wanted: Mapping[Split, SceneSplitConfig]
) -> dict[Split, SceneDataset]:
    """Build the configured splits of scenes from the objects that the model knows.

    Only "held_out" shows held-out combinations; it is missing where these objects allow none.
    """
    splits: dict[Split, SceneDataset] = {}
    for split, config in wanted.items():
        try:
            splits[split] = SceneDataset(
                SceneDatasetConfig(
                    size=sd.default_height_and_width(context.pipe.unet, context.pipe.vae)[0],
                    seed=config.seed,
                    length=config.count,
                    vocabulary=context.objects,
                    max_objects=min(context.max_objects, MAX_OBJECTS_IN_SCENE),
                    split="held_out" if split == "held_out" else "train",
                )
            )
        except ArgumentError:
            continue
    return splits
