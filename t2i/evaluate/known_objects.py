"""What a model can be asked for: the objects that it was shown, and that the recogniser knows."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from t2i.denoiser.loading.address import NOTES
from t2i.errors import ModelError
from t2i.safe_reading import MODEL_CONFIG, read_bytes
from t2i.scenes.recogniser import Recogniser
from t2i.scenes.scenes import ScenesConfig, vocabulary

FEWEST = 4
"""Objects that a model and the recogniser must both know: scenes of fewer say little."""
UNTOLD = ScenesConfig(vocabulary="core", max_objects=2)
"""What a model is asked that does not say what it was trained on."""


class Run(BaseModel):
    """What is read of a run's configuration."""

    data: dict[str, object] = {}


class Trained(BaseModel):
    config: Run = Run()


class Notes(BaseModel):
    """What is read of a model's t2i.json here."""

    trained: Trained = Trained()


def shown_to(model: Path) -> ScenesConfig:
    """The scenes that a model of ours was trained on; of other models, what they are asked."""
    path = model / NOTES
    if not path.is_file():
        return UNTOLD
    try:
        data = Notes.model_validate_json(read_bytes(path, MODEL_CONFIG)).trained.config.data
        if data.get("kind") != UNTOLD.kind:
            return UNTOLD
        return ScenesConfig.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ModelError(
            f"Cannot use {path}: {place}: {first['msg']}. Mend the file or remove it; without it a "
            "model is asked for the core objects, two at a time."
        ) from error


@dataclass(frozen=True, slots=True)
class Known:
    """What a model can be asked for: objects, and how many of them at once."""

    objects: tuple[str, ...]
    most: int


def known(model: Path, recogniser: Recogniser) -> Known:
    """Raises ModelError where the recogniser knows too few of the model's objects."""
    shown, told = shown_to(model), set(recogniser.labels.objects)
    objects = tuple(name for name in vocabulary(shown.vocabulary) if name in told)
    if len(objects) < FEWEST:
        raise ModelError(
            f"The recogniser knows {len(objects)} of the objects that {model} was trained on, at "
            f"least {FEWEST} are needed. It knows: {', '.join(sorted(told))}."
        )
    return Known(objects, shown.max_objects)
