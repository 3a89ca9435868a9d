"""Options of the form FILE:PICTURE[:NAME=VALUE,...], such as --control and --ip-adapter."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from t2i.cli.option_parsing.option_values import (
    format_number,
    partition_last_outside_quotes,
    split_outside_quotes,
    unquote_part,
)
from t2i.cli.request.input_files import InputFile
from t2i.errors import ArgumentError, suggest_choice

SETTINGS_START_PATTERN = re.compile(r":(?=[a-z_]+=)")
"""Colon between the picture and the settings."""
STEPS_PATTERN = re.compile(r"(?:(\d*\.?\d+)-)?(\d*\.?\d+)")


@dataclass(frozen=True, slots=True)
class OptionSyntax:
    """Syntax of an option with files and settings, and how messages describe it.

    expected : the form of a value with two files, as in "ADAPTER:PICTURE"
    names : names of the settings
    """

    option: str
    expected: str
    names: tuple[str, ...]
    example: str

    def parse(self, text: str) -> tuple[str, str, dict[str, str]]:
        """Parse the value of the option into its two paths and its settings as texts.

        Raises ArgumentError for a value of another form, for a setting of another name or without
        a value, and for one that is given twice.
        """
        files, settings = self.split_settings(text)
        first, colon, picture = partition_last_outside_quotes(files, ":")
        if not (colon and first and picture):
            raise ArgumentError(
                f"Got {self.option} {text!r:.80}: expected {self.expected}, with settings after "
                f"them: {self.example}"
            )
        return (
            unquote_part(first, self.option),
            unquote_part(picture, self.option),
            self.parse_settings(split_outside_quotes(settings, ",") if settings else ()),
        )

    def split_settings(self, text: str) -> tuple[str, str | None]:
        """Split the value of the option into its files and its settings, None without any."""
        files, *rest = split_outside_quotes(text.strip(), SETTINGS_START_PATTERN, max_splits=1)
        return files, rest[0] if rest else None

    def parse_settings(self, parts: Iterable[str]) -> dict[str, str]:
        """Parse texts of the form NAME=VALUE into the settings, as texts without their quotes.

        Raises ArgumentError for a setting of another name or without a value, and for one that is
        given twice.
        """
        settings: dict[str, str] = {}
        for part in parts:
            name, equals, value = (side.strip() for side in part.partition("="))
            if name not in self.names or not equals or not value:
                raise ArgumentError(
                    f"Got {self.option} with {part!r:.80}. {suggest_choice(name[:80], self.names)} "
                    f"Each has a value: {self.example}"
                )
            if name in settings:
                raise ArgumentError(f"Got {self.option} with {name} twice: keep one.")
            settings[name] = unquote_part(value, self.option)
        return settings

    def parse_step_window(self, text: str) -> tuple[float, float]:
        """Parse "FROM-TO" or "TO", shares of the run, into both. Raises ArgumentError."""
        match = STEPS_PATTERN.fullmatch(text)
        if match is None:
            raise ArgumentError(
                f"Got {self.option} with steps={text!r:.80}: expected shares of the run, as in "
                "steps=0-0.6 or steps=0.6."
            )
        first, end = match.groups()
        return float(first or 0), float(end)

    def check_step_window(self, steps: tuple[float, float]) -> None:
        """Raise ArgumentError for a window of steps that is empty or not within the run."""
        first, end = steps
        if not 0 <= first < end <= 1:
            raise ArgumentError(
                f"Got {self.option} with steps={first:g}-{end:g}: expected shares of the run from "
                "0 to 1, the first below the second, as in steps=0-0.6."
            )


def format_steps_setting(steps: tuple[float, float]) -> str:
    """Return a window of steps as the setting that parse_step_window reads."""
    first, end = map(format_number, steps)
    return f"steps={first}-{end}"


class NamedFilesMixin:
    """Mixin of a dataclass with input files, of which some may be None, that names each of them."""

    __slots__ = ()
    file_names_by_field: ClassVar[Mapping[str, str]]
    """Field of the dataclass -> name of its file."""

    @property
    def named_files(self) -> Iterator[tuple[str, InputFile]]:
        """Names and files, in the order of the fields; a file that is None is left out."""
        for field, name in self.file_names_by_field.items():
            if (file := getattr(self, field)) is not None:
                yield name, file

    def copy_with_mapped_files(self, change: Callable[[str, InputFile], InputFile]) -> Self:
        """Return a copy with each of its files replaced by `change(name, file)`."""
        changed = {
            field: change(name, file)
            for field, name in self.file_names_by_field.items()
            if (file := getattr(self, field)) is not None
        }
        return replace(self, **changed)  # type: ignore[type-var]  # a dataclass, as said above
