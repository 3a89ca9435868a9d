"""Subsets from a TOML that describes data sets to kohya's scripts.

Its keys are inherited from [general] to [[datasets]] to [[datasets.subsets]]. Keys of
a subset are converted; keys of another table of a run, such as `batch_size`, are reported and not
used; any other key is an error.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from t2i.errors import ArgumentError, DataError, suggest_choice
from t2i.safe_reading import CONFIG_KIND, read_toml
from train.data.subsets import KOHYA_HINT_COLUMN, SubsetConfig

CONVERTED_KEYS = {
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
"""kohya's keys and the keys of SubsetConfig with the same meaning."""
SPECIAL_KEYS = ("random_crop", "resolution", "caption_separator")
"""Keys whose values need a conversion."""
RUN_CONFIG_KEY_BY_KOHYA_KEY = {
    "batch_size": "train.batch_size",
    "caption_dropout_rate": "target.caption_dropout",
    "enable_bucket": "data.buckets",
    "bucket_reso_steps": "data.bucket_step",
    "min_bucket_reso": "data.max_aspect",
    "max_bucket_reso": "data.max_aspect",
}
"""kohya's keys and the keys of other tables of a run's config that replace them."""
UNSUPPORTED_KEYS: dict[str, object] = {
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
"""Keys of unsupported features, with the only value that is accepted."""
KOHYA_KEYS = (*CONVERTED_KEYS, *SPECIAL_KEYS, *RUN_CONFIG_KEY_BY_KOHYA_KEY, *UNSUPPORTED_KEYS)


def load_kohya_subsets_and_unused_key_notes(
    path: Path, size: int, *, with_hints: bool = False
) -> tuple[list[SubsetConfig], list[str]]:
    """Return the subsets of a kohya TOML, and notes on keys that are not used.

    size : `data.size`, which the resolutions in the file must agree with
    with_hints : `conditioning_data_dir` names hints, as for a ControlNet, and not masks

    Raises ArgumentError for an unknown or unsupported key.
    """
    tree = read_toml(path, CONFIG_KIND.copy_with_noun("kohya config"))
    if unknown := sorted(tree.keys() - {"general", "datasets"}):
        raise ArgumentError(
            f"{path}: unknown table {unknown[0]!r}. "
            f"{suggest_choice(unknown[0], ('general', 'datasets'))}"
        )
    subsets: list[SubsetConfig] = []
    unused: dict[str, None] = {}
    for number, dataset in enumerate(_tables(tree, "datasets", str(path))):
        place = f"{path}, datasets[{number}]"
        inherited = {**tree.get("general", {}), **dataset}
        inherited.pop("subsets", None)
        for which, own in enumerate(_tables(dataset, "subsets", place)):
            keys = {**inherited, **own}
            subsets.append(
                _convert_subset(keys, path, f"{place}.subsets[{which}]", size, with_hints)
            )
            unused |= dict.fromkeys(key for key in keys if key in RUN_CONFIG_KEY_BY_KOHYA_KEY)
    if not subsets:
        raise DataError(f"{path}: no [[datasets.subsets]] in it, so there is nothing to train on.")
    notes = [
        f"{path}: {key} is not used; set {RUN_CONFIG_KEY_BY_KOHYA_KEY[key]} instead"
        for key in unused
    ]
    return subsets, notes


def _tables(tree: Mapping[str, object], key: str, place: str) -> list[dict[str, object]]:
    found = tree.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ArgumentError(f"{place}: {key} must be written as [[{key}]], a list of tables.")
    return found


def _convert_subset(
    keys: Mapping[str, object], path: Path, place: str, size: int, with_hints: bool
) -> SubsetConfig:
    for key, value in keys.items():
        if key not in KOHYA_KEYS:
            raise ArgumentError(f"{place}: unknown key {key!r}. {suggest_choice(key, KOHYA_KEYS)}")
        if key in UNSUPPORTED_KEYS and value not in (UNSUPPORTED_KEYS[key], None):
            raise ArgumentError(f"{place}: {key} = {value!r} is not supported; remove the key.")
    if (separator := keys.get("caption_separator", ",")) != ",":
        raise ArgumentError(f"{place}: caption_separator = {separator!r}; only ',' is understood.")
    if "image_dir" not in keys:
        raise ArgumentError(f"{place}: no image_dir, so there are no pictures; add it.")
    _check_resolution(keys.get("resolution", size), place, size)
    ours = {CONVERTED_KEYS[key]: value for key, value in keys.items() if key in CONVERTED_KEYS}
    if with_hints:
        if "masks" not in ours:
            raise ArgumentError(
                f"{place}: no {KOHYA_HINT_COLUMN}, so there are no hints; add it, or leave out "
                "hint_column."
            )
        ours["hints"] = ours.pop("masks")
    for name in ("folder", "masks", "hints"):
        if isinstance(folder := ours.get(name), str):
            ours[name] = path.resolve().parent / folder
    if keys.get("random_crop"):
        ours["crop"] = "random"
    try:
        return SubsetConfig.model_validate(ours)
    except ValidationError as error:
        first = error.errors()[0]
        ours_to_kohya = {value: key for key, value in CONVERTED_KEYS.items()}
        ours_to_kohya["hints"] = KOHYA_HINT_COLUMN
        where = f"{ours_to_kohya.get(str(first['loc'][0]))}: " if first["loc"] else ""
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ArgumentError(f"{place}: {where}{message} (given: {first['input']!r})") from None


def _check_resolution(resolution: object, place: str, size: int) -> None:
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
