"""Pictures of which the latents are known: their samples hold them instead of pixels."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from t2i.errors import DataError
from t2i.scenes.sample import Sample
from train.cache.shards import Shards
from train.data.decode import BrokenPicture
from train.data.pictures import Pictures, Variant

MOMENTS, MASK, LOSER_MOMENTS = "moments", "mask", "loser_moments"


class Cached(Pictures):
    """The same pictures at the same visits, with the same captions; none is decoded again.

    What belongs to a picture is looked up by its own content, crop and flip, never by its number.
    """

    def __init__(
        self,
        pictures: Pictures,
        shards: Shards,
        lost: Mapping[int, BrokenPicture] | None = None,
    ) -> None:
        """lost : pictures that could not be encoded; others stand in for them.

        Raises DataError where these are too many.
        """
        super().__init__(pictures.config, found=pictures.found, part=pictures.part)
        self.shards = shards
        self.apart: Cached | None = None
        """The held-out ones, once it is known which of them are lost."""
        self._lost = pictures._lost  # so that each is named once
        for index, error in (lost or {}).items():
            self._note_lost(index, error)

    def held_out(self) -> "Cached":
        return self.apart if self.apart is not None else Cached(super().held_out(), self.shards)

    def shown(self, index: int) -> int:
        """The picture that stands at the place of `index`: itself, unless it was lost."""
        return next((one for one in self._candidates(index) if one not in self._lost), index)

    def picture(self, variant: Variant) -> Sample:
        index, key = variant.index, self.key(variant)
        if index in self._lost:
            raise self._lost[index]
        if key not in self.shards:
            raise DataError(
                f"{self.name(index)} is not among what was encoded before the run: start the run "
                "again, which completes the cache."
            )
        bucket, kept = self.bucket(index), self.shards.read(key)
        return Sample(
            name=self.name(index),
            pixels=np.zeros((*bucket, 0), dtype=np.uint8),
            caption="",
            masks=np.zeros((0, *bucket), dtype=np.bool_),
            weight=self.weight(index),
            loss_mask=self.loss_mask(variant),
            framing=self.framing(variant),
            moments=kept[MOMENTS],
            loser_moments=kept.get(LOSER_MOMENTS),
        )

    def loss_mask(self, variant: Variant) -> NDArray[np.uint8] | None:
        if self.surveyed[variant.index].entry.mask is not None:
            return super().loss_mask(variant)
        return self.shards.read(self.key(variant)).get(MASK)
