"""Where pictures come from: each kind of place that a subset may name, and how it is listed."""

from train.data.pictures_config import PicturesConfig
from train.data.sources.folder import CAPTION_SUFFIXES, FolderRules, list_folder
from train.data.sources.kohya import subsets_of_kohya
from train.data.sources.listed import Listing
from train.data.sources.table import list_table
from train.data.sources.tars import list_tars
from train.data.subsets import SubsetConfig


def expanded(config: PicturesConfig) -> tuple[list[SubsetConfig], list[str]]:
    """The subsets, those of a kohya TOML among them, and what one should know of that."""
    if config.folder is not None:
        return [SubsetConfig(folder=config.folder)], []
    subsets: list[SubsetConfig] = []
    notes: list[str] = []
    for subset in config.subsets:
        if subset.kohya is None:
            subsets.append(subset)
            continue
        described, told = subsets_of_kohya(subset.kohya, config.size)
        own = {key: getattr(subset, key) for key in subset.model_fields_set - {"kohya"}}
        subsets += [one.model_copy(update=own) for one in described]
        notes += told
    return subsets, notes


def list_place(subset: SubsetConfig) -> Listing:
    """All that lies there."""
    if subset.tars is not None:
        patterns = (subset.tars,) if isinstance(subset.tars, str) else subset.tars
        return list_tars(patterns, subset.caption_column)
    if subset.dataset is not None:
        return list_table(
            subset.dataset,
            subset.dataset_config,
            subset.split,
            subset.image_column,
            subset.caption_column,
        )
    assert subset.folder is not None
    suffixes: tuple[str, ...] = CAPTION_SUFFIXES
    if subset.caption_extension is not None:
        suffixes = ("." + subset.caption_extension.removeprefix(".").lower(),)
    rules = FolderRules(suffixes, subset.caption_column, subset.masks, subset.losers)
    return list_folder(subset.folder, rules)
