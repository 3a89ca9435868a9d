"""Paths of a training config, which mean what they mean beside the TOML."""

from glob import escape, has_magic
from os.path import expanduser
from pathlib import Path
from typing import Any

FOLDERS = ("vae", "unet", "text_encoder", "recogniser")
"""Keys of a target that name what it starts from."""
OF_PICTURES = ("folder", "kohya", "masks")
"""Keys of a data set, and of its subsets, that are always paths."""


def settle_paths(tree: dict[str, Any], base: Path) -> None:
    """Make the relative paths of a run's tables those of files below `base`."""
    beside(tree, ("model",), base)
    if isinstance(target := tree.get("target"), dict):
        beside(target, FOLDERS, base)
        beside_if_there(target, "base", base)
    if isinstance(prior := tree.get("prior"), dict):
        beside(prior, ("folder",), base)
    if isinstance(cache := tree.get("cache"), dict):
        beside(cache, ("folder",), base)
    if isinstance(data := tree.get("data"), dict):
        subsets = data.get("subsets")
        for table in [data, *(subsets if isinstance(subsets, list) else [])]:
            if isinstance(table, dict):
                beside(table, OF_PICTURES, base)
                beside_if_there(table, "dataset", base)
                if "tars" in table:
                    table["tars"] = shards(table["tars"], base)


def beside(table: dict[str, Any], keys: tuple[str, ...], base: Path) -> None:
    for key in keys:
        if isinstance(table.get(key), str):
            table[key] = base / Path(expanduser(table[key]))


def beside_if_there(table: dict[str, Any], key: str, base: Path) -> None:
    """A name may also be one of the hub's, or of a model that comes with t2i."""
    if isinstance(name := table.get(key), str) and (base / name).exists():
        table[key] = str(base / name)


def shards(tars: Any, base: Path) -> Any:
    """Patterns of shards; what the folder itself is called is no part of the pattern."""
    if isinstance(tars, list):
        return [shards(one, base) for one in tars]
    if not isinstance(tars, str) or "://" in tars:
        return tars
    own = Path(expanduser(tars))
    folder = escape(str(base)) if has_magic(str(base)) else str(base)
    return str(own) if own.is_absolute() else f"{folder}/{own}"
