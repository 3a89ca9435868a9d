"""What one line of a prompts file may say."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from t2i.cli.file_names import NOT_WRITTEN
from t2i.cli.request.input_files import parse_embeddings, parse_file, parse_loras, parse_scaled
from t2i.cli.request.request import (
    MAX_PICTURES,
    MAX_SEED,
    Wishes,
    check_size,
    check_text,
    parse_size,
)
from t2i.cli.request.sampler_names import by_class
from t2i.cli.request.upscaling import parse_upscale
from t2i.errors import ArgumentError, nearest
from t2i.pictures import FORMATS

MAX_NAME = 200
"""Bytes; a file system takes 255, and a number and a temporary name come on top."""


MAX_STEPS = 10_000
"""More are a slip, and would hold up a night's work."""


class Broken(Exception):
    """Why a line cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What a line asks for; None is what it leaves to the options of the command.

    number : of the line in the file, from 1; of its first one where a csv record has several
    name : of its picture, with the suffix of a format
    """

    number: int
    prompt: str
    seed: int | None = None
    num: int | None = None
    name: str | None = None
    wishes: Wishes = Wishes()


class Keys(BaseModel):
    """As people write them; null, or an empty cell, says nothing."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    negative: str | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    size: str | Annotated[int, Field(ge=1)] | None = None
    width: Annotated[int, Field(ge=1)] | None = None
    height: Annotated[int, Field(ge=1)] | None = None
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    guidance: Annotated[float, Field(allow_inf_nan=False)] | None = None
    sampler: str | None = None
    num: Annotated[int, Field(ge=1, le=MAX_PICTURES)] | None = None
    name: str | None = None
    lora: str | list[str] | None = None
    embedding: str | list[str] | None = None
    ip_adapter: str | None = None
    image_prompt: str | None = None
    image: str | None = None
    strength: Annotated[float, Field(ge=0, le=1)] | None = None
    mask: str | None = None
    upscale: str | float | None = None


KEYS = tuple(Keys.model_fields)


def line_of(number: int, record: Mapping[str, object] | Broken, *, strict: bool) -> Line:
    """Raises Broken unless every key is known and its value can be used.

    strict : whether "7" is text and no number, as in JSON
    """
    if isinstance(record, Broken):
        raise record
    try:
        keys = Keys.model_validate(dict(record), strict=strict)
    except ValidationError as error:
        raise Broken(complaint(record, error)) from None
    try:
        return line_with(number, keys)
    except ArgumentError as error:
        raise Broken(str(error)) from None


def complaint(record: Mapping[str, object], error: ValidationError) -> str:
    first = error.errors()[0]
    key = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"Unknown key {shown(key)}. {nearest(key[:80], KEYS)}"
    if first["type"] == "missing":
        return 'There is no "prompt". Write {"prompt": "a cat"}.'
    return f'Got "{key}": {shown(record[key])}. {first["msg"]}.'


def line_with(number: int, keys: Keys) -> Line:
    check_text('"prompt"', keys.prompt)
    if not keys.prompt.strip() or "\0" in keys.prompt:
        raise ArgumentError(f'Got "prompt": {shown(keys.prompt)}. Write what the picture shows.')
    for name, text in (("negative", keys.negative), ("sampler", keys.sampler)):
        check_text(f'"{name}"', text or "")
    width, height = size_of(keys)
    return Line(
        number=number,
        prompt=keys.prompt,
        seed=keys.seed,
        num=keys.num,
        name=None if keys.name is None else file_name(keys.name),
        wishes=Wishes(
            negative_prompt=keys.negative,
            num_inference_steps=keys.steps,
            guidance_scale=keys.guidance,
            sampler=None if keys.sampler is None else by_class(keys.sampler),
            width=width,
            height=height,
            loras=None if keys.lora is None else parse_loras(listed(keys.lora)),
            embeddings=None if keys.embedding is None else parse_embeddings(listed(keys.embedding)),
            ip_adapter=None if keys.ip_adapter is None else parse_file(keys.ip_adapter),
            image_prompt=None if keys.image_prompt is None else parse_scaled(keys.image_prompt),
            image=None if keys.image is None else parse_file(keys.image),
            mask=None if keys.mask is None else parse_file(keys.mask),
            strength=keys.strength,
            upscale=None if keys.upscale is None else parse_upscale(str(keys.upscale)),
        ),
    )


def listed(files: str | list[str]) -> list[str]:
    """A list as it stands; text is divided at semicolons, for a cell of a csv."""
    if isinstance(files, list):
        return files
    return [part for part in (part.strip() for part in files.split(";")) if part]


def size_of(keys: Keys) -> tuple[int | None, int | None]:
    width, height = keys.width, keys.height
    if keys.size is not None:
        if width is not None or height is not None:
            raise ArgumentError('Got both "size" and "width" or "height": give one of them.')
        width, height = parse_size(str(keys.size), '"size"')
    if (width is None) != (height is None):
        raise ArgumentError('Got one of "width" and "height": give both, or "size".')
    if width is not None and height is not None:
        check_size(width, height)
    return width, height


def file_name(name: str) -> str:
    """A plain name in the folder of the pictures, with a suffix; nothing that leads out of it."""
    if name.startswith((".", "~")) or any(c in "/\\" or ord(c) < 32 for c in name) or not name:
        raise ArgumentError(
            f'Got "name": {shown(name)}. Expected a plain file name: no folder, no dot in front.'
        )
    suffix = Path(name).suffix.lower()
    if suffix in NOT_WRITTEN:
        raise ArgumentError(
            f'Got "name": {shown(name)}. Pictures are written as {", ".join(FORMATS)}.'
        )
    check_text('"name"', name)
    name = name if suffix in FORMATS else f"{name}.png"
    if len(name.encode()) > MAX_NAME:
        raise ArgumentError(f'Got "name": {shown(name)}. At most {MAX_NAME} bytes fit. Shorten it.')
    return name


def shown(value: object) -> str:
    """As JSON has it, cut short; nothing in it reaches the terminal as a command."""
    try:
        text = json.dumps(value)
    except ValueError:  # nested deeper than it can be written
        text = "..."
    return text if len(text) <= 80 else f"{text[:77]}..."
