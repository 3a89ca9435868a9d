"""Summary of a data set of pictures: counts, sizes, and what may be wrong with it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from t2i.masks import MaskMistake
from t2i.terminal import plural
from train.data.buckets import Shape, is_smaller_than_bucket
from train.data.discovery import FoundPictures, ResolvedSubsetSettings
from train.data.picture_checks import UsablePicture

MASK_WARNINGS: dict[MaskMistake, str] = {
    "white": "is white all over: the whole picture counts",
    "black": "is black all over, or clear: nothing of the picture counts",
    "hole": "looks like a picture with a clear hole, which does not count: white counts",
}


@dataclass(frozen=True, slots=True)
class BucketCount:
    """Number of pictures in one bucket, and of times that an epoch shows them.

    places : number of times that they occur in an epoch
    """

    width: int
    height: int
    pictures: int
    places: int


@dataclass(frozen=True, slots=True)
class SubsetCount:
    """Number of pictures in one subset, and of times that an epoch shows them.

    places : number of times that they occur in an epoch
    """

    place: str
    prior: bool
    pictures: int
    places: int


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """Summary of a data set of pictures: counts, sizes, and names of pictures that may be faulty.

    found : number of all pictures: trained on, held out or broken
    pairs : number of preference pairs: pictures to train on that have a worse one
    hints : number of pictures to train on that have a hint
    sizes : (width, height) of the smallest, the median and the largest picture
    captions : number of different captions, the empty one aside; None if shuffled
    broken : name and reason of each
    uncaptioned : names of those with neither a caption nor a trigger
    unmasked : names of those without a mask in a subset where others have one
    odd_masks : name and warning of each
    enlarged : names of those smaller than their bucket
    transparent : names of those that become white in part
    duplicates : names of pictures, or of the better ones of pairs, with equal content
    notes : remarks on how the sources were read
    """

    found: int
    trained: int
    held_out: int
    epoch: int
    pairs: int
    hints: int
    sizes: list[tuple[int, int]]
    subsets: list[SubsetCount]
    buckets: list[BucketCount]
    captions: int | None
    broken: list[tuple[str, str]]
    uncaptioned: list[str]
    unmasked: list[str]
    odd_masks: list[tuple[str, str]]
    enlarged: list[str]
    transparent: list[str]
    duplicates: list[list[str]]
    notes: list[str]

    def list_small_buckets(self, batch_size: int) -> list[BucketCount]:
        """List the buckets with fewer pictures than a batch, so that pictures repeat in it."""
        return [bucket for bucket in self.buckets if bucket.places < batch_size]

    def format_counts(self) -> str:
        """Format the numbers of trained, held-out and broken pictures as text."""
        parts = [f"{self.trained} to train on"]
        parts += [f"{self.held_out} held out"] * bool(self.held_out)
        parts += [f"{len(self.broken)} broken"] * bool(self.broken)
        return f"{self.found}: {', '.join(parts)}"

    def format_startup_lines(self, batch_size: int) -> list[str]:
        """Return the lines that a training run prints about its pictures when it begins."""
        shapes = ", ".join(f"{b.width}x{b.height}" for b in self.list_small_buckets(batch_size))
        remarks = [f"pictures {self.format_counts()}; {len(self.buckets)} buckets"]
        remarks += [f"hints: {self.hints}"] * bool(self.hints)
        remarks += [f"left out: {name}: {reason}" for name, reason in self.broken]
        if shapes:
            remarks.append(f"fewer visits than a batch, so pictures repeat in it: {shapes}")
        if self.uncaptioned:
            remarks.append(f"without a caption: {plural(len(self.uncaptioned), 'picture')}")
        if self.odd_masks:
            (name, what), more = self.odd_masks[0], len(self.odd_masks) - 1
            remarks.append(f"mask of {name} {what}" + f"; {more} more such masks" * bool(more))
        if self.enlarged:
            remarks.append(
                f"smaller than their bucket and enlarged: {plural(len(self.enlarged), 'picture')}"
            )
        return remarks

    def to_json_dict(self) -> dict[str, object]:
        """Return the data set's summary as a dict that can be written as JSON."""
        return asdict(self)


def summarize_pictures(
    found: FoundPictures,
    trained: Sequence[UsablePicture],
    buckets: Sequence[Shape],
    epoch: Sequence[int],
    captions: set[str] | None,
) -> DatasetSummary:
    """Summarize a data set of pictures from what was found when they were checked; no file is
    read again.

    trained, buckets : the pictures and the shape that each is brought to
    epoch : indices into `trained`, each as often as one epoch shows it
    captions : all that can occur, or None where they are too many to list
    """
    rules, places = found.rules, Counter(epoch)
    shapes = sorted((one.shape for one in trained), key=lambda shape: shape.height * shape.width)
    masked = {
        one.subset for one in trained if one.entry.mask or rules[one.subset].subset.alpha_mask
    }
    return DatasetSummary(
        found=found.total,
        trained=len(trained),
        held_out=len(found.pictures) - len(trained),
        epoch=len(epoch),
        pairs=sum(one.entry.loser is not None for one in trained),
        hints=sum(one.entry.hint is not None or bool(rules[one.subset].hint) for one in trained),
        sizes=[(s.width, s.height) for s in (shapes[0], shapes[len(shapes) // 2], shapes[-1])],
        subsets=_count_subsets(trained, rules, places),
        buckets=_count_buckets(buckets, places),
        captions=None if captions is None else len(captions - {""}),
        broken=[(one.name, one.reason) for one in found.broken],
        uncaptioned=[
            one.entry.name
            for one in trained
            if not one.entry.captions and not rules[one.subset].captions.trigger
        ],
        unmasked=[
            one.entry.name
            for one in trained
            if one.subset in masked and not one.entry.mask and not one.transparent
        ],
        odd_masks=[
            (one.entry.name, MASK_WARNINGS[one.odd_mask])
            for one in trained
            if one.odd_mask is not None
        ],
        enlarged=[
            one.entry.name
            for one, bucket in zip(trained, buckets, strict=True)
            if is_smaller_than_bucket(one.shape, bucket)
        ],
        transparent=[
            one.entry.name
            for one in trained
            if one.transparent and not rules[one.subset].subset.alpha_mask
        ],
        duplicates=_duplicates(found.pictures),
        notes=list(found.notes),
    )


def _count_subsets(
    trained: Sequence[UsablePicture],
    rules: Sequence[ResolvedSubsetSettings],
    places: Mapping[int, int],
) -> list[SubsetCount]:
    by_subset: dict[int, list[int]] = defaultdict(list)
    for index, one in enumerate(trained):
        by_subset[one.subset].append(index)
    return [
        SubsetCount(
            rules[number].location,
            rules[number].subset.prior,
            len(members),
            sum(places[index] for index in members),
        )
        for number, members in sorted(by_subset.items())
    ]


def _count_buckets(buckets: Sequence[Shape], places: Mapping[int, int]) -> list[BucketCount]:
    by_bucket: dict[Shape, list[int]] = defaultdict(list)
    for index, bucket in enumerate(buckets):
        by_bucket[bucket].append(index)
    return [
        BucketCount(
            bucket.width,
            bucket.height,
            len(members),
            sum(places[index] for index in members),
        )
        for bucket, members in sorted(by_bucket.items())
    ]


def _duplicates(seen: Iterable[UsablePicture]) -> list[list[str]]:
    by_digest: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in seen:  # a picture may be the better one of several pairs
        by_digest[one.digest, one.loser_digest].append(one.entry.name)
    return [names for names in by_digest.values() if len(names) > 1]
