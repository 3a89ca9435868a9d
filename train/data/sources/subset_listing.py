"""Listing of a subset, whichever kind of source it names."""

from train.data.pictures_config import PictureDatasetConfig
from train.data.sources.folder import CAPTION_SUFFIXES, PictureFolderOptions, list_picture_folder
from train.data.sources.huggingface_dataset import list_huggingface_dataset
from train.data.sources.kohya import load_kohya_subsets_and_unused_key_notes
from train.data.sources.listing import PictureListing
from train.data.sources.preference_pairs import list_preference_pairs
from train.data.sources.tars import list_tar_pictures
from train.data.subsets import SubsetConfig


def expand_kohya_subsets_and_list_remarks(
    config: PictureDatasetConfig,
) -> tuple[list[SubsetConfig], list[str]]:
    """Return the subsets of a configuration, each kohya TOML replaced by the subsets in it, and
    remarks on these.
    """
    if config.folder is not None:
        return [SubsetConfig(folder=config.folder)], []
    subsets: list[SubsetConfig] = []
    notes: list[str] = []
    for subset in config.subsets:
        if subset.kohya is None:
            subsets.append(subset)
            continue
        described, remarks = load_kohya_subsets_and_unused_key_notes(
            subset.kohya, config.size, with_hints=subset.hint_column is not None
        )
        own_keys = subset.model_fields_set - {"kohya", "hint_column"}
        own = {key: getattr(subset, key) for key in own_keys}
        subsets += [one.model_copy(update=own) for one in described]
        notes += remarks
    return subsets, notes


def list_subset_pictures(subset: SubsetConfig) -> PictureListing:
    """List the pictures of a subset, whether its source is a folder, a file of pairs, archives or
    a `datasets` table.

    Raises DataError if its source cannot be read.
    """
    if subset.pairs is not None:
        return list_preference_pairs(subset.pairs, subset.hint_column)
    if subset.tars is not None:
        patterns = (subset.tars,) if isinstance(subset.tars, str) else subset.tars
        return list_tar_pictures(patterns, subset.caption_column, subset.hint_column)
    if subset.dataset is not None:
        return list_huggingface_dataset(
            subset.dataset,
            subset.dataset_config,
            subset.split,
            subset.image_column,
            subset.caption_column,
            subset.hint_column,
        )
    assert subset.folder is not None
    suffixes: tuple[str, ...] = CAPTION_SUFFIXES
    if subset.caption_extension is not None:
        suffixes = ("." + subset.caption_extension.removeprefix(".").lower(),)
    options = PictureFolderOptions(
        suffixes,
        subset.caption_column,
        subset.masks,
        subset.losers,
        subset.hints,
        subset.hint_column,
    )
    return list_picture_folder(subset.folder, options)
