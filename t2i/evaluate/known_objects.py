"""What a model can be asked for: the objects that it was shown, and that the recogniser knows."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from t2i.denoiser.loading.address import NOTES_FILE
from t2i.denoiser.loading.model_notes import notes_error, read_model_notes
from t2i.errors import ModelError
from t2i.scenes.recogniser import Recogniser
from t2i.scenes.scenes import ScenesConfig, resolve_vocabulary

MIN_OBJECTS = 4
"""Objects that a model and the recogniser must both know: scenes of fewer say little."""
DEFAULT_SCENES = ScenesConfig(vocabulary="core", max_objects=2)
"""What a model is asked that does not say what it was trained on."""
REMEDY = (
    "Mend the file or remove it; a model without it is evaluated with the core objects, two at a "
    "time."
)


class TrainedRunConfig(BaseModel):
    """What is read of a run's configuration."""

    data: dict[str, object] = {}


class TrainingNotes(BaseModel):
    config: TrainedRunConfig = TrainedRunConfig()


class ModelNotes(BaseModel):
    """What is read of a model's t2i.json here."""

    trained: TrainingNotes = TrainingNotes()


def training_scenes(model: Path) -> ScenesConfig:
    """The scenes that a model of ours was trained on; of other models, what they are asked."""
    notes = read_model_notes(model, ModelNotes, REMEDY)
    if notes is None or notes.trained.config.data.get("kind") != DEFAULT_SCENES.kind:
        return DEFAULT_SCENES
    try:
        return ScenesConfig.model_validate(notes.trained.config.data)
    except ValidationError as error:
        raise notes_error(model / NOTES_FILE, error, REMEDY) from error


@dataclass(frozen=True, slots=True)
class KnownObjects:
    """What a model can be asked for: objects, and how many of them at once."""

    objects: tuple[str, ...]
    max_at_once: int


def find_known_objects(model: Path, recogniser: Recogniser) -> KnownObjects:
    """Raises ModelError where the recogniser knows too few of the model's objects."""
    shown, told = training_scenes(model), set(recogniser.labels.objects)
    objects = tuple(name for name in resolve_vocabulary(shown.vocabulary) if name in told)
    if len(objects) < MIN_OBJECTS:
        raise ModelError(
            f"The recogniser knows {len(objects)} of the objects that {model} was trained on, at "
            f"least {MIN_OBJECTS} are needed. It knows: {', '.join(sorted(told))}."
        )
    return KnownObjects(objects, shown.max_objects)
