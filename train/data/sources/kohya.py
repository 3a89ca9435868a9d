"""The data sets that a kohya TOML describes, as subsets of ours.

Its keys are inherited from [general] to [[datasets]] to [[datasets.subsets]]. What belongs to our
data is taken over; what another table of a run says (`batch_size`, for one) is told, not used;
anything else is an error that names it.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from t2i.errors import ArgumentError, DataError, nearest
from t2i.safe_reading import CONFIG, read_toml
from train.data.subsets import SubsetConfig

TAKEN = {
    "image_dir": "folder",
    "class_tokens": "default_caption",
    "num_repeats": "repeats",
    "is_reg": "prior",
    "keep_tokens": "keep_tokens",
    "flip_aug": "flip",
    "shuffle_caption": "shuffle_captions",
    "caption_extension": "caption_extension",
    "caption_prefix": "prefix",
    "caption_suffix": "suffix",
    "caption_tag_dropout_rate": "tag_dropout",
    "alpha_mask": "alpha_mask",
    "conditioning_data_dir": "masks",
}
"""kohya's keys that are keys of a subset of ours."""
READ = ("random_crop", "resolution", "caption_separator")
"""Keys that need more than another name."""
ELSEWHERE = {
    "batch_size": "train.batch_size",
    "caption_dropout_rate": "target.caption_dropout",
    "enable_bucket": "data.buckets",
    "bucket_reso_steps": "data.bucket_step",
    "min_bucket_reso": "data.max_aspect",
    "max_bucket_reso": "data.max_aspect",
}
"""Keys whose place is elsewhere in a run's configuration."""
OFF: dict[str, object] = {
    "color_aug": False,
    "bucket_no_upscale": False,
    "cache_info": False,
    "enable_wildcard": False,
    "caption_dropout_every_n_epochs": 0,
    "token_warmup_min": 1,
    "token_warmup_step": 0,
    "network_multiplier": 1.0,
    "face_crop_aug_range": None,
    "keep_tokens_separator": "",
    "secondary_separator": "",
    "custom_attributes": {},
}
"""Keys of what we do not do: only this value is accepted."""
KEYS = (*TAKEN, *READ, *ELSEWHERE, *OFF)


def subsets_of_kohya(path: Path, size: int) -> tuple[list[SubsetConfig], list[str]]:
    """The subsets of the file, and what of it is not used.

    size : ours, which the resolutions of the file must agree with
    """
    tree = read_toml(path, CONFIG("kohya config"))
    if unknown := sorted(tree.keys() - {"general", "datasets"}):
        raise ArgumentError(
            f"{path}: unknown table {unknown[0]!r}. {nearest(unknown[0], ('general', 'datasets'))}"
        )
    subsets: list[SubsetConfig] = []
    unused: dict[str, None] = {}
    for number, dataset in enumerate(tables(tree, "datasets", str(path))):
        place = f"{path}, datasets[{number}]"
        inherited = {**tree.get("general", {}), **dataset}
        inherited.pop("subsets", None)
        for which, own in enumerate(tables(dataset, "subsets", place)):
            keys = {**inherited, **own}
            subsets.append(subset_of(keys, path, f"{place}.subsets[{which}]", size))
            unused |= dict.fromkeys(key for key in keys if key in ELSEWHERE)
    if not subsets:
        raise DataError(f"{path}: no [[datasets.subsets]] in it, so there is nothing to train on.")
    notes = [f"{path}: {key} is not used, {ELSEWHERE[key]} says it" for key in unused]
    return subsets, notes


def tables(tree: Mapping[str, object], key: str, place: str) -> list[dict[str, object]]:
    found = tree.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ArgumentError(f"{place}: {key} must be written as [[{key}]], a list of tables.")
    return found


def subset_of(keys: Mapping[str, object], path: Path, place: str, size: int) -> SubsetConfig:
    for key, value in keys.items():
        if key not in KEYS:
            raise ArgumentError(f"{place}: unknown key {key!r}. {nearest(key, KEYS)}")
        if key in OFF and value not in (OFF[key], None):
            raise ArgumentError(
                f"{place}: {key} = {value!r} is something we do not do; remove the key."
            )
    if (separator := keys.get("caption_separator", ",")) != ",":
        raise ArgumentError(f"{place}: caption_separator = {separator!r}; only ',' is understood.")
    if "image_dir" not in keys:
        raise ArgumentError(f"{place}: no image_dir, so there are no pictures; add it.")
    check_resolution(keys.get("resolution", size), place, size)
    ours = {TAKEN[key]: value for key, value in keys.items() if key in TAKEN}
    for name in ("folder", "masks"):
        if isinstance(folder := ours.get(name), str):
            ours[name] = path.resolve().parent / folder
    if keys.get("random_crop"):
        ours["crop"] = "random"
    try:
        return SubsetConfig.model_validate(ours)
    except ValidationError as error:
        first = error.errors()[0]
        ours_to_kohya = {value: key for key, value in TAKEN.items()}
        where = f"{ours_to_kohya.get(str(first['loc'][0]))}: " if first["loc"] else ""
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ArgumentError(f"{place}: {where}{message} (given: {first['input']!r})") from None


def check_resolution(resolution: object, place: str, size: int) -> None:
    given = resolution if isinstance(resolution, list) else [resolution]
    sides = [side for side in given if isinstance(side, int) and side > 0]
    if len(given) not in (1, 2) or len(sides) != len(given):
        raise ArgumentError(
            f"{place}: resolution = {resolution!r}; expected a number or [width, height]."
        )
    area = sides[0] * sides[-1]
    if area != size * size:
        raise ArgumentError(
            f"{place}: resolution = {resolution!r} has the area of data.size = "
            f"{math.isqrt(area)}, but data.size = {size}: set data.size = {math.isqrt(area)}. "
            "Data sets of several resolutions are several runs."
        )
