"""What a configuration of pictures stands for: all of them found, read once, and their rules."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from t2i.errors import ArgumentError, DataError
from t2i.terminal import several
from train.data.caption_rules import Wording
from train.data.decode import BrokenPicture
from train.data.pictures_config import PicturesConfig
from train.data.sources.listed import Listed, Listing
from train.data.sources.places import expanded, list_place
from train.data.subsets import PLACEHOLDER, Crop, SubsetConfig
from train.data.survey import Progress, Seen, survey

TOLD = 20
"""Broken pictures that a message lists."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for the pictures of one subset, the data set's own choices filled in."""

    subset: SubsetConfig
    wording: Wording
    crop: Crop
    flip: bool

    @property
    def place(self) -> str:
        """Where the pictures lie, as it was given."""
        subset = self.subset
        return str(subset.folder or subset.dataset or subset.tars)

    @property
    def weight(self) -> float:
        return self.subset.prior_weight if self.subset.prior else 1.0

    def still(self) -> "Rules":
        """The same, but a picture looks the same and is called the same at every visit."""
        wording = replace(self.wording, shuffle=False, tag_dropout=0.0)
        return replace(self, wording=wording, crop="center", flip=False)


@dataclass(frozen=True, slots=True)
class Found:
    """seen : the sound pictures, subset by subset; each knows its subset's number in `rules`
    number : of all that there should be
    notes : how the places were read
    """

    seen: tuple[Seen, ...]
    broken: tuple[BrokenPicture, ...]
    number: int
    notes: tuple[str, ...]
    rules: tuple[Rules, ...]

    def held_out(self, wanted: int | float) -> frozenset[str]:
        """Digests of the pictures never trained on; prior ones are not among them.

        By content alone: a share stays as it is when pictures are added, but for the new ones; of
        a number some may change places with new ones. A share holds one picture out at least.
        """
        digests = sorted(
            {one.digest for one in self.seen if not self.rules[one.subset].subset.prior}
        )
        if isinstance(wanted, int):
            return frozenset(digests[:wanted])
        below = [digest for digest in digests if int(digest[:13], 16) < wanted * 16**13]
        return frozenset(below or digests[:1])


def find(
    config: PicturesConfig, progress: Progress | None = None, sound: Container[str] = ()
) -> Found:
    """List every subset and read every picture; those of the digests `sound` are not decoded again.

    Raises DataError where a place cannot be read or holds no picture at all.
    """
    subsets, notes = expanded(config)
    rules = [rules_of(config, subset) for subset in subsets]
    broken: list[BrokenPicture] = []
    todo: list[tuple[int, Listed]] = []
    for number, rule in enumerate(rules):
        listing: Listing = list_place(rule.subset)
        if not listing.pictures and not listing.broken:
            raise DataError(f"No pictures in {rule.place}. Check the path.")
        todo += [(number, settled(picture, rule)) for picture in listing.pictures]
        broken += listing.broken
        notes += listing.notes

    seen = []
    for one in survey(todo, config.max_pixels, config.check == "full", sound, progress):
        if isinstance(one, Seen):
            seen.append(one)
        else:
            broken.append(one)
    number = len(seen) + len(broken)
    return Found(tuple(seen), tuple(broken), number, tuple(notes), tuple(rules))


def rules_of(config: PicturesConfig, subset: SubsetConfig) -> Rules:
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
    wording = Wording(
        config.shuffle_captions if subset.shuffle_captions is None else subset.shuffle_captions,
        config.keep_tokens if subset.keep_tokens is None else subset.keep_tokens,
        config.tag_dropout if subset.tag_dropout is None else subset.tag_dropout,
        trigger,
        config.prefix if subset.prefix is None else subset.prefix,
        config.suffix if subset.suffix is None else subset.suffix,
    )
    return Rules(
        subset,
        wording,
        subset.crop or config.crop,
        config.flip if subset.flip is None else subset.flip,
    )


def settled(picture: Listed, rules: Rules) -> Listed:
    """The picture with the caption and the repeats that its subset asks for."""
    captions, subset = picture.captions, rules.subset
    template = subset.default_caption if subset.caption is None else subset.caption
    if template is not None and (subset.caption is not None or not captions):
        words = {
            "trigger": rules.wording.trigger,
            "stem": picture.stem,
            "folder": picture.folder,
        }
        captions = (PLACEHOLDER.sub(lambda match: words[match[1]], template),)
    return replace(picture, captions=captions, repeats=picture.repeats * subset.repeats)


def check_share(broken: Sequence[BrokenPicture], number: int, bad_share: float) -> None:
    """Raise DataError, with the list, where more of all pictures are broken than allowed."""
    if len(broken) <= bad_share * number:
        return
    told = "".join(f"\n  {one}" for one in broken[:TOLD])
    more = f"\n  and {len(broken) - TOLD} more" if len(broken) > TOLD else ""
    raise DataError(
        f"{len(broken)} of {several(number, 'picture')} cannot be used, more than bad_share = "
        f"{bad_share:g} "
        f"allows:{told}{more}\nMend or remove them, or raise data.bad_share."
    )
