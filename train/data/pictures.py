"""Data set of one's own pictures, each brought to its bucket's shape, with its caption.

Crop, flip and caption of a visit are a function of (seed, index, visit), in every process.
"""

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from t2i.data.training_example import OriginalSizeAndCrop, TrainingExample
from t2i.errors import DataError
from t2i.randomness import derive_seed
from t2i.text.word_pattern import build_word_pattern
from train.data.buckets import Shape, find_nearest_bucket
from train.data.caption_rules import (
    add_trigger_and_affixes,
    compose_caption,
    list_possible_captions,
)
from train.data.decode import BrokenPictureError
from train.data.discovery import (
    FoundPictures,
    ResolvedSubsetSettings,
    check_broken_fraction,
    list_and_check_pictures,
)
from train.data.hints import build_hint_cache_key_part, load_or_compute_transformed_hint
from train.data.picture_checks import ProgressFunction, UsablePicture
from train.data.pictures_config import PictureDatasetConfig, list_configured_bucket_shapes
from train.data.summary import DatasetSummary, summarize_pictures
from train.data.transforms import (
    BucketCropAndFlip,
    CropCorner,
    list_crop_corners,
    load_transformed_loser,
    load_transformed_mask,
    load_transformed_pixels,
)


@dataclass(frozen=True, order=True, slots=True)
class PictureCropAndFlip:
    """Augmented variant of a picture: which of its crops, and mirrored or not."""

    index: int
    crop: int
    flip: bool


