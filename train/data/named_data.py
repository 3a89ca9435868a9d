"""What a file or folder of pictures that somebody names stands for, as a configuration."""

from glob import escape
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from t2i.errors import ArgumentError, nearest
from t2i.safe_reading import CONFIG, read_toml
from train.config_paths import resolve_paths
from train.data.pictures_config import PicturesConfig
from train.data.subsets import SubsetConfig


def config_of(place: Path, size: int | None = None, step: int | None = None) -> PicturesConfig:
    """Of a folder, a .tar, a training run's TOML or one of kohya's.

    Raises ArgumentError where it is none of these or says something else.
    """
    tree: dict[str, Any] = {}
    if place.suffix == ".toml":
        tree = tables_of(place)
        resolve_paths({"data": tree}, place.resolve().parent)
    elif place.suffix == ".tar":
        tree["subsets"] = [{"tars": escape(str(place))}]
    elif place.is_dir():
        tree["folder"] = place
    else:
        raise ArgumentError(
            f"Got {place}; expected a folder of pictures, a .tar of them, or a TOML: of a training "
            "run or of kohya's."
        )
    if size is not None:
        tree["size"] = size
    if step is not None:
        tree["bucket_step"] = step
    try:
        return PicturesConfig.model_validate(tree)
    except ValidationError as error:
        raise ArgumentError(f"{place}: {complaint(error)}") from error


def batch_size_of(place: Path) -> int | None:
    """What a training run's TOML says; None for anything else."""
    if place.suffix != ".toml":
        return None
    train = tree_of(place).get("train")
    size = train.get("batch_size") if isinstance(train, dict) else None
    return size if isinstance(size, int) else None


def tree_of(path: Path) -> dict[str, Any]:
    return read_toml(path, CONFIG)


def tables_of(path: Path) -> dict[str, Any]:
    """The table [data] of a run, or one subset where the file is kohya's."""
    tree = tree_of(path)
    if "datasets" in tree:
        return {"subsets": [{"kohya": path.name}]}
    data = tree.get("data")
    if not isinstance(data, dict) or data.get("kind") != "pictures":
        raise ArgumentError(
            f"{path} names no pictures of one's own: expected a table [data] with "
            'kind = "pictures", or kohya\'s [[datasets]].'
        )
    return data


def complaint(error: ValidationError) -> str:
    """The first one, in the user's terms."""
    first = error.errors()[0]
    key = ".".join(("data", *map(str, first["loc"])))
    if first["type"] == "extra_forbidden":
        model = SubsetConfig if "subsets" in first["loc"] else PicturesConfig
        return f"Unknown key {key!r}. {nearest(str(first['loc'][-1]), model.model_fields)}"
    return f"{key}: {str(first['msg']).removeprefix('Value error, ')}"
