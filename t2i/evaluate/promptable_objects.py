"""Objects that a model can draw: those it was trained on and the recogniser knows."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from t2i.denoiser.loading.model_location import MODEL_NOTES_FILE
from t2i.denoiser.loading.t2i_json import build_t2i_json_error, read_t2i_json
from t2i.errors import ModelError
from t2i.scenes.recogniser import Recogniser
from t2i.scenes.scenes import SceneDatasetConfig, resolve_object_names

MIN_OBJECTS = 4
"""Smallest number of objects that model and recogniser both know; fewer make poor scenes."""
DEFAULT_SCENES = SceneDatasetConfig(vocabulary="core", max_objects=2)
"""Scenes for a model whose t2i.json says nothing of its training scenes, or that has none."""
TRAINING_SCENES_REMEDY = (
    "Mend the file or remove it; a model without it is evaluated with the core objects, two at a "
    "time."
)


class RunConfigNotes(BaseModel):
    """Config of a training run in a model's t2i.json, as far as it is read here: its
    table `data`.
    """

    data: dict[str, object] = {}


class TrainingRunNotes(BaseModel):
    """Notes on a training run in a model's t2i.json, as far as they are read here: the run's
    config.
    """

    config: RunConfigNotes = RunConfigNotes()


class ModelNotesFile(BaseModel):
    """Content of a model's t2i.json, as far as it is read here: notes on the run that
    trained it.
    """

    trained: TrainingRunNotes = TrainingRunNotes()


def read_training_scene_config(model: Path) -> SceneDatasetConfig:
    """Read the config of a model's training scenes from its t2i.json, or return DEFAULT_SCENES.

    Raises ModelError for a t2i.json that is damaged.
    """
    notes = read_t2i_json(model, ModelNotesFile, TRAINING_SCENES_REMEDY)
    if notes is None or notes.trained.config.data.get("kind") != DEFAULT_SCENES.kind:
        return DEFAULT_SCENES
    try:
        return SceneDatasetConfig.model_validate(notes.trained.config.data)
    except ValidationError as error:
        raise build_t2i_json_error(
            model / MODEL_NOTES_FILE, error, TRAINING_SCENES_REMEDY
        ) from error


@dataclass(frozen=True, slots=True)
class PromptableObjects:
    """Objects that a model can be prompted for, and how many of them at once."""

    objects: tuple[str, ...]
    max_at_once: int


def find_promptable_objects(model: Path, recogniser: Recogniser) -> PromptableObjects:
    """Return the objects that both the model and the recogniser know.

    Raises ModelError if there are fewer than MIN_OBJECTS.
    """
    scenes, recognised = read_training_scene_config(model), set(recogniser.labels.objects)
    objects = tuple(name for name in resolve_object_names(scenes.vocabulary) if name in recognised)
    if len(objects) < MIN_OBJECTS:
        raise ModelError(
            f"The recogniser knows {len(objects)} of the objects that {model} was trained on, at "
            f"least {MIN_OBJECTS} are needed. It knows: {', '.join(sorted(recognised))}."
        )
    return PromptableObjects(objects, scenes.max_objects)
