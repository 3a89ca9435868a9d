"""Discovery of the pictures that a configuration names: listed, read once, with their rules."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from t2i.errors import ArgumentError, DataError
from t2i.terminal import plural
from train.data.caption_rules import CaptionRules
from train.data.decode import BrokenPictureError
from train.data.hints import ConfiguredHintFunction
from train.data.picture_checks import (
    ProgressFunction,
    UsablePicture,
    iterate_usable_and_broken_pictures,
)
from train.data.pictures_config import PictureDatasetConfig
from train.data.sources.listing import PictureEntry, PictureListing
from train.data.sources.subset_listing import (
    expand_kohya_subsets_and_list_remarks,
    list_subset_pictures,
)
from train.data.subsets import PLACEHOLDER_PATTERN, CropMode, SubsetConfig

MAX_NAMED_PICTURES = 20
"""Greatest number of broken pictures that a message lists."""
MAX_NAMED_WITHOUT_HINT = 1000
"""Greatest number of pictures without a hint that a message lists."""


@dataclass(frozen=True, slots=True)
class ResolvedSubsetSettings:
    """Settings of one subset of pictures, with those of the whole data set where it has none of
    its own.
    """

    subset: SubsetConfig
    captions: CaptionRules
    crop: CropMode
    flip: bool
    hint: ConfiguredHintFunction | None = None
    """Makes the hints, unless the source of the subset lists them."""

    @property
    def location(self) -> str:
        """Name of the source that a subset of training pictures is read from, as the configuration
        has it: a folder, a file of pairs, a data set or archives.
        """
        subset = self.subset
        return str(subset.folder or subset.pairs or subset.dataset or subset.tars)

    @property
    def loss_weight(self) -> float:
        """Weight of the training loss on the pictures of the subset."""
        return self.subset.prior_weight if self.subset.prior else 1.0

    def without_randomness(self) -> "ResolvedSubsetSettings":
        """Return a copy of the subset's settings without random crops, flips and caption changes,
        so that a picture is the same at each visit.
        """
        captions = replace(self.captions, shuffle=False, tag_dropout=0.0)
        return replace(self, captions=captions, crop="center", flip=False)


@dataclass(frozen=True, slots=True)
class FoundPictures:
    """All pictures that a data set's sources list, usable and broken.

    pictures : the usable ones, subset by subset; each has its subset's index in `rules`
    total : number of usable and broken pictures
    notes : remarks on how the sources were read
    """

    pictures: tuple[UsablePicture, ...]
    broken: tuple[BrokenPictureError, ...]
    total: int
    notes: tuple[str, ...]
    rules: tuple[ResolvedSubsetSettings, ...]

    def choose_held_out_digests(self, wanted: int | float) -> frozenset[str]:
        """Choose the pictures that are held out for validation and return the digests of their
        content; class pictures never are.

        wanted : their number or share; a share holds out at least one picture

        The choice depends on content alone: with a share, adding pictures changes nothing for the
        others; with a number, new pictures can take the place of others.
        """
        digests = sorted(
            {one.digest for one in self.pictures if not self.rules[one.subset].subset.prior}
        )
        if isinstance(wanted, int):
            return frozenset(digests[:wanted])
        below = [digest for digest in digests if int(digest[:13], 16) < wanted * 16**13]
        return frozenset(below or digests[:1])


def list_and_check_pictures(
    config: PictureDatasetConfig,
    progress: ProgressFunction | None = None,
    sound: Container[str] = (),
) -> FoundPictures:
    """List the pictures of every subset of a configuration, and read and check each of them.

    sound : digests of pictures that need not be decoded again

    Raises DataError if a source cannot be read or has no picture at all, or lists hints, but not
    for every picture.
    """
    subsets, notes = expand_kohya_subsets_and_list_remarks(config)
    rules = [resolve_subset_settings(config, subset) for subset in subsets]
    for rule in rules:
        if rule.hint is not None:
            rule.hint.check_settings()
    without_hint: list[str] = []
    broken: list[BrokenPictureError] = []
    todo: list[tuple[int, PictureEntry]] = []
    for number, rule in enumerate(rules):
        listing: PictureListing = list_subset_pictures(rule.subset)
        if not listing.pictures and not listing.broken:
            raise DataError(f"No pictures in {rule.location}. Check the path.")
        todo += [
            (number, apply_caption_template_and_multiply_repeats(picture, rule))
            for picture in listing.pictures
        ]
        if rule.subset.has_hint_folder_or_column:
            without_hint += [one.name for one in listing.pictures if one.hint is None]
        broken += listing.broken
        notes += listing.notes
    check_no_hint_is_missing(without_hint)

    usable = []
    for one in iterate_usable_and_broken_pictures(
        todo, config.max_pixels, config.check == "full", sound, progress
    ):
        if isinstance(one, UsablePicture):
            usable.append(one)
        else:
            broken.append(one)
    total = len(usable) + len(broken)
    return FoundPictures(tuple(usable), tuple(broken), total, tuple(notes), tuple(rules))


def resolve_subset_settings(
    config: PictureDatasetConfig, subset: SubsetConfig
) -> ResolvedSubsetSettings:
    """Return the settings of a subset, with those of the data set where it has none of its own.

    Raises ArgumentError for a caption template with a trigger that is not set.
    """
    prior = subset.prior
    trigger = subset.trigger if subset.trigger is not None else "" if prior else config.trigger
    if subset.caption is None and config.caption is not None and not prior:
        subset = subset.model_copy(update={"caption": config.caption})
    for template in (subset.caption, subset.default_caption):
        if template is not None and "{trigger}" in template and not trigger:
            raise ArgumentError(
                f"The caption {template!r} names a trigger, but there is none: set trigger."
            )
    if subset.alpha_mask is None:
        alpha_mask = config.alpha_mask and subset.masks is None
        subset = subset.model_copy(update={"alpha_mask": alpha_mask})
    captions = CaptionRules(
        config.shuffle_captions if subset.shuffle_captions is None else subset.shuffle_captions,
        config.keep_tokens if subset.keep_tokens is None else subset.keep_tokens,
        config.tag_dropout if subset.tag_dropout is None else subset.tag_dropout,
        trigger,
        config.prefix if subset.prefix is None else subset.prefix,
        config.suffix if subset.suffix is None else subset.suffix,
    )
    return ResolvedSubsetSettings(
        subset,
        captions,
        subset.crop or config.crop,
        config.flip if subset.flip is None else subset.flip,
        resolve_hint_function(config, subset),
    )


def resolve_hint_function(
    config: PictureDatasetConfig, subset: SubsetConfig
) -> ConfiguredHintFunction | None:
    """Return the function that makes the hints of a subset's pictures; None where its source lists
    them, or nothing asks for hints.
    """
    kind = subset.hint or config.hint
    if kind is None or subset.has_hint_folder_or_column:
        return None
    inherited = config.hint_settings if kind == config.hint else {}
    return ConfiguredHintFunction(
        kind, inherited if subset.hint_settings is None else subset.hint_settings
    )


def check_no_hint_is_missing(names: Sequence[str]) -> None:
    """Raise DataError if any picture is named in `names`: the pictures without a hint in a source
    that should list a hint for each.
    """
    if not names:
        return
    listed = "".join(f"\n  {name}" for name in names[:MAX_NAMED_WITHOUT_HINT])
    more = len(names) - MAX_NAMED_WITHOUT_HINT
    raise DataError(
        f"Without a hint: {plural(len(names), 'picture')}:{listed}"
        f"{f'{chr(10)}  and {more} more' if more > 0 else ''}\n"
        "Every picture needs one, of the same name or in the same row: add them, or leave these "
        "pictures out."
    )


def apply_caption_template_and_multiply_repeats(
    picture: PictureEntry, rules: ResolvedSubsetSettings
) -> PictureEntry:
    """Return a picture with the caption that its subset's template makes, if it has one, and with
    its repeats times those of the subset.
    """
    captions, subset = picture.captions, rules.subset
    template = subset.default_caption if subset.caption is None else subset.caption
    if template is not None and (subset.caption is not None or not captions):
        words = {
            "trigger": rules.captions.trigger,
            "stem": picture.stem,
            "folder": picture.folder,
        }
        captions = (PLACEHOLDER_PATTERN.sub(lambda match: words[match[1]], template),)
    return replace(picture, captions=captions, repeats=picture.repeats * subset.repeats)


def check_broken_fraction(
    broken: Sequence[BrokenPictureError], total: int, bad_share: float
) -> None:
    """Raise DataError, with a list, if more than the fraction `bad_share` of the pictures is
    broken.
    """
    if len(broken) <= bad_share * total:
        return
    listed = "".join(f"\n  {one}" for one in broken[:MAX_NAMED_PICTURES])
    more = (
        f"\n  and {len(broken) - MAX_NAMED_PICTURES} more"
        if len(broken) > MAX_NAMED_PICTURES
        else ""
    )
    raise DataError(
        f"{len(broken)} of {plural(total, 'picture')} cannot be used, more than bad_share = "
        f"{bad_share:g} "
        f"allows:{listed}{more}\nMend or remove them, or raise data.bad_share."
    )
