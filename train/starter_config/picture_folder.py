"""Statistics of the folder of pictures that a starter config is written for."""

from dataclasses import dataclass
from pathlib import Path

from train.data.discovery import check_broken_fraction, list_and_check_pictures
from train.data.pictures_config import PictureDatasetConfig
from train.data.subsets import SubsetConfig

COMPANION_FOLDERS = ("masks", "losers")
"""Folders within a folder of pictures that hold masks, or the worse pictures of pairs."""
HINTS_FOLDER = "hints"
"""Folder within a folder of pictures that holds the hints that a control is trained on."""
PAIR_SIDES = ("win", "lose")
"""Folders within a folder of pairs that hold the better pictures and the worse ones."""
MIN_PICTURES_TO_HOLD_OUT = 40
"""Pictures from which on some are held out, to measure on."""


@dataclass(frozen=True, slots=True)
class PictureFolderStats:
    """Statistics of a folder of pictures: counts, sizes, captions, masks, worse pictures of pairs.

    side : of the square that has the area of the middle picture
    sizes : the smallest, the middle and the largest, as "640x480"
    captions : the different ones, each picture's first before others of one picture; `captioned`
        is how many pictures have one
    has_masks, has_losers : there is a folder of masks, or of the worse pictures of pairs, in it
    has_hints : there is a folder of hints in it, and a control is to be trained
    has_alpha : some pictures are transparent
    """

    pictures: int
    broken: int
    side: int
    sizes: tuple[str, ...]
    captioned: int
    captions: tuple[str, ...] = ()
    has_masks: bool = False
    has_alpha: bool = False
    has_losers: bool = False
    has_hints: bool = False


def map_subset_keys_to_folders(folder: Path, *, with_hints: bool = False) -> dict[str, Path]:
    """Return the configuration keys of the subset in a folder of pictures, with the folder that
    each names: `folder`, `masks` and `losers` as far as present, and `hints` if asked.

    A folder with `win` and `lose` in it holds pairs, as `t2i data pairs` writes them.
    """
    if all((folder / side).is_dir() for side in PAIR_SIDES):
        return dict(zip(("folder", "losers"), (folder / side for side in PAIR_SIDES), strict=True))
    keys = (*COMPANION_FOLDERS, *[HINTS_FOLDER] * with_hints)
    return {"folder": folder} | {key: folder / key for key in keys if (folder / key).is_dir()}


def inspect_picture_folder(folder: Path, *, with_hints: bool = False) -> PictureFolderStats:
    """Read every picture of a folder and return their counts, sizes and captions.

    with_hints : a folder of hints in it is for a control; every picture then needs one

    Raises DataError if none is usable, or hints are missing.
    """
    sources = map_subset_keys_to_folders(folder, with_hints=with_hints)
    subset = SubsetConfig.model_validate(sources)
    found = list_and_check_pictures(PictureDatasetConfig(subsets=(subset,)))
    if not found.pictures:
        check_broken_fraction(found.broken, found.total, 0.0)
    shapes = sorted(
        (one.shape for one in found.pictures), key=lambda shape: shape.height * shape.width
    )
    middle = shapes[len(shapes) // 2]
    captioned = [one.entry.captions for one in found.pictures if one.entry.captions]
    captions = [texts[0] for texts in captioned] + [text for texts in captioned for text in texts]
    return PictureFolderStats(
        pictures=len(found.pictures),
        broken=len(found.broken),
        side=round((middle.height * middle.width) ** 0.5),
        sizes=tuple(
            dict.fromkeys(f"{s.width}x{s.height}" for s in (shapes[0], middle, shapes[-1]))
        ),
        captioned=len(captioned),
        captions=tuple(dict.fromkeys(captions)),
        has_masks="masks" in sources,
        has_alpha=any(one.transparent for one in found.pictures),
        has_losers="losers" in sources,
        has_hints="hints" in sources,
    )


def is_broken_fraction_allowed(facts: PictureFolderStats) -> bool:
    """Return True if the fraction of broken pictures in a folder is one that a run accepts."""
    bad_share: float = PictureDatasetConfig.model_fields["bad_share"].default
    return facts.broken <= bad_share * (facts.pictures + facts.broken)


def has_enough_pictures_to_hold_out(facts: PictureFolderStats) -> bool:
    """Return True if there are enough pictures to hold some out for validation."""
    return facts.pictures >= MIN_PICTURES_TO_HOLD_OUT