class Pictures:
    """Data set of pictures from folders, shards and tables; each is read once on construction.

    If there are prior subsets, their pictures and the others occur equally often in an epoch: the
    fewer of the two, repeats counted, are repeated in rotation until both are as many. The training
    part and `held_out()` have no picture in common.
    """

    def __init__(
        self,
        config: PictureDatasetConfig,
        progress: ProgressFunction | None = None,
        *,
        found: FoundPictures | None = None,
        part: Literal["train", "held_out"] = "train",
    ) -> None:
        """Read the pictures, unless `found` holds them. Raises DataError if too many are broken."""
        self.config, self.part = config, part
        self.found = found or list_and_check_pictures(config, progress)
        check_broken_fraction(self.found.broken, self.found.total, config.bad_share)
        held_out, apart = self.found.choose_held_out_digests(config.held_out), part == "held_out"
        self.rules = self.found.rules
        self.checked = [one for one in self.found.pictures if (one.digest in held_out) == apart]
        if apart:
            own = [one for one in self.checked if not self.rules[one.subset].subset.prior]
            self.checked = [copy_picture_with_first_caption(one) for one in own]
            self.rules = tuple(rules.without_randomness() for rules in self.rules)
        if not self.checked and not apart:
            raise DataError(
                f"No picture is left to train on: of {self.found.total}, {len(held_out)} are held "
                f"out and {len(self.found.broken)} are broken."
            )
        nearest = {
            shape: find_nearest_bucket(shape, list_configured_bucket_shapes(config))
            for shape in {one.shape for one in self.checked}
        }
        self._buckets = [nearest[one.shape] for one in self.checked]
        self._lost: dict[int, BrokenPictureError] = {}

    def __len__(self) -> int:
        return len(self.checked)

    def build_held_out_set(self) -> "Pictures":
        """Build the data set of the held-out pictures, without random crops, flips and captions;
        it may be empty.
        """
        return Pictures(self.config, found=self.found, part="held_out")

    def read_example(self, index: int, visit: int, /) -> TrainingExample:
        """Load a picture as the training example of one visit, with the visit's crop, flip,
        caption and masks.

        A picture that can no longer be read is named in one warning, and the next one of its shape
        replaces it. Raises DataError when more than `bad_share` of all cannot be read.
        """
        for one in self._candidates(index):
            try:
                sample = self.load_uncaptioned_example(self.variant_at_visit(one, visit))
            except BrokenPictureError as error:
                self._note_lost(one, error)
            else:
                caption = self.caption_at_visit(one, visit)
                masks, spans = self.build_object_mask_and_word_span(one, caption, sample.loss_mask)
                return replace(sample, caption=caption, masks=masks, spans=spans)
        raise DataError(
            f"No picture of the shape of {self.picture_name(index)} can be read any more."
        )

    def group_indices_by_shape(self) -> list[list[int]]:
        """Return the indices of the pictures grouped by bucket, each as often as it occurs in an
        epoch.
        """
        instance: list[int] = []
        prior: list[int] = []
        for index, one in enumerate(self.checked):
            kind = prior if self.is_class_picture(index) else instance
            kind += [index] * (one.entry.repeats if self.part == "train" else 1)
        if instance and prior:
            most = max(len(instance), len(prior))
            instance, prior = (
                [kind[place % len(kind)] for place in range(most)] for kind in (instance, prior)
            )
        groups: dict[Shape, list[int]] = {}
        for index in instance + prior:
            groups.setdefault(self._buckets[index], []).append(index)
        return [groups[bucket] for bucket in sorted(groups)]

    def picture_name(self, index: int) -> str:
        """Return the name of a picture: its path, or its place in an archive or table."""
        return self.checked[index].entry.name

    def picture_digest(self, index: int) -> str:
        """Return the SHA-256 of the bytes of a picture's file."""
        return self.checked[index].digest

    def bucket_shape(self, index: int) -> Shape:
        """Return the shape of the bucket that a picture is brought to."""
        return self._buckets[index]

    def is_class_picture(self, index: int) -> bool:
        """Return True if the picture is a class picture of DreamBooth."""
        return self._rules(index).subset.prior

    def variant_at_visit(self, index: int, visit: int) -> PictureCropAndFlip:
        """Return the crop and the flip with which training shows a picture at this visit, drawn
        from the data set's seed, the picture's index and the visit's number.
        """
        rng = self._rng(index, visit, "crop")
        crop = int(rng.integers(len(self._corners(index))))
        return PictureCropAndFlip(index, crop, self._rules(index).flip and bool(rng.random() < 0.5))

    def list_variants(self, index: int) -> list[PictureCropAndFlip]:
        """List every augmented variant (crop and flip) of a picture."""
        flips = (False, True) if self._rules(index).flip else (False,)
        crops = range(len(self._corners(index)))
        return [PictureCropAndFlip(index, crop, flip) for crop in crops for flip in flips]

    def pixels_cache_key(self, variant: PictureCropAndFlip) -> str:
        """Return a cache key of a variant: equal keys mean equal pixels and an equal hint."""
        view, index = self._view(variant), variant.index
        parts = [
            self.picture_digest(index),
            f"{view.bucket.width}x{view.bucket.height}",
            f"{view.corner.left}+{view.corner.top}",
        ]
        if loser := self.checked[index].loser_digest:
            parts.append(f"before {loser}")
        parts += ["mirrored"] * view.flip + ["alpha"] * self._alpha_mask(index)
        hint = build_hint_cache_key_part(self.checked[index], self._rules(index).hint)
        return " ".join([*parts, hint] if hint else parts)

    def caption_at_visit(self, index: int, visit: int) -> str:
        """Return the caption with which training shows a picture at this visit, composed by its
        subset's caption rules from the seed, the index and the visit's number.
        """
        captions, rules = self.checked[index].entry.captions, self._rules(index).captions
        return compose_caption(captions, rules, self._rng(index, visit, "caption"))

    def list_captions_of_all_pictures(self) -> set[str] | None:
        """List every caption that a picture of the data set can have; None if they are too many."""
        every: set[str] = set()
        for index, one in enumerate(self.checked):
            these = list_possible_captions(one.entry.captions, self._rules(index).captions)
            if these is None:
                return None
            every |= these
        return every

    def load_uncaptioned_example(self, variant: PictureCropAndFlip) -> TrainingExample:
        """Load one augmented variant of a picture as a training example without its caption.

        Raises BrokenPictureError if it cannot be read, or has changed since it was first read.
        """
        index = variant.index
        one, view, max_pixels = self.checked[index], self._view(variant), self.config.max_pixels
        pixels = load_transformed_pixels(one, view, self._alpha_mask(index), max_pixels)
        return TrainingExample(
            name=one.entry.name,
            pixels=pixels,
            caption="",
            masks=np.zeros((0, *view.bucket), dtype=np.bool_),
            weight=self.loss_weight(index),
            loss_mask=self.load_loss_mask(variant),
            size_and_crop=self.compute_original_size_and_crop(variant),
            loser=load_transformed_loser(one, view, self._alpha_mask(index), max_pixels),
            hint=load_or_compute_transformed_hint(
                one, view, self._rules(index).hint, pixels, max_pixels
            ),
        )

    def load_loss_mask(self, variant: PictureCropAndFlip) -> NDArray[np.uint8] | None:
        """Load the loss mask of a variant, (H, W) uint8, 255 where the loss counts; None without
        one.
        """
        index = variant.index
        view, alpha_mask = self._view(variant), self._alpha_mask(index)
        return load_transformed_mask(self.checked[index], view, alpha_mask, self.config.max_pixels)

    def picture_has_hint(self, index: int) -> bool:
        """Return True if a training picture has a hint: a file of its own, or one made by a hint
        function.
        """
        return bool(build_hint_cache_key_part(self.checked[index], self._rules(index).hint))

    def get_masked_object_word(self, index: int) -> str:
        """Return the word by which captions name the object that a picture's mask shows: the
        configured `masked_word`, else the trigger word.
        """
        return self.config.masked_word or self._rules(index).captions.trigger

    def count_preference_pairs(self) -> int:
        """Count the preference pairs: pictures that have a worse one."""
        return sum(one.entry.loser is not None for one in self.checked)

    def picture_has_mask(self, index: int) -> bool:
        """Return True if the picture has a mask file or an alpha channel used as a mask."""
        one = self.checked[index]
        return one.entry.mask is not None or (self._alpha_mask(index) and one.transparent)

    def captions_contain_masked_object_word(self, index: int) -> bool:
        """Return True if every caption of a picture contains the word for the object that the
        picture's mask shows.
        """
        rules, word = self._rules(index).captions, self.get_masked_object_word(index)
        captions = self.checked[index].entry.captions or ("",)
        return bool(word) and all(
            build_word_pattern(word).search(add_trigger_and_affixes(caption, rules))
            for caption in captions
        )

    def build_object_mask_and_word_span(
        self, index: int, caption: str, loss_mask: NDArray[np.uint8] | None
    ) -> tuple[NDArray[np.bool_], tuple[tuple[int, int], ...]]:
        """Return the mask of the object that the masked word names, (1, H, W), and the (start, end)
        characters of the word's first occurrence in the caption.

        Without a mask or without the word in the caption: (0, H, W) and no span.
        """
        word = self.get_masked_object_word(index)
        if loss_mask is None or not word or self.is_class_picture(index):
            return np.zeros((0, *self.bucket_shape(index)), dtype=np.bool_), ()
        found = build_word_pattern(word).search(caption)
        if found is None:
            return np.zeros((0, *loss_mask.shape), dtype=np.bool_), ()
        return loss_mask[None] > 127, (found.span(),)

    def compute_original_size_and_crop(self, variant: PictureCropAndFlip) -> OriginalSizeAndCrop:
        """Return the original size and crop corner of a variant, for SDXL's size conditioning."""
        return OriginalSizeAndCrop(self.checked[variant.index].shape, self._view(variant).corner)

    def loss_weight(self, index: int) -> float:
        """Return the factor by which the training loss on a picture is weighted."""
        return self._rules(index).loss_weight

    def build_summary(self) -> DatasetSummary:
        """Build a summary of the data set: counts, sizes and remarks."""
        epoch = [index for group in self.group_indices_by_shape() for index in group]
        return summarize_pictures(
            self.found, self.checked, self._buckets, epoch, self.list_captions_of_all_pictures()
        )

    def compute_fingerprint(self) -> str:
        """Return a digest of a picture data set, of everything that the order and the captions of a
        training run depend on, except paths.
        """
        digest = hashlib.sha256()
        for index, one in enumerate(self.checked):
            entry = one.entry
            facts = (one.digest, one.mask_digest, entry.captions, entry.repeats, one.subset)
            others = [other for other in (one.loser_digest, one.hint_digest) if other]
            digest.update(repr((*facts, *others, self.bucket_shape(index))).encode())
        return digest.hexdigest()

    def _rules(self, index: int) -> ResolvedSubsetSettings:
        return self.rules[self.checked[index].subset]

    def _alpha_mask(self, index: int) -> bool:
        return bool(self._rules(index).subset.alpha_mask)

    def _view(self, variant: PictureCropAndFlip) -> BucketCropAndFlip:
        corner = self._corners(variant.index)[variant.crop]
        return BucketCropAndFlip(self.bucket_shape(variant.index), corner, variant.flip)

    def _corners(self, index: int) -> list[CropCorner]:
        config, crop = self.config, self._rules(index).crop
        one, bucket = self.checked[index], self.bucket_shape(index)
        return list_crop_corners(one, bucket, crop, config.crop_variants, config.seed)

    def _rng(self, index: int, visit: int, purpose: str) -> np.random.Generator:
        drawn = derive_seed(self.config.seed, index, visit, purpose)
        return np.random.Generator(np.random.Philox(drawn))

    def _candidates(self, index: int) -> Iterator[int]:
        """Yield the picture, then those of its shape that may replace it, of its kind first."""
        yield index
        length = len(self.checked)
        after = [(index + step) % length for step in range(1, length)]
        alike = [one for one in after if self.bucket_shape(one) == self.bucket_shape(index)]
        yield from sorted(
            alike, key=lambda one: self.is_class_picture(one) != self.is_class_picture(index)
        )

    def _note_lost(self, index: int, error: BrokenPictureError) -> None:
        """Warn of a lost picture once. Raises DataError if there are too many of them."""
        if index in self._lost:
            return
        self._lost[index] = error.attributed_to_picture(self.picture_name(index))
        warnings.warn(f"{self._lost[index]}; another picture takes its place.", stacklevel=3)
        broken = {one.name: one for one in (*self.found.broken, *self._lost.values())}
        check_broken_fraction([*broken.values()], self.found.total, self.config.bad_share)


def copy_picture_with_first_caption(one: UsablePicture) -> UsablePicture:
    """Return a copy of a checked training picture that has only the first of its captions."""
    return replace(one, entry=replace(one.entry, captions=one.entry.captions[:1]))
