"""Text output of `t2i data check`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from t2i.cli.output import print_two_columns
from t2i.terminal import plural, print_result_line

if TYPE_CHECKING:
    from train.data.pictures_config import PictureDatasetConfig
    from train.data.summary import BucketCount, DatasetSummary, SubsetCount

MAX_NAMED_PICTURES = 10
"""Maximum number of images named for one trait; invalid ones are all named."""
SINGULAR_VERBS = {"have": "has", "are": "is"}


def print_data_summary(
    summary: "DatasetSummary", config: "PictureDatasetConfig", batch_size: int | None
) -> None:
    """Print the summary of a data set: contents, possible problems, and broken images."""
    sizes = ", ".join(f"{width}x{height}" for width, height in dict.fromkeys(summary.sizes))
    rows: dict[str, object] = {
        "pictures": summary.format_counts(),
        **({"pairs": summary.pairs} if summary.pairs else {}),
        **({"hints": summary.hints} if summary.hints else {}),
        "sizes": sizes + (" (smallest, middle, largest)" if len({*summary.sizes}) > 2 else ""),
        "captions": "shuffled anew at each visit"
        if summary.captions is None
        else f"{summary.captions} different",
        "epoch": plural(summary.epoch, "visit"),
    }
    print_two_columns(rows)
    if len(summary.subsets) > 1:
        print_result_line("\nsubsets")
        for subset in summary.subsets:
            kind = "prior, " if subset.prior else ""
            print_result_line(f"  {subset.place}: {kind}{_format_size(subset)}")
    print_result_line(f"\nbuckets of at most {config.size}x{config.size} pixels")
    for bucket in summary.buckets:
        shape = f"{bucket.width}x{bucket.height}"
        less = batch_size is not None and bucket.places < batch_size
        print_result_line(f"  {shape:>9}  {_format_size(bucket)}{' *' * less}")
    if batch_size is not None and summary.list_small_buckets(batch_size):
        print_result_line(f"  * fewer visits than a batch of {batch_size}: pictures repeat in it")
    for note in summary.notes:
        print_result_line(f"\n{note}")
    _print_names("have no caption: give one, or a caption or trigger for all", summary.uncaptioned)
    _print_names("have no mask: the whole picture counts", summary.unmasked)
    odd = [f"{name}: its mask {what}" for name, what in summary.odd_masks]
    _print_names("have a mask that may not be meant", odd)
    _print_names("are enlarged to fill their bucket", summary.enlarged)
    _print_names("are transparent in part: that becomes white", summary.transparent)
    _print_names("are there more than once", [" = ".join(same) for same in summary.duplicates])
    if summary.broken:
        print_result_line(f"\n{len(summary.broken)} cannot be used")
        for name, reason in summary.broken:
            print_result_line(f"  {name}: {reason}")


def _format_size(part: "BucketCount | SubsetCount") -> str:
    return f"{plural(part.pictures, 'picture')}, {plural(part.places, 'visit')}"


def _print_names(trait: str, names: Sequence[str]) -> None:
    """Print the names that share a trait, which begins with "have" or "are"."""
    if not names:
        return
    verb, rest = trait.split(" ", 1)
    print_result_line(f"\n{len(names)} {SINGULAR_VERBS[verb] if len(names) == 1 else verb} {rest}")
    for name in names[:MAX_NAMED_PICTURES]:
        print_result_line(f"  {name}")
    if len(names) > MAX_NAMED_PICTURES:
        print_result_line(f"  and {len(names) - MAX_NAMED_PICTURES} more")
