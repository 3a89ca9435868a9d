"""What a run will read: which crops of which pictures, and which captions."""

from collections.abc import Iterator

from train.batches.order import Order, Share
from train.cache.latent_cache import Cached
from train.data.pictures import Variant

OFTEN = 4
"""Visits to each way of showing a picture, on average, from which on all of them are taken to be
needed; before that the run is gone through."""


def visits(pictures: Cached, order: Order, steps: int) -> Iterator[tuple[int, int]]:
    """The picture at each place of a run, and the number of the place."""
    for step in range(steps):
        for place in Share().places(order, step)[0]:
            yield pictures.shown(place.sample), place.visit


def variants_needed(pictures: Cached, order: Order | None, steps: int) -> list[Variant]:
    """Of the pictures that are not lost; without an order all."""
    shown = {pictures.shown(index) for index in range(len(pictures))}
    every = [variant for index in sorted(shown) for variant in pictures.variants(index)]
    if order is None or steps * order.batch_size >= OFTEN * len(every):
        return every
    needed: set[Variant] = set()
    for index, visit in visits(pictures, order, steps):
        needed.add(pictures.variant(index, visit))
        if len(needed) == len(every):
            break
    return sorted(needed)


def captions_needed(every: set[str], pictures: Cached | None, order: Order, steps: int) -> set[str]:
    """The empty one among them, which stands for those that are dropped.

    pictures : None where another than was planned may come to be shown; then all are needed
    """
    if pictures is None or steps * order.batch_size >= OFTEN * len(every):
        return every | {""}
    return {pictures.caption(*visit) for visit in visits(pictures, order, steps)} | {""}
