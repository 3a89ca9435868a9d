"""Files that a request names beside its model: parsed from the command line, and as recorded."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from t2i.cli.option_parsing.option_values import (
    NO_FILES_VALUE,
    SPECIAL_LETTERS,
    format_number,
    is_quoted,
    partition_last_outside_quotes,
    quote_part,
    split_outside_quotes,
    unquote_part,
)
from t2i.errors import ArgumentError

Given = TypeVar("Given")
Parsed = TypeVar("Parsed")
MAX_PATH_LENGTH = 4096
EMBEDDING_SUFFIX = ".safetensors"
"""Suffix of a file with the embedding of a face, an image prompt in place of a picture."""
MAX_SCALE = 100
"""Far above any use: at 2 or 3 most adapters draw nothing but themselves."""
TOKEN_SPECIALS = SPECIAL_LETTERS | {"/", "\\"}
"""Letters of a learned word that is quoted: what has a slash unquoted is a part of a path."""
MAX_FILES = 32
"""Maximum number of files of one option in a request."""
SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """Input file of a request, or the folder of an IP-Adapter.

    sha256 : of its contents when the image was made; None until it is read
    """

    path: str
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not self.path or "\0" in self.path or len(self.path) > MAX_PATH_LENGTH:
            raise ArgumentError(f"Got {self.path!r:.80}: expected the path of a file.")
        try:
            self.path.encode()
        except UnicodeEncodeError as error:
            raise ArgumentError(
                f"The path {self.path!r:.80} is not valid UTF-8 at character {error.start}. "
                "Rename the file."
            ) from error
        if self.sha256 is not None and not SHA256_PATTERN.fullmatch(self.sha256):
            raise ArgumentError(f"Got the sha256 {self.sha256!r:.80}: expected 64 digits of hex.")

    @property
    def option_value(self) -> str:
        """This file as the value of its command-line option: PATH, unquoted for a shell."""
        return self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFileWithScale(InputFile):
    """File of a LoRA or of an IP-Adapter's image prompt, with the strength at which it acts.

    in_model : model in whose folder the path is, for a LoRA of its presets; None for any other file
    """

    scale: float = 1.0
    in_model: str | None = None

    def __post_init__(self) -> None:
        InputFile.__post_init__(self)
        if not (math.isfinite(self.scale) and abs(self.scale) <= MAX_SCALE):
            raise ArgumentError(
                f"Got the scale {self.scale} of {self.path!r:.80}: expected a finite number, such "
                f"as 0.8, up to {MAX_SCALE}."
            )

    @property
    def option_value(self) -> str:
        """This file as the value of its command-line option: PATH:SCALE, unquoted for a shell."""
        return f"{quote_part(self.path)}:{format_number(self.scale)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingFile(InputFile):
    """File of a learned word (textual inversion), with its token.

    token : that stands for it in a prompt; None takes the file's own
    """

    token: str | None = None

    def __post_init__(self) -> None:
        InputFile.__post_init__(self)
        if self.token is not None and (
            not self.token or any(letter.isspace() for letter in self.token)
        ):
            raise ArgumentError(
                f"Got the word {self.token!r:.80} of {self.path!r:.80}: expected one, as <sun>."
            )

    @property
    def option_value(self) -> str:
        """This file as the value of its command-line option: PATH or PATH:WORD, unquoted for a
        shell.
        """
        path = quote_part(self.path)
        return path if self.token is None else f"{path}:{quote_part(self.token, TOKEN_SPECIALS)}"


def parse_if_given(value: Given | None, parse: Callable[[Given], Parsed]) -> Parsed | None:
    """Return `parse(value)`; None for a value that is not given, which is None."""
    return None if value is None else parse(value)


def parse_input_file(text: str) -> InputFile:
    """Parse the path of an input file. Raises ArgumentError."""
    return InputFile(path=text.strip())


def parse_file_with_scale(text: str) -> InputFileWithScale:
    """Parse the option value "PATH" or "PATH:SCALE" of a LoRA or image prompt.

    A colon without a number after it is a part of the path. Raises ArgumentError.
    """
    path, colon, tail = partition_last_outside_quotes(text.strip(), ":")
    try:
        scale = float(tail) if colon and path else None
    except ValueError:
        scale = None
    if scale is None:
        return InputFileWithScale(path=unquote_part(text, "a file"))
    return InputFileWithScale(path=unquote_part(path, "a file"), scale=scale)


def parse_embedding_file(text: str) -> EmbeddingFile:
    """Parse the option value "PATH" or "PATH:WORD" of a learned word.

    Raises ArgumentError for an empty word.
    """
    path, colon, tail = partition_last_outside_quotes(text.strip(), ":")
    if not (colon and path and tail) or (set(tail) & set("/\\") and not is_quoted(tail)):
        return EmbeddingFile(path=unquote_part(text, "--embedding"))
    token = unquote_part(tail, "--embedding") if is_quoted(tail) else tail
    return EmbeddingFile(path=unquote_part(path, "--embedding"), token=token)


def parse_loras(texts: Sequence[str]) -> tuple[InputFileWithScale, ...]:
    """Parse the values of --lora; "none" alone gives no LoRA."""
    return tuple(map(parse_file_with_scale, _drop_none(texts)))


def parse_embeddings(texts: Sequence[str]) -> tuple[EmbeddingFile, ...]:
    """Parse the values of --embedding; "none" alone gives no word."""
    return tuple(map(parse_embedding_file, _drop_none(texts)))


def parse_caches(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the values of --cache as a request has them, which are no files; "none" alone gives
    no cache.
    """
    return tuple(_drop_none(texts))


def _drop_none(texts: Sequence[str]) -> Sequence[str]:
    return [] if list(texts) == [NO_FILES_VALUE] else texts


def check_file_count(name: str, files: Sequence[InputFile]) -> None:
    """Raise ArgumentError if an option is given with too many files."""
    if len(files) > MAX_FILES:
        raise ArgumentError(f"Got {len(files)} times {name}: at most {MAX_FILES} are taken.")


def split_values(texts: str | Sequence[str]) -> list[str]:
    """Return the values of a prompts file's key that takes several: a JSON list as it is, the text
    of a CSV cell split at semicolons.
    """
    if not isinstance(texts, str):
        return [*texts]
    parts = (part.strip() for part in split_outside_quotes(texts, ";"))
    return [part for part in parts if part]
