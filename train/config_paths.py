"""Paths of a training config: relative ones count from the folder of the TOML."""

from glob import escape, has_magic
from os.path import expanduser
from pathlib import Path
from typing import Any

TARGET_FOLDER_KEYS = ("vae", "unet", "text_encoder", "recogniser", "network")
"""Keys of a target that name folders of weights to start from."""
DATA_PATH_KEYS = ("folder", "pairs", "kohya", "masks", "losers", "hints")
"""Keys of a data set, and of its subsets, that are always paths."""


def resolve_paths(tree: dict[str, Any], base: Path) -> None:
    """Resolve the relative paths in a training config against the folder `base`, in place."""
    _resolve_keys(tree, ("model",), base)
    if isinstance(target := tree.get("target"), dict):
        _resolve_keys(target, TARGET_FOLDER_KEYS, base)
        _resolve_existing(target, "base", base)
    if isinstance(samples := tree.get("samples"), dict) and isinstance(samples.get("hints"), list):
        samples["hints"] = [_resolve_one(hint, base) for hint in samples["hints"]]
    if isinstance(prior := tree.get("prior"), dict):
        _resolve_keys(prior, ("folder",), base)
    if isinstance(cache := tree.get("cache"), dict):
        _resolve_keys(cache, ("folder",), base)
    if isinstance(data := tree.get("data"), dict):
        subsets = data.get("subsets")
        for table in [data, *(subsets if isinstance(subsets, list) else [])]:
            if isinstance(table, dict):
                _resolve_keys(table, DATA_PATH_KEYS, base)
                _resolve_existing(table, "dataset", base)
                if "tars" in table:
                    table["tars"] = _resolve_tar_patterns(table["tars"], base)


def _resolve_keys(table: dict[str, Any], keys: tuple[str, ...], base: Path) -> None:
    for key in keys:
        if key in table:
            table[key] = _resolve_one(table[key], base)


def _resolve_one(path: Any, base: Path) -> Any:
    return base / Path(expanduser(path)) if isinstance(path, str) else path


def _resolve_existing(table: dict[str, Any], key: str, base: Path) -> None:
    """Resolve a name where such a path exists; it may also be an id of the hub."""
    if isinstance(name := table.get(key), str) and (base / name).exists():
        table[key] = str(base / name)


def _resolve_tar_patterns(tars: Any, base: Path) -> Any:
    """Resolve glob patterns of tars; wildcards in the name of `base` itself are escaped."""
    if isinstance(tars, list):
        return [_resolve_tar_patterns(one, base) for one in tars]
    if not isinstance(tars, str) or "://" in tars:
        return tars
    own = Path(expanduser(tars))
    folder = escape(str(base)) if has_magic(str(base)) else str(base)
    return str(own) if own.is_absolute() else f"{folder}/{own}"
