"""What is asked for, and how a model likes to be asked."""

import math
import re
import secrets
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from t2i.errors import ArgumentError, ModelError

DEFAULTS_FILE = "t2i.json"
MAX_PICTURES = 10_000
DRAWN_SEEDS = 2**32
"""A seed that nobody chose lies below this: ten digits at most, short enough to type again."""
MAX_SEED = 2**53
"""Whole numbers up to this survive every JSON reader."""
SIZE = re.compile(r"(\d{1,6})(?:x(\d{1,6}))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One picture but for its seed; None is what was left to the model."""

    prompt: str
    negative_prompt: str = ""
    model: str = "embedded"
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    width: int | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        check_text("PROMPT", self.prompt)
        check_text("--negative", self.negative_prompt)
        if self.num_inference_steps is not None and self.num_inference_steps < 1:
            raise ArgumentError(
                f"Got --steps {self.num_inference_steps}: expected a whole number from 1 on."
            )
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise ArgumentError(
                f"Got --guidance {self.guidance_scale}: expected a finite number, such as 7.5."
            )

    def with_defaults(self, defaults: "Defaults") -> "Request":
        """Fill in what was left open and is known now."""
        names = [field.name for field in fields(defaults)]
        missing = {name: getattr(defaults, name) for name in names if getattr(self, name) is None}
        return replace(self, **missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Named as in Request."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None


class ModelFile(BaseModel):
    """The layout of a model folder's t2i.json; it may say more than is read here."""

    class Sampling(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        steps: Annotated[int, Field(ge=1)] | None = None
        guidance_scale: Annotated[float, Field(allow_inf_nan=False)] | None = None
        sampler: str | None = None

    defaults: Sampling = Sampling()


def read_defaults(folder: Path) -> Defaults:
    """How the model likes to be sampled; a folder without t2i.json leaves everything open."""
    path = folder / DEFAULTS_FILE
    if not path.exists():
        return Defaults()
    try:
        sampling = ModelFile.model_validate_json(path.read_bytes()).defaults
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ModelError(
            f"Cannot use {path}: {place}: {first['msg']}. "
            'Expected {"defaults": {"steps": 20, "guidance_scale": 4.0, "sampler": "ddim"}}; '
            "mend the file or remove it."
        ) from error
    return Defaults(
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
        sampler=sampling.sampler,
    )


def choose_seeds(first: int | None, num: int) -> range:
    """One seed per picture, counting up from `first`, which is drawn if it is not given."""
    if not 1 <= num <= MAX_PICTURES:
        raise ArgumentError(f"Got --num {num}: expected a whole number from 1 to {MAX_PICTURES}.")
    if first is None:
        first = secrets.randbelow(DRAWN_SEEDS)
    if not 0 <= first <= MAX_SEED:
        raise ArgumentError(f"Got --seed {first}: expected a whole number from 0 to {MAX_SEED}.")
    return range(first, first + num)


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "512x384", or of "512" for a square."""
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise ArgumentError(
            f"Got --size {text!r}: expected width x height in pixels, as in 512x384, "
            "or one number for a square."
        )
    width, height = match.groups()
    return int(width), int(height or width)


def check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(
            f"{name} is not valid UTF-8 at character {error.start}: {text!r:.80}. "
            "Check the encoding of the terminal or of the script that wrote it."
        ) from error
