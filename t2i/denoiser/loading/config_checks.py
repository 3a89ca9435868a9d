"""What may stand in a model's JSON files: sizes that can be, and nothing that asks for code or
for files from elsewhere."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from t2i.errors import ModelError

LARGEST_NUMBER = 1_000_000
"""Four times the largest vocabulary in use. Constructors loop over some numbers."""

SHORTEST = 3
"""Tokens of a prompt: a beginning, a word and an end."""

CODE = {"auto_map", "custom_pipeline", "trust_remote_code"}
"""Keys by which diffusers and transformers are sent to code that is not theirs."""

PROVENANCE = {"_name_or_path", "name_or_path", "special_tokens_map_file"}
"""Where a file once lay, as published files say; no loader opens these."""


def check_config(path: Path, config: Mapping[str, object]) -> None:
    """Raise ModelError where a config asks for code or for outside files, or has huge numbers."""
    for key, value in entries(config):
        check_code(path, key, value)
        if isinstance(value, str) and key not in PROVENANCE and leads_outside(value):
            raise ModelError(
                f"Refused {path}: its {key} {value!r} names a file outside the folder."
            )
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise ModelError(
                f"Refused {path}: its {key} is {value}, expected at most {LARGEST_NUMBER}."
            )


def check_tokenizer_config(path: Path, config: Mapping[str, object]) -> None:
    """Raise ModelError where a tokenizer asks for code or for outside files; tokens may be any."""
    check_length(path, config)
    for key, value in entries(config):
        check_code(path, key, value)
        names_a_file = key.endswith(("_file", "_path", "_dir")) and key not in PROVENANCE
        if names_a_file and isinstance(value, str) and leads_outside(value):
            raise ModelError(
                f"Refused {path}: its {key} {value!r} names a file outside the folder."
            )


def check_length(path: Path, config: Mapping[str, object]) -> None:
    """Raise ModelError for a longest prompt that leaves no room for a word between its ends."""
    longest = config.get("model_max_length", SHORTEST)
    if isinstance(longest, bool) or not isinstance(longest, int | float) or not longest >= SHORTEST:
        raise ModelError(
            f"{path} has model_max_length = {longest!r:.80}, expected a whole number from "
            f"{SHORTEST} on, such as 77."
        )


def check_code(path: Path, key: str, value: object) -> None:
    # transformers downloads a kernel, which is code, where an implementation is a hub id.
    kernel = key.endswith("implementation") and isinstance(value, str) and "/" in value
    if kernel or (key in CODE and value not in (None, False)):
        raise ModelError(
            f"Refused {path}: its {key} asks for code of its own, and a model here is weights only."
        )
    if key == "_class_name" and not isinstance(value, str):
        raise ModelError(
            f"Refused {path}: its _class_name {value!r} asks for code of its own; expected the "
            "name of a class of diffusers."
        )


def entries(config: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Every key and value at any depth; what a list holds counts under the list's key."""
    waiting: list[tuple[str, object]] = list(config.items())
    while waiting:
        key, value = waiting.pop()
        yield key, value
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]


def leads_outside(value: str) -> bool:
    """Whether a string reads as an absolute path, or as one that climbs."""
    posix, windows = PurePosixPath(value), PureWindowsPath(value)
    climbs = ".." in posix.parts or ".." in windows.parts
    return climbs or posix.is_absolute() or windows.is_absolute()
