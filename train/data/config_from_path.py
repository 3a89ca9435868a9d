"""Data configuration made from one path: a folder, pairs, an archive, a run's config or kohya's."""

from glob import escape
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from t2i.errors import ArgumentError, suggest_choice
from t2i.safe_reading import CONFIG_KIND, read_toml
from train.config_paths import resolve_paths
from train.data.pictures_config import PictureDatasetConfig
from train.data.subsets import SubsetConfig


def infer_data_config_from_path(
    place: Path, size: int | None = None, step: int | None = None
) -> PictureDatasetConfig:
    """Build the data configuration for whatever a path holds: a folder of pictures, a .jsonl of
    preference pairs, a .tar, or the TOML of a training run or of kohya's scripts.

    size, step : override the size and the bucket step

    Raises ArgumentError if it is none of these, or holds no data config.
    """
    tree: dict[str, Any] = {}
    if place.suffix == ".toml":
        tree = _data_table(place)
        resolve_paths({"data": tree}, place.resolve().parent)
    elif place.suffix == ".tar":
        tree["subsets"] = [{"tars": escape(str(place))}]
    elif place.suffix == ".jsonl":
        tree["subsets"] = [{"pairs": place}]
    elif place.is_dir():
        tree["folder"] = place
    else:
        raise ArgumentError(
            f"Got {place}; expected a folder of pictures, a .jsonl of preference pairs, a .tar of "
            "pictures, or a TOML: of a training run or of kohya's."
        )
    if size is not None:
        tree["size"] = size
    if step is not None:
        tree["bucket_step"] = step
    try:
        return PictureDatasetConfig.model_validate(tree)
    except ValidationError as error:
        raise ArgumentError(f"{place}: {_first_error(error)}") from error


def read_batch_size_from_run_toml(place: Path) -> int | None:
    """Read the batch size (`train.batch_size`) from the TOML configuration of a training run;
    return None if the path is anything else, such as a folder of pictures.
    """
    if place.suffix != ".toml":
        return None
    train = _read_tree(place).get("train")
    size = train.get("batch_size") if isinstance(train, dict) else None
    return size if isinstance(size, int) else None


def _read_tree(path: Path) -> dict[str, Any]:
    return read_toml(path, CONFIG_KIND)


def _data_table(path: Path) -> dict[str, Any]:
    """Return the table [data] of a run's TOML, or one subset for a TOML of kohya's."""
    tree = _read_tree(path)
    if "datasets" in tree:
        return {"subsets": [{"kohya": path.name}]}
    data = tree.get("data")
    if not isinstance(data, dict) or data.get("kind") != "pictures":
        raise ArgumentError(
            f"{path} names no pictures of one's own: expected a table [data] with "
            'kind = "pictures", or kohya\'s [[datasets]].'
        )
    return data


def _first_error(error: ValidationError) -> str:
    """Return the first validation error as a message with the full key."""
    first = error.errors()[0]
    key = ".".join(("data", *map(str, first["loc"])))
    if first["type"] == "extra_forbidden":
        model = SubsetConfig if "subsets" in first["loc"] else PictureDatasetConfig
        return f"Unknown key {key!r}. {suggest_choice(str(first['loc'][-1]), model.model_fields)}"
    return f"{key}: {str(first['msg']).removeprefix('Value error, ')}"
