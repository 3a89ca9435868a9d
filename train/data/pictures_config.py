"""Configuration of a data set of one's own pictures: [data] with kind = "pictures"."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from t2i.controls.hints import HintKind
from t2i.pictures import MAX_PIXELS
from train.data.buckets import Shape, list_bucket_shapes
from train.data.decode import MAX_PIXELS_LIMIT
from train.data.subsets import Count, CropMode, Fraction, SubsetConfig, check_caption_placeholders

SMALL_SIZE_LIMIT = 256
"""Below this size, in pixels, the default bucket step is 8 and not 64."""


class PictureDatasetConfig(BaseModel):
    """Configuration of a data set of one's own pictures: sources, image sizes, crops, captions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["pictures"] = "pictures"
    folder: Path | None = None
    """Folder of the pictures; short for one subset."""
    subsets: tuple[SubsetConfig, ...] = ()
    size: int = Field(512, ge=8, le=4096)
    """Side in pixels of the square whose area no bucket exceeds."""
    seed: int = Field(0, ge=0)
    """Seed of crops, flips and captions."""
    buckets: bool = True
    """Keep the aspect ratio, nearly; without it every picture becomes the square."""
    bucket_step: int = Field(64, ge=8)
    """Sides of buckets are multiples of it, in pixels; default 64, or 8 for a size below 256."""
    max_aspect: float = Field(4.0, ge=1)
    """Greatest aspect ratio of a bucket; longer pictures are cropped."""
    crop: CropMode = "center"
    crop_variants: int = Field(4, ge=1, le=256)
    """Number of positions of a random crop; the first of them is the center."""
    flip: bool = False
    """Mirror the picture in every other visit, on average."""
    caption: str | None = None
    """Caption for every picture of a subset that is not prior, instead of its own."""
    trigger: str = ""
    """The new word; put before a caption that does not contain it."""
    prefix: str = ""
    suffix: str = ""
    shuffle_captions: bool = False
    """Shuffle the comma-separated tags of a caption at each visit."""
    keep_tokens: Count = 0
    """Number of first tags that are neither shuffled nor dropped."""
    tag_dropout: Fraction = 0.0
    """Share of the other tags that is dropped at a visit."""
    alpha_mask: bool = False
    """Use the alpha channel of pictures as a mask: the loss counts where they are opaque."""
    masked_word: str = ""
    """Word for what the masks show, for attention supervision; default: the trigger."""
    hint: HintKind | None = None
    """Kind of hint that is made of each picture without one of its own, for targets that train a
    control."""
    hint_settings: dict[str, int | float] = {}
    """Settings of `hint`, as { low = 50, high = 120 } for canny."""
    held_out: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = 0
    """Pictures that are never trained on, chosen by content: their number or share."""
    bad_share: float = Field(0.01, ge=0, lt=1)
    """Greatest share of broken pictures with which training still starts, without them."""
    check: Literal["full", "quick"] = "full"
    """Check before the first step: decode every picture, or read headers only."""
    max_pixels: int = Field(MAX_PIXELS, ge=1, le=MAX_PIXELS_LIMIT)
    """A larger picture counts as broken and is not decoded."""

    @model_validator(mode="before")
    @classmethod
    def _choose_bucket_step(cls, given: object) -> object:
        if not isinstance(given, dict) or "bucket_step" in given:
            return given
        size = given.get("size")
        small = isinstance(size, int) and size < SMALL_SIZE_LIMIT
        return {**given, "bucket_step": 8} if small else given

    @model_validator(mode="after")
    def _check_sources_and_size(self) -> Self:
        if (self.folder is None) == (not self.subsets):
            given = "neither" if self.folder is None else "both"
            raise ValueError(
                f"Got {given} of folder and subsets: name one folder, or list [[data.subsets]]."
            )
        if self.buckets and self.size % self.bucket_step:
            below = self.size // self.bucket_step * self.bucket_step
            sizes = [size for size in (below, below + self.bucket_step) if size]
            finer = "" if self.size % 8 else ", or bucket_step = 8 for a small model"
            raise ValueError(
                f"size = {self.size} is no multiple of bucket_step = {self.bucket_step}: choose "
                f"one that is, as {' or '.join(map(str, sizes))}{finer}."
            )
        check_caption_placeholders(self.caption, "caption")
        if self.subsets and all(subset.prior for subset in self.subsets):
            raise ValueError("Every subset is a prior one: name the pictures to learn from too.")
        return self


def list_configured_bucket_shapes(config: PictureDatasetConfig) -> tuple[Shape, ...]:
    """Return the heights and widths of all buckets that a picture data set's configuration
    allows.
    """
    if not config.buckets:
        return (Shape(config.size, config.size),)
    return list_bucket_shapes(config.size, config.bucket_step, config.max_aspect)
