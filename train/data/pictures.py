"""One's own pictures: found in folders, shards and tables, brought to shape, each with its caption.

What is shown at a visit is a function of (seed, index, visit), in every process.
"""

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from t2i.errors import DataError
from t2i.randomness import derive_seed
from t2i.scenes.sample import Framing, Sample
from t2i.text.word_pattern import pattern
from train.data.buckets import Shape, nearest_bucket
from train.data.caption_rules import completed, every_wording, worded
from train.data.decode import BrokenPicture
from train.data.discovery import Found, Rules, check_share, find
from train.data.pictures_config import PicturesConfig, shapes_of
from train.data.summary import Overview, summarize
from train.data.survey import Progress, Seen
from train.data.transforms import Corner, View, corners_of, loser_of, mask_of, pixels_of


@dataclass(frozen=True, order=True, slots=True)
class Variant:
    """One way to show a picture: which of its crops, mirrored or not."""

    index: int
    crop: int
    flip: bool


class Pictures:
    """The data set; constructing it reads every picture once.

    Where there are prior subsets, their pictures and the others stand equally often in an epoch:
    the fewer of the two, repeats counted, are gone through again in rotation until they are as
    many as the rest. No held-out picture is in the training part, and none of that one in
    `held_out()`.
    """

    def __init__(
        self,
        config: PicturesConfig,
        progress: Progress | None = None,
        *,
        found: Found | None = None,
        part: Literal["train", "held_out"] = "train",
    ) -> None:
        """Raises DataError, with the list, where too many pictures are broken."""
        self.config, self.part = config, part
        self.found = found or find(config, progress)
        check_share(self.found.broken, self.found.number, config.bad_share)
        held_out, apart = self.found.held_out(config.held_out), part == "held_out"
        self.rules = self.found.rules
        self.seen = [one for one in self.found.seen if (one.digest in held_out) == apart]
        if apart:
            own = [one for one in self.seen if not self.rules[one.subset].subset.prior]
            self.seen = [with_first_caption(one) for one in own]
            self.rules = tuple(rules.still() for rules in self.rules)
        if not self.seen and not apart:
            raise DataError(
                f"No picture is left to train on: of {self.found.number}, {len(held_out)} are held "
                f"out and {len(self.found.broken)} are broken."
            )
        nearest = {
            shape: nearest_bucket(shape, shapes_of(config))
            for shape in {one.shape for one in self.seen}
        }
        self._buckets = [nearest[one.shape] for one in self.seen]
        self._lost: dict[int, BrokenPicture] = {}

    def __len__(self) -> int:
        return len(self.seen)

    def held_out(self) -> "Pictures":
        """The pictures that are not trained on, the same at every visit; there may be none."""
        return Pictures(self.config, found=self.found, part="held_out")

    def read(self, index: int, visit: int, /) -> Sample:
        """A picture that can be read no more is named in a warning, once, and the next one of its
        shape stands in for it.

        Raises DataError when more than `bad_share` of all cannot be read.
        """
        for one in self._and_stand_ins(index):
            try:
                sample = self.picture(self.variant(one, visit))
            except BrokenPicture as error:
                self._lose(one, error)
            else:
                caption = self.caption(one, visit)
                masks, spans = self.named(one, caption, sample.loss_mask)
                return replace(sample, caption=caption, masks=masks, spans=spans)
        raise DataError(f"No picture of the shape of {self.name(index)} can be read any more.")

    def groups(self) -> list[list[int]]:
        """By bucket; a picture stands there as often as in an epoch."""
        instance: list[int] = []
        prior: list[int] = []
        for index, one in enumerate(self.seen):
            kind = prior if self.is_prior(index) else instance
            kind += [index] * (one.listed.repeats if self.part == "train" else 1)
        if instance and prior:
            most = max(len(instance), len(prior))
            instance, prior = (
                [kind[place % len(kind)] for place in range(most)] for kind in (instance, prior)
            )
        groups: dict[Shape, list[int]] = {}
        for index in instance + prior:
            groups.setdefault(self._buckets[index], []).append(index)
        return [groups[bucket] for bucket in sorted(groups)]

    def name(self, index: int) -> str:
        return self.seen[index].listed.name

    def digest(self, index: int) -> str:
        """SHA-256 of the file's bytes."""
        return self.seen[index].digest

    def bucket(self, index: int) -> Shape:
        return self._buckets[index]

    def is_prior(self, index: int) -> bool:
        return self._rules(index).subset.prior

    def variant(self, index: int, visit: int) -> Variant:
        """How the picture is shown at a visit."""
        rng = self._rng(index, visit, "crop")
        crop = int(rng.integers(len(self._corners(index))))
        return Variant(index, crop, self._rules(index).flip and bool(rng.random() < 0.5))

    def variants(self, index: int) -> list[Variant]:
        """All the ways there are to show the picture."""
        flips = (False, True) if self._rules(index).flip else (False,)
        crops = range(len(self._corners(index)))
        return [Variant(index, crop, flip) for crop in crops for flip in flips]

    def key(self, variant: Variant) -> str:
        """What the pixels of a variant are a function of: equal keys are equal pictures."""
        view, index = self._view(variant), variant.index
        parts = [
            self.digest(index),
            f"{view.bucket.width}x{view.bucket.height}",
            f"{view.corner.left}+{view.corner.top}",
        ]
        if loser := self.seen[index].loser_digest:
            parts.append(f"before {loser}")
        parts += ["mirrored"] * view.flip + ["alpha"] * self._alpha_mask(index)
        return " ".join(parts)

    def caption(self, index: int, visit: int) -> str:
        captions, wording = self.seen[index].listed.captions, self._rules(index).wording
        return worded(captions, wording, self._rng(index, visit, "caption"))

    def captions(self) -> set[str] | None:
        """Every caption there may be, or None where they are too many to list."""
        every: set[str] = set()
        for index, one in enumerate(self.seen):
            these = every_wording(one.listed.captions, self._rules(index).wording)
            if these is None:
                return None
            every |= these
        return every

    def picture(self, variant: Variant) -> Sample:
        """The picture shown that way, without its caption.

        Raises BrokenPicture where it cannot be read, or is no longer the one that was there first.
        """
        index = variant.index
        one, view = self.seen[index], self._view(variant)
        return Sample(
            name=one.listed.name,
            pixels=pixels_of(one, view, self._alpha_mask(index), self.config.max_pixels),
            caption="",
            masks=np.zeros((0, *view.bucket), dtype=np.bool_),
            weight=self.weight(index),
            loss_mask=self.loss_mask(variant),
            framing=self.framing(variant),
            loser=loser_of(one, view, self._alpha_mask(index), self.config.max_pixels),
        )

    def loss_mask(self, variant: Variant) -> NDArray[np.uint8] | None:
        """(H, W) uint8 ndarray, 255 where the loss counts; None where it does everywhere."""
        index = variant.index
        view, alpha_mask = self._view(variant), self._alpha_mask(index)
        return mask_of(self.seen[index], view, alpha_mask, self.config.max_pixels)

    def masked_word(self, index: int) -> str:
        """What the picture's mask shows, as its caption names it."""
        return self.config.masked_word or self._rules(index).wording.trigger

    def losers(self) -> int:
        """How many are the better one of a pair."""
        return sum(one.listed.loser is not None for one in self.seen)

    def has_mask(self, index: int) -> bool:
        one = self.seen[index]
        return one.listed.mask is not None or (self._alpha_mask(index) and one.transparent)

    def says_masked_word(self, index: int) -> bool:
        """Whether each of its captions names what the mask shows."""
        wording, word = self._rules(index).wording, self.masked_word(index)
        captions = self.seen[index].listed.captions or ("",)
        return bool(word) and all(
            pattern(word).search(completed(caption, wording)) for caption in captions
        )

    def named(
        self, index: int, caption: str, loss_mask: NDArray[np.uint8] | None
    ) -> tuple[NDArray[np.bool_], tuple[tuple[int, int], ...]]:
        """The mask, (1, H, W), of the word that it shows, and where the caption says it first;
        (0, H, W) and nothing where there is no mask or no such word."""
        word = self.masked_word(index)
        if loss_mask is None or not word or self.is_prior(index):
            return np.zeros((0, *self.bucket(index)), dtype=np.bool_), ()
        found = pattern(word).search(caption)
        if found is None:
            return np.zeros((0, *loss_mask.shape), dtype=np.bool_), ()
        return loss_mask[None] > 127, (found.span(),)

    def framing(self, variant: Variant) -> Framing:
        return Framing(self.seen[variant.index].shape, self._view(variant).corner)

    def weight(self, index: int) -> float:
        """Of its loss."""
        return self._rules(index).weight

    def overview(self) -> Overview:
        """What reading them told."""
        epoch = [index for group in self.groups() for index in group]
        return summarize(self.found, self.seen, self._buckets, epoch, self.captions())

    def fingerprint(self) -> str:
        """Of all that the order and the captions of a run depend on: pictures, not their paths."""
        digest = hashlib.sha256()
        for index, one in enumerate(self.seen):
            listed = one.listed
            told = (one.digest, one.mask_digest, listed.captions, listed.repeats, one.subset)
            pair = (one.loser_digest,) * bool(one.loser_digest)
            digest.update(repr((*told, *pair, self.bucket(index))).encode())
        return digest.hexdigest()

    def _rules(self, index: int) -> Rules:
        return self.rules[self.seen[index].subset]

    def _alpha_mask(self, index: int) -> bool:
        return bool(self._rules(index).subset.alpha_mask)

    def _view(self, variant: Variant) -> View:
        corner = self._corners(variant.index)[variant.crop]
        return View(self.bucket(variant.index), corner, variant.flip)

    def _corners(self, index: int) -> list[Corner]:
        config, crop = self.config, self._rules(index).crop
        one, bucket = self.seen[index], self.bucket(index)
        return corners_of(one, bucket, crop, config.crop_variants, config.seed)

    def _rng(self, index: int, visit: int, purpose: str) -> np.random.Generator:
        drawn = derive_seed(self.config.seed, index, visit, purpose)
        return np.random.Generator(np.random.Philox(drawn))

    def _and_stand_ins(self, index: int) -> Iterator[int]:
        """The picture, then the next ones of its shape, of its kind first: prior or not."""
        yield index
        length = len(self.seen)
        after = [(index + step) % length for step in range(1, length)]
        alike = [one for one in after if self.bucket(one) == self.bucket(index)]
        yield from sorted(alike, key=lambda one: self.is_prior(one) != self.is_prior(index))

    def _lose(self, index: int, error: BrokenPicture) -> None:
        """Name a lost picture once, and stop if there are too many of them."""
        if index in self._lost:
            return
        self._lost[index] = error.of(self.name(index))
        warnings.warn(f"{self._lost[index]}; another picture takes its place.", stacklevel=3)
        broken = {one.name: one for one in (*self.found.broken, *self._lost.values())}
        check_share([*broken.values()], self.found.number, self.config.bad_share)


def with_first_caption(one: Seen) -> Seen:
    return replace(one, listed=replace(one.listed, captions=one.listed.captions[:1]))
