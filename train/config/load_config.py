"""Loading a run's configuration from a TOML file and overrides such as "train.steps=100"."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from pydantic import ValidationError

from t2i.errors import ArgumentError
from t2i.safe_reading import CONFIG_KIND, parse_toml, read_toml
from train.config.error_messages import explain_first_validation_error, iterate_coercion_messages
from train.config.run_config import RunConfig
from train.config_paths import resolve_paths


def load_run_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Load a training TOML and apply overrides, whose values are TOML or bare words.

    Raises ArgumentError that names the wrong key, as typed, and the nearest known one.
    """
    if path.is_dir():
        raise ArgumentError(
            f"{path} is a folder, expected a training config. To write one for the "
            f"pictures in it, run: t2i train --init lora {quote(str(path))}"
        )
    tree = read_toml(path, CONFIG_KIND.copy_with_noun("training config"))
    for override in overrides:
        _apply_override(tree, override)
    if isinstance(data := tree.setdefault("data", {}), dict):
        data.setdefault("kind", "scenes")
    resolve_paths(tree, path.resolve().parent)
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ArgumentError(
            f"{path}: {explain_first_validation_error(error, RunConfig)}"
        ) from error
    for complaint in iterate_coercion_messages(tree, config.model_dump()):
        raise ArgumentError(f"{path}: {complaint}")
    return config


def _apply_override(tree: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ArgumentError(
            f"Got the override {text!r}, expected KEY=VALUE such as train.steps=100."
        )
    *tables, name = key.strip().split(".")
    table_here: Any = tree
    for depth, table in enumerate(tables):
        if isinstance(table_here, list):
            table_here = table_here[_entry_number(table, table_here, tables[:depth], text)]
        else:
            table_here = table_here.setdefault(table, {})
        if not isinstance(table_here, dict | list):
            raise ArgumentError(f"Override {text!r}: {table!r} is a value, not a table.")
    place = _entry_number(name, table_here, tables, text) if isinstance(table_here, list) else name
    try:
        table_here[place] = parse_toml(f"value = {value}")["value"]
    except ValueError:
        table_here[place] = value.strip()


def _entry_number(entry: str, entries: list[Any], tables: Sequence[str], text: str) -> int:
    """Return the index of the list entry that an override names."""
    if entry.isdecimal() and int(entry) < len(entries):
        return int(entry)
    key = ".".join(tables)
    known = f"{key}.0" if len(entries) == 1 else f"{key}.0 to {key}.{len(entries) - 1}"
    raise ArgumentError(
        f"Override {text!r}: {key!r} is a list and has no entry {entry!r}; expected one of its "
        f"entries: {known if entries else 'none, it is empty'}."
    )
