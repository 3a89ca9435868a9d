"""The variants of pictures and the captions that a run will read, so that they can be cached."""

from collections.abc import Iterator

from train.batches.batch_order import BatchOrder, ProcessShare
from train.cache.latent_cache import CachedPictureDataset
from train.data.pictures import PictureCropAndFlip

MIN_MEAN_VISITS_TO_CACHE_ALL = 4
"""Mean visits per variant from which on all variants are taken to be needed; for fewer the whole
run is simulated."""


def iterate_picture_visits(
    pictures: CachedPictureDataset, order: BatchOrder, steps: int
) -> Iterator[tuple[int, int]]:
    """Iterate over a run's pictures in the order in which it reads them: yield the index of each
    picture and the number of the visit.
    """
    for step in range(steps):
        for entry in ProcessShare().list_micro_batches(order, step)[0]:
            yield pictures.find_replacement_index(entry.example_index), entry.visit


def list_needed_variants(
    pictures: CachedPictureDataset, order: BatchOrder | None, steps: int
) -> list[PictureCropAndFlip]:
    """List the augmented variants of pictures that a run reads; without an order all of them."""
    indices = {pictures.find_replacement_index(index) for index in range(len(pictures))}
    every = [variant for index in sorted(indices) for variant in pictures.list_variants(index)]
    if order is None or steps * order.batch_size >= MIN_MEAN_VISITS_TO_CACHE_ALL * len(every):
        return every
    needed: set[PictureCropAndFlip] = set()
    for index, visit in iterate_picture_visits(pictures, order, steps):
        needed.add(pictures.variant_at_visit(index, visit))
        if len(needed) == len(every):
            break
    return sorted(needed)


def list_needed_captions(
    every: set[str], pictures: CachedPictureDataset | None, order: BatchOrder, steps: int
) -> set[str]:
    """List the captions that a run reads, and the empty one for captions that are dropped out.

    pictures : None where stand-ins are not known in advance; then every caption is needed
    """
    if pictures is None or steps * order.batch_size >= MIN_MEAN_VISITS_TO_CACHE_ALL * len(every):
        return every | {""}
    return {
        pictures.caption_at_visit(*visit)
        for visit in iterate_picture_visits(pictures, order, steps)
    } | {""}
