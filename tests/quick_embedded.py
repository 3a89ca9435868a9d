"""The embedded model with fewer steps by default: what it draws is still what the prompt says."""

import json
import shutil
from pathlib import Path

from t2i.denoiser.loading.model_location import locate_model


def save_quick_embedded(folder: Path, steps: int = 3) -> Path:
    """Save a copy of the embedded model that takes this number of steps where none is given."""
    shutil.copytree(locate_model("embedded"), folder)
    notes = folder / "t2i.json"
    content = json.loads(notes.read_text("utf-8"))
    content["defaults"]["steps"] = steps
    notes.write_text(json.dumps(content), "utf-8")
    return folder
