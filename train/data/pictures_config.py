"""Configuration of a data set of one's own pictures: [data] with kind = "pictures"."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from t2i.pictures import MAX_PIXELS
from train.data.buckets import Shape, buckets_of
from train.data.decode import MOST_PIXELS
from train.data.subsets import Count, Crop, Share, SubsetConfig, check_placeholders

SMALL = 256
"""A model that draws smaller pictures has few of them a side if they go in steps of 64."""


class PicturesConfig(BaseModel):
    """Which pictures, in which shapes, with which captions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["pictures"] = "pictures"
    folder: Path | None = None
    """Short for one subset."""
    subsets: tuple[SubsetConfig, ...] = ()
    size: int = Field(512, ge=8, le=4096)
    """Side in pixels of the square whose area no picture exceeds."""
    seed: int = Field(0, ge=0)
    """Of crops, flips and captions."""
    buckets: bool = True
    """Keep proportions, nearly; without it every picture becomes the square."""
    bucket_step: int = Field(64, ge=8)
    """Every side is a multiple of it; 8 where it is not given and the size is below 256."""
    max_aspect: float = Field(4.0, ge=1)
    """Of a bucket; what is longer is cut."""
    crop: Crop = "center"
    crop_variants: int = Field(4, ge=1, le=256)
    """Of a picture whose crop is random: that many places, the first of them the center."""
    flip: bool = False
    """Show every other visit, on average, mirrored."""
    caption: str | None = None
    """For every picture of no prior subset, in place of its own."""
    trigger: str = ""
    """The new word: goes before a caption that does not name it."""
    prefix: str = ""
    suffix: str = ""
    shuffle_captions: bool = False
    """The tags between a caption's commas change places at each visit."""
    keep_tokens: Count = 0
    """So many of the first tags stay where they are."""
    tag_dropout: Share = 0.0
    """Share of the other tags that is left out at a visit."""
    alpha_mask: bool = False
    """The loss counts where a picture is opaque."""
    masked_word: str = ""
    """What masks show, as captions name it, for attention supervision; the trigger by default."""
    held_out: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = 0
    """Pictures that are never trained on, by their content: a number or a share."""
    bad_share: float = Field(0.01, ge=0, lt=1)
    """Share of broken pictures up to which training goes on without them."""
    check: Literal["full", "quick"] = "full"
    """Decode every picture before the first step, or look at headers only."""
    max_pixels: int = Field(MAX_PIXELS, ge=1, le=MOST_PIXELS)
    """A larger picture counts as broken and is not decoded."""

    @model_validator(mode="before")
    @classmethod
    def _step_finely_where_pictures_are_small(cls, given: object) -> object:
        if not isinstance(given, dict) or "bucket_step" in given:
            return given
        size = given.get("size")
        small = isinstance(size, int) and size < SMALL
        return {**given, "bucket_step": 8} if small else given

    @model_validator(mode="after")
    def _name_pictures_of_a_fitting_size(self) -> Self:
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
        check_placeholders(self.caption, "caption")
        if self.subsets and all(subset.prior for subset in self.subsets):
            raise ValueError("Every subset is a prior one: name the pictures to learn from too.")
        return self


def shapes_of(config: PicturesConfig) -> tuple[Shape, ...]:
    """All that a picture may be brought to."""
    if not config.buckets:
        return (Shape(config.size, config.size),)
    return buckets_of(config.size, config.bucket_step, config.max_aspect)
