"""Checks of a model's JSON files: no code, no files outside the folder, no huge numbers."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from t2i.errors import ModelError

MAX_NUMBER = 1_000_000
"""Four times the largest vocabulary in use. Constructors loop over some numbers."""

MIN_PROMPT_LENGTH = 3
"""Tokens of a prompt: a beginning, a word and an end."""

CODE_KEYS = {"auto_map", "custom_pipeline", "trust_remote_code"}
"""Keys by which diffusers and transformers are sent to code that is not theirs."""

PROVENANCE_KEYS = {"_name_or_path", "name_or_path", "special_tokens_map_file"}
"""Keys with original paths in published files; no loader opens these."""


def check_config_safety(path: Path, config: Mapping[str, object]) -> None:
    """Raise ModelError for a model config that refers to code or outside files, or has huge
    numbers.
    """
    for key, value in iter_config_keys_and_values(config):
        check_no_code(path, key, value)
        if isinstance(value, str) and key not in PROVENANCE_KEYS and is_outside_path(value):
            raise ModelError(
                f"Refused {path}: its {key} {value!r} names a file outside the folder."
            )
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise ModelError(
                f"Refused {path}: its {key} is {value}, expected at most {MAX_NUMBER}."
            )


def check_tokenizer_config_safety(path: Path, config: Mapping[str, object]) -> None:
    """Raise ModelError for a tokenizer config that refers to code or outside files."""
    check_model_max_length_if_given(path, config)
    for key, value in iter_config_keys_and_values(config):
        check_no_code(path, key, value)
        names_a_file = key.endswith(("_file", "_path", "_dir")) and key not in PROVENANCE_KEYS
        if names_a_file and isinstance(value, str) and is_outside_path(value):
            raise ModelError(
                f"Refused {path}: its {key} {value!r} names a file outside the folder."
            )


def check_model_max_length_if_given(path: Path, config: Mapping[str, object]) -> None:
    """Raise ModelError if a tokenizer config's model_max_length is no number, or leaves no room for
    a word between the special tokens.
    """
    longest = config.get("model_max_length", MIN_PROMPT_LENGTH)
    if (
        isinstance(longest, bool)
        or not isinstance(longest, int | float)
        or not longest >= MIN_PROMPT_LENGTH
    ):
        raise ModelError(
            f"{path} has model_max_length = {longest!r:.80}, expected a whole number from "
            f"{MIN_PROMPT_LENGTH} on, such as 77."
        )


def check_no_code(path: Path, key: str, value: object) -> None:
    """Raise ModelError for a config entry that would make a library run code from the model's
    folder.
    """
    # transformers downloads a kernel, which is code, where an implementation is a hub id.
    kernel = key.endswith("implementation") and isinstance(value, str) and "/" in value
    if kernel or (key in CODE_KEYS and value not in (None, False)):
        raise ModelError(
            f"Refused {path}: its {key} requires code of its own, and only models without code "
            "are loaded."
        )
    if key == "_class_name" and not isinstance(value, str):
        raise ModelError(
            f"Refused {path}: its _class_name {value!r} requires code of its own; expected the "
            "name of a class of diffusers."
        )


def iter_config_keys_and_values(config: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Iterate over the (key, value) pairs of a model config at any depth; items of a list get the
    list's key.
    """
    remaining: list[tuple[str, object]] = list(config.items())
    while remaining:
        key, value = remaining.pop()
        yield key, value
        if isinstance(value, dict):
            remaining += value.items()
        elif isinstance(value, list):
            remaining += [(key, item) for item in value]


def is_outside_path(value: str) -> bool:
    """Return True for a path that can lead out of the model's folder: absolute, or with ".."."""
    posix, windows = PurePosixPath(value), PureWindowsPath(value)
    climbs = ".." in posix.parts or ".." in windows.parts
    return climbs or posix.is_absolute() or windows.is_absolute()
