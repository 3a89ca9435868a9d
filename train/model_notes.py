"""Notes in the folder of a finished model: its training and its sampling defaults."""

from typing import Any

from t2i.scenes.caption_vocabulary import list_caption_vocabulary_by_category
from train.config.run_config import RunConfig
from train.config_paths import DATA_PATH_KEYS, TARGET_FOLDER_KEYS
from train.export import ModelNotes


def build_model_notes(config: RunConfig, steps: int) -> ModelNotes:
    """Build the content of a trained model's `t2i.json`: sampling defaults, and how it was
    trained.
    """
    samples = config.samples
    defaults = {"steps": samples.steps, "guidance_scale": samples.guidance_scale}
    sampler = {} if config.objective.prediction == "flow" else {"sampler": "ddim"}
    # Paths are left out: they are of one machine.
    data_paths: Any = {"folder": True, "subsets": {"__all__": {"tars", *DATA_PATH_KEYS}}}
    left_out: Any = {
        "model": True,
        "cache": True,
        "target": {*TARGET_FOLDER_KEYS, "base"},
        "prior": {"folder"},
    }
    if config.data.kind == "pictures":
        left_out["data"] = data_paths
    settings = config.model_dump(mode="json", exclude=left_out)
    notes: ModelNotes = {
        "defaults": defaults | sampler,
        "trained": {"steps": steps, "config": settings},
    }
    if config.data.kind == "scenes":
        notes["knows"] = list_caption_vocabulary_by_category(config.data)
    return notes
