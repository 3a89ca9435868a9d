"""Second recogniser, which judges the pictures of preference pairs.

What is trained on the verdicts of a recogniser learns its errors, too. The recogniser of
`t2i evaluate` must not be among such judges, or its figures would no longer be a measurement.
"""

import hashlib
from pathlib import Path
from typing import Any

from t2i.errors import ArgumentError, ModelError
from t2i.safe_reading import MODEL_CONFIG_KIND, WEIGHTS_KIND, open_untrusted_file, read_json
from t2i.scenes.recogniser import CONFIG_FILE, DEFAULT_FOLDER, WEIGHTS_FILE, Recogniser

SECOND_RECOGNISER_FOLDER = Path("runs/second-recogniser/model")
"""Folder that configs/train/second-recogniser.toml exports to."""
SECOND_RECOGNISER_REMEDY = (
    "Train a second one with `t2i train configs/train/second-recogniser.toml`, and name its "
    f"folder, as --recogniser {SECOND_RECOGNISER_FOLDER}."
)


def load_pair_judge(folder: Path) -> Recogniser:
    """Load a recogniser that is not the one of `t2i evaluate`, nor was trained on its pictures.

    Raises ModelError if there is none in the folder, ArgumentError if it is that one.
    """
    if not (folder / WEIGHTS_FILE).is_file():
        raise ModelError(f"No recogniser in {folder}. {SECOND_RECOGNISER_REMEDY}")
    found = Recogniser.load(folder)
    if compute_weights_digest(folder) == compute_weights_digest(DEFAULT_FOLDER):
        raise ArgumentError(
            f"{folder} is the recogniser that `t2i evaluate` judges with: a model that learns from "
            f"its verdicts cannot be measured by it any more. {SECOND_RECOGNISER_REMEDY}"
        )
    seed = read_training_data_seed(folder)
    if seed is not None and seed == read_training_data_seed(DEFAULT_FOLDER):
        raise ArgumentError(
            f"{folder} was trained on the pictures of the recogniser that `t2i evaluate` judges "
            f"with (data.seed = {seed}), so it makes the same errors. {SECOND_RECOGNISER_REMEDY}"
        )
    return found


def compute_weights_digest(folder: Path) -> str:
    """Return the SHA-256 of a recogniser's weights file, in hex."""
    with open_untrusted_file(folder / WEIGHTS_FILE, WEIGHTS_KIND) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_training_data_seed(folder: Path) -> int | None:
    """Read `data.seed` of the run that trained a recogniser; None where its notes lack it."""
    value: Any = read_json(folder / CONFIG_FILE, MODEL_CONFIG_KIND)
    for key in ("trained", "config", "data", "seed"):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, int) else None
