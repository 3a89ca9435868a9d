"""A data set of pictures whose samples have cached latents instead of pixels."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from t2i.data.training_example import TrainingExample
from t2i.errors import DataError
from train.cache.shards import ShardFolder
from train.data.decode import BrokenPictureError
from train.data.hints import decode_hint_from_png_array
from train.data.pictures import PictureCropAndFlip, Pictures

MOMENTS, LOSS_MASK, LOSER_MOMENTS, HINT = "moments", "mask", "loser_moments", "hint"


class CachedPictureDataset(Pictures):
    """Data set of pictures whose latents are read from the cache, with order and captions
    unchanged.

    Cached arrays are looked up by the picture's content, crop and flip, never by its number.
    """

    def __init__(
        self,
        pictures: Pictures,
        shards: ShardFolder,
        lost: Mapping[int, BrokenPictureError] | None = None,
    ) -> None:
        """lost : pictures that could not be encoded; others stand in for them.

        Raises DataError where too many are lost.
        """
        super().__init__(pictures.config, found=pictures.found, part=pictures.part)
        self.shards = shards
        self.held_out_cache: CachedPictureDataset | None = None
        """The held-out pictures, once it is known which of them are lost."""
        self._lost = pictures._lost  # shared, so that each is named once
        for index, error in (lost or {}).items():
            self._note_lost(index, error)

    def build_held_out_set(self) -> "CachedPictureDataset":
        """Return the held-out pictures as a data set that reads the cache, too."""
        return (
            self.held_out_cache
            if self.held_out_cache is not None
            else CachedPictureDataset(super().build_held_out_set(), self.shards)
        )

    def find_replacement_index(self, index: int) -> int:
        """Return the index of the picture that stands in for one that could not be encoded to
        latents, or `index` itself.
        """
        return next((one for one in self._candidates(index) if one not in self._lost), index)

    def load_uncaptioned_example(self, variant: PictureCropAndFlip) -> TrainingExample:
        """Read the cached latents of one augmented variant of a picture as a training example.

        Raises BrokenPictureError or DataError where it is missing.
        """
        index, key = variant.index, self.pixels_cache_key(variant)
        if index in self._lost:
            raise self._lost[index]
        if key not in self.shards:
            raise DataError(
                f"{self.picture_name(index)} is not in the cache: start the run again, "
                "which completes the cache."
            )
        bucket, kept = self.bucket_shape(index), self.shards.read(key)
        return TrainingExample(
            name=self.picture_name(index),
            pixels=np.zeros((*bucket, 0), dtype=np.uint8),
            caption="",
            masks=np.zeros((0, *bucket), dtype=np.bool_),
            weight=self.loss_weight(index),
            loss_mask=self.load_loss_mask(variant),
            size_and_crop=self.compute_original_size_and_crop(variant),
            moments=kept[MOMENTS],
            loser_moments=kept.get(LOSER_MOMENTS),
            hint=decode_hint_from_png_array(kept[HINT]) if HINT in kept else None,
        )

    def load_loss_mask(self, variant: PictureCropAndFlip) -> NDArray[np.uint8] | None:
        """Read the cached loss mask (H, W) of a variant, or return None if it has none."""
        if self.checked[variant.index].entry.mask is not None:
            return super().load_loss_mask(variant)
        return self.shards.read(self.pixels_cache_key(variant)).get(LOSS_MASK)
