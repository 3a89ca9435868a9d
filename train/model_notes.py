"""What a finished model says of its making, and how it likes to be sampled."""

from typing import Any

from t2i.scenes.caption_vocabulary import caption_vocabulary
from train.config.run_config import RunConfig
from train.config_paths import TARGET_FOLDER_KEYS
from train.export import Notes


def notes_of(config: RunConfig, steps: int) -> Notes:
    samples = config.samples
    defaults = {"steps": samples.steps, "guidance_scale": samples.guidance_scale}
    sampler = {} if config.objective.prediction == "flow" else {"sampler": "ddim"}
    # Paths mean something on one machine only.
    own: Any = {"folder": True, "subsets": {"__all__": {"folder", "tars", "kohya", "masks"}}}
    left_out: Any = {
        "model": True,
        "cache": True,
        "target": {*TARGET_FOLDER_KEYS, "base"},
        "prior": {"folder"},
    }
    if config.data.kind == "pictures":
        left_out["data"] = own
    told = config.model_dump(mode="json", exclude=left_out)
    notes: Notes = {"defaults": defaults | sampler, "trained": {"steps": steps, "config": told}}
    if config.data.kind == "scenes":
        notes["knows"] = caption_vocabulary(config.data)
    return notes
