"""Reference picture of a request: its file, and how the image's self-attention reads it."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from t2i.cli.option_parsing.option_values import (
    NO_FILES_VALUE,
    format_number,
    quote_part,
    split_outside_quotes,
    unquote_part,
)
from t2i.cli.request.files_with_settings import (
    NamedFilesMixin,
    OptionSyntax,
    format_steps_setting,
)
from t2i.cli.request.input_files import MAX_SCALE, InputFile
from t2i.errors import ArgumentError

SYNTAX = OptionSyntax(
    option="--reference",
    expected="PICTURE, the picture whose look is taken over",
    names=("prompt", "scale", "steps"),
    example='--reference "sketch.png:scale=1.5,steps=0-0.6,prompt=a cat, drawn in ink"',
)
NEXT_SETTING_PATTERN = re.compile(rf",\s*(?=(?:{'|'.join(SYNTAX.names)})\s*=)")
"""Comma between two settings; others belong to the prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceFileAndSettings(NamedFilesMixin):
    """Reference picture of a request, whose keys and values the image's self-attention reads beside
    its own; see pipelines.reference.

    prompt : under which the picture is read
    scale : factor of the attention to the picture; 0 for none
    steps : shares of the run
    """

    picture: InputFile
    prompt: str = ""
    scale: float = 1.0
    steps: tuple[float, float] = (0.0, 1.0)
    file_names_by_field: ClassVar[Mapping[str, str]] = {"picture": "reference_picture"}

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and 0 <= self.scale <= MAX_SCALE):
            raise ArgumentError(
                f"Got --reference with scale={self.scale}: expected a number from 0 (no reference) "
                f"to {MAX_SCALE}, such as 1."
            )
        SYNTAX.check_step_window(self.steps)

    @property
    def option_value(self) -> str:
        """This reference picture as the value of its command-line option, unquoted for a shell."""
        settings = [f"scale={format_number(self.scale)}", format_steps_setting(self.steps)]
        settings += [f"prompt={quote_part(self.prompt)}"] if self.prompt else []
        return f"{quote_part(self.picture.path)}:{','.join(settings)}"


def parse_references(texts: Sequence[str]) -> tuple[ReferenceFileAndSettings, ...]:
    """Parse the values of --reference into the reference pictures of a request; "none" alone gives
    none. Raises ArgumentError.
    """
    return () if list(texts) == [NO_FILES_VALUE] else tuple(map(parse_reference, texts))


def parse_reference(text: str) -> ReferenceFileAndSettings:
    """Parse PICTURE[:NAME=VALUE,...], the value of --reference. Raises ArgumentError."""
    picture, given = SYNTAX.split_settings(text)
    parts = split_outside_quotes(given, NEXT_SETTING_PATTERN) if given else ()
    settings = SYNTAX.parse_settings(parts)
    return ReferenceFileAndSettings(
        picture=InputFile(path=unquote_part(picture, SYNTAX.option)),
        prompt=settings.get("prompt", ""),
        scale=_parse_scale(settings.get("scale", "1")),
        steps=SYNTAX.parse_step_window(settings.get("steps", "0-1")),
    )


def check_references(references: Sequence[ReferenceFileAndSettings], *, is_edited: bool) -> None:
    """Raise ArgumentError for reference pictures that a request cannot have.

    is_edited : whether its image is edited by its words, or a photo that is inverted
    """
    if not references:
        return
    if len(references) > 1:
        raise ArgumentError(
            f"Got {len(references)} reference pictures: self-attention reads one beside "
            "the image's own. Keep one, or join them into one picture."
        )
    if is_edited:
        raise ArgumentError(
            "Got --reference for a picture that is edited by its words: what it reads of a picture "
            "is that of its source. Leave it out, in a line of a prompts file with "
            '"reference": "none", or take the look of a photo with t2i edit --image PHOTO '
            "--style 1."
        )


def _parse_scale(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ArgumentError(
            f"Got --reference with scale={text!r:.80}: expected a number, such as 1. A prompt is "
            f"given by its name: {SYNTAX.example}"
        ) from None
