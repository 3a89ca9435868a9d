"""One part of a data set of pictures: where they lie, and what holds for them alone."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Crop = Literal["center", "random"]
PLACEHOLDER = re.compile(r"\{(\w*)\}")
FILLED_IN = ("trigger", "stem", "folder")
PLACES = ("folder", "tars", "dataset", "kohya")


class SubsetConfig(BaseModel):
    """Pictures of one place. What is not said here is as the data set says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path | None = None
    """Of pictures, with captions as imagefolder, text files or kohya's folder names give them."""
    tars: str | tuple[str, ...] | None = None
    """webdataset's shards: paths with * or {000..012} in them."""
    dataset: str | None = None
    """A name or path that the library `datasets` opens."""
    kohya: Path | None = None
    """A TOML that describes data sets to kohya's scripts."""

    dataset_config: str | None = None
    split: str = "train"
    image_column: str = "image"
    caption_column: str | None = None
    """Of `dataset` and of a folder's metadata; by default text, caption or captions."""
    caption_extension: str | None = None
    """Of the files beside the pictures; by default .txt, then .caption."""

    caption: str | None = None
    """For every picture, in place of its own; {trigger}, {stem} and {folder} are filled in."""
    default_caption: str | None = None
    """For a picture that has none."""
    trigger: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    shuffle_captions: bool | None = None
    keep_tokens: Count | None = None
    tag_dropout: Share | None = None
    crop: Crop | None = None
    flip: bool | None = None

    repeats: int = Field(1, ge=1)
    """How often each picture stands in an epoch."""
    prior: bool = False
    """Pictures of the class, which keep it as it is; the data set's own trigger is not for them."""
    prior_weight: float = Field(1.0, gt=0)
    """Of the loss of a `prior` subset."""
    masks: Path | None = None
    """A folder of pictures named as these are: white where the loss counts."""
    losers: Path | None = None
    """A folder of pictures named as these, each the worse one of a pair, for preferences."""
    alpha_mask: bool | None = None
    """The loss counts where a picture is opaque; otherwise what is transparent becomes white."""

    @model_validator(mode="after")
    def _lie_in_one_place(self) -> Self:
        given = [place for place in PLACES if getattr(self, place) is not None]
        if len(given) != 1:
            raise ValueError(
                f"Got {' and '.join(given) or 'none'} of {', '.join(PLACES)}: a subset has exactly "
                "one of them."
            )
        if self.masks is not None and self.alpha_mask:
            raise ValueError("Got both masks and alpha_mask: a picture has one mask, choose.")
        for key in ("masks", "losers"):
            if getattr(self, key) is not None and self.folder is None:
                raise ValueError(f"{key} go with folder, not with {given[0]}.")
        check_placeholders(self.caption, "caption")
        check_placeholders(self.default_caption, "default_caption")
        # Not by what was given: a checkpoint gives every key.
        if self.prior_weight != 1 and not self.prior:
            raise ValueError("prior_weight is set, but prior is not: set prior = true.")
        return self


def check_placeholders(template: str | None, key: str) -> None:
    for word in PLACEHOLDER.findall(template or ""):
        if word not in FILLED_IN:
            raise ValueError(f"{key}: {{{word}}} is none of {', '.join(FILLED_IN)}.")
