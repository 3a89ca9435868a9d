"""Decisions on what a run caches, and the reasons why the rest cannot be cached."""

from collections.abc import Iterable

from t2i.data.training_dataset import TrainingDataset
from train.cache.config import CacheConfig
from train.cache.encoders import CacheEncoders
from train.config.run_config import TargetConfig, TargetWithBaseConfig
from train.data.pictures import PictureCropAndFlip, Pictures
from train.targets.finetune import FineTuneTargetConfig
from train.targets.parts.learned_words import NewWordsPartConfig

CACHED_DATA_KINDS = ("latents", "texts")
BYTES_PER_GB = 10**9
ReasonsByKind = dict[str, str | None]
"""Each of KINDS -> None where it is cached, else the reason; "" where it is not requested."""


def explain_uncached_latents_and_texts(
    cache: CacheConfig, target: TargetConfig, samples: TrainingDataset
) -> ReasonsByKind:
    """Return for latents and for texts the reason why they are not cached, or None where they are,
    as far as known before the encoders are loaded.
    """
    reasons: ReasonsByKind = dict.fromkeys(CACHED_DATA_KINDS, "")
    if not isinstance(target, TargetWithBaseConfig):
        return reasons
    for kind, wanted in (("latents", cache.latents), ("texts", cache.texts)):
        if wanted and not isinstance(samples, Pictures):
            reasons[kind] = "scenes are made anew at each visit"
        elif wanted:
            reasons[kind] = None
    if reasons["texts"] is None:
        assert isinstance(samples, Pictures)
        reasons["texts"] = explain_uncached_texts(target, samples)
    return reasons


def explain_uncached_texts(target: TargetWithBaseConfig, pictures: Pictures) -> str | None:
    """Return the reason why a training run cannot cache the text embeddings of its captions; None
    if it can.
    """
    parts = target.parts if isinstance(target, FineTuneTargetConfig) else ()
    for number, part in enumerate(parts):
        if isinstance(part, NewWordsPartConfig):
            return f"target.parts[{number}] trains new words"
        if part.of != "unet":
            return f"target.parts[{number}] trains the {part.of}"
    if pictures.list_captions_of_all_pictures() is None:
        return "shuffled captions, or ones with tags left out, are too many to list"
    return None


def explain_cache_too_large(needed: int, most_gb: float) -> str | None:
    """Return the reason why a cache of `needed` bytes is too large; None if it is within the
    limit.
    """
    if needed <= most_gb * BYTES_PER_GB:
        return None
    return f"they would take {needed / BYTES_PER_GB:.3g} GB, more than cache.max_gb = {most_gb:g}"


def count_latent_bytes(
    pictures: Pictures,
    encoders: CacheEncoders,
    variants: Iterable[PictureCropAndFlip] | None = None,
) -> int:
    """Count the bytes that the cached latents of these augmented variants, or of all, take; with
    their hints, which take less than this as PNG.
    """
    if variants is None:
        variants = (one for index in range(len(pictures)) for one in pictures.list_variants(index))
    total = 0
    for one in variants:
        shape = pictures.bucket_shape(one.index)
        total += encoders.count_latents_bytes(shape)
        if pictures.picture_has_hint(one.index):
            total += 3 * shape.height * shape.width
    return total


def estimate_text_bytes(pictures: Pictures, encoders: CacheEncoders) -> int:
    """Estimate the bytes that the cached embeddings of all captions take, at one window each."""
    return (
        len((pictures.list_captions_of_all_pictures() or set()) | {""})
        * encoders.bytes_per_text_window
    )
