"""Configuration of one subset of a data set of pictures: [[data.subsets]]."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from t2i.controls.hints import HintKind

Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
CropMode = Literal["center", "random"]
PLACEHOLDER_PATTERN = re.compile(r"\{(\w*)\}")
PLACEHOLDER_NAMES = ("trigger", "stem", "folder")
HINT_KEYS = ("hints", "hint_column", "hint")
KOHYA_HINT_COLUMN = "conditioning_data_dir"
"""Key of a kohya TOML for a folder of masks, or of hints."""
SOURCE_KEYS = ("folder", "pairs", "tars", "dataset", "kohya")


class SubsetConfig(BaseModel):
    """Configuration of a subset of pictures, from one source; a key left out has the data set's
    value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path | None = None
    """Folder of pictures, with captions from imagefolder, text files or kohya's folder names."""
    pairs: Path | None = None
    """JSONL file of preference pairs, each with caption, better and worse picture."""
    tars: str | tuple[str, ...] | None = None
    """webdataset shards: paths, which may contain * or {000..012}."""
    dataset: str | None = None
    """Name or path of a data set for the library `datasets`."""
    kohya: Path | None = None
    """TOML that describes data sets to kohya's scripts."""

    dataset_config: str | None = None
    split: str = "train"
    image_column: str = "image"
    caption_column: str | None = None
    """Caption column of `dataset` or of a folder's metadata; default: text, caption or captions."""
    caption_extension: str | None = None
    """Suffix of the caption files beside the pictures; default: .txt, then .caption."""

    caption: str | None = None
    """Caption for every picture, instead of its own; {trigger}, {stem}, {folder} are filled in."""
    default_caption: str | None = None
    """Caption for pictures that have none."""
    trigger: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    shuffle_captions: bool | None = None
    keep_tokens: Count | None = None
    tag_dropout: Fraction | None = None
    crop: CropMode | None = None
    flip: bool | None = None

    repeats: int = Field(1, ge=1)
    """Number of times each picture occurs in an epoch."""
    prior: bool = False
    """Class pictures, for prior preservation; the trigger of the data set is not added to them."""
    prior_weight: float = Field(1.0, gt=0)
    """Weight of the loss on a `prior` subset."""
    masks: Path | None = None
    """Folder of masks with the names of the pictures: the loss counts where they are white."""
    losers: Path | None = None
    """Folder of pictures with the same names, each the worse one of a pair, for preferences."""
    hints: Path | None = None
    """Folder of hints with the names of the pictures, which a control reads."""
    hint_column: str | None = None
    """Where a source names its hints: a column of a folder's metadata (paths) or of `dataset`
    (pictures), a key of `pairs`, the part "hint" of the members `key.hint.png` of `tars`, or of a
    kohya TOML "conditioning_data_dir", whose folders are then not masks."""
    hint: HintKind | None = None
    """Kind of hint that is made of each picture."""
    hint_settings: dict[str, int | float] | None = None
    """Settings of `hint`, as { low = 50 }; default: the data set's, for the same kind."""
    alpha_mask: bool | None = None
    """Use the alpha channel as a mask; otherwise transparent pixels become white."""

    @model_validator(mode="after")
    def _have_one_source(self) -> Self:
        given = [key for key in SOURCE_KEYS if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"Got {' and '.join(given) or 'none'} of {', '.join(SOURCE_KEYS)}: a subset has "
                "exactly one of them."
            )
        if self.masks is not None and self.alpha_mask:
            raise ValueError("Got both masks and alpha_mask: a picture has one mask, choose.")
        for key in ("masks", "losers", "hints"):
            if getattr(self, key) is not None and self.folder is None:
                raise ValueError(f"{key} go with folder, not with {given[0]}.")
        self._check_hint_keys()
        check_caption_placeholders(self.caption, "caption")
        check_caption_placeholders(self.default_caption, "default_caption")
        # Compared by value, as the config in a checkpoint sets every key.
        if self.prior_weight != 1 and not self.prior:
            raise ValueError("prior_weight is set, but prior is not: set prior = true.")
        return self

    def _check_hint_keys(self) -> None:
        hints = [key for key in HINT_KEYS if getattr(self, key) is not None]
        if len(hints) > 1:
            raise ValueError(f"Got {' and '.join(hints)}: a picture has one hint, choose.")
        if self.kohya is not None and self.hint_column not in (None, KOHYA_HINT_COLUMN):
            raise ValueError(
                f"Got hint_column = {self.hint_column!r} with kohya, whose key for hints is "
                f"{KOHYA_HINT_COLUMN!r}."
            )

    @property
    def has_hint_folder_or_column(self) -> bool:
        """True if the configuration of a subset of pictures names a folder or a column of hints,
        from which each picture must get one.
        """
        return self.hints is not None or self.hint_column is not None


def check_caption_placeholders(template: str | None, key: str) -> None:
    """Raise ValueError if a caption template has an unknown placeholder."""
    for word in PLACEHOLDER_PATTERN.findall(template or ""):
        if word not in PLACEHOLDER_NAMES:
            raise ValueError(f"{key}: {{{word}}} is none of {', '.join(PLACEHOLDER_NAMES)}.")
