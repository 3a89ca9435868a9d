"""Encoding pictures and captions for the cache in batches of one size.

A short batch is padded with copies of its last row: rounding depends on the size of a batch, and
must not depend on what was cached before.

B batch rows, C channels, H W size of pictures, h w of latents.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from os import cpu_count
from typing import TypeVar

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from t2i.data.training_example import TrainingExample
from t2i.denoiser.build import ModelComponents
from t2i.denoiser.families.sd import VAE
from t2i.errors import TrainingError
from t2i.text.encoders.selection import TextEncoder
from train.batches.micro_batch import pixels_to_floats
from train.cache.caption_encoding import count_windows_of_longest_caption, encode_captions
from train.cache.latent_cache import HINT, LOSER_MOMENTS, LOSS_MASK, MOMENTS
from train.cache.shards import ArraysByName, ShardWriter
from train.cache.text_cache import encoded_row_to_arrays
from train.data.buckets import Shape
from train.data.decode import BrokenPictureError
from train.data.hints import encode_hint_as_png_array
from train.data.pictures import PictureCropAndFlip, Pictures
from train.reporting.progress import AdvanceFunction
from train.targets.latents import retrieve_latent_mean

Item = TypeVar("Item")
Result = TypeVar("Result")
BATCHES_DECODED_AHEAD = 4
"""Batches of pictures that are decoded while one is encoded."""


def batch_variants_by_shape(
    pictures: Pictures, variants: Sequence[PictureCropAndFlip], size: int
) -> list[tuple[PictureCropAndFlip, ...]]:
    """Group augmented variants of pictures into batches of one shape."""

    def bucket(variant: PictureCropAndFlip) -> Shape:
        return pictures.bucket_shape(variant.index)

    ordered = sorted(variants, key=lambda variant: (bucket(variant), variant))
    return [batch for _, same in groupby(ordered, bucket) for batch in _cut([*same], size)]


@torch.no_grad()
def encode_and_cache_latents(
    pictures: Pictures,
    batches: Iterable[tuple[PictureCropAndFlip, ...]],
    size: int,
    vae: VAE,
    writer: ShardWriter,
    advance: AdvanceFunction,
) -> dict[int, BrokenPictureError]:
    """Encode pictures with the VAE and write mean and deviation of their latents, with loss masks
    and hints, to the cache.

    Returns the errors of pictures that cannot be encoded, by their numbers.
    """
    lost: dict[int, BrokenPictureError] = {}

    def read_batch(
        batch: tuple[PictureCropAndFlip, ...],
    ) -> list[tuple[PictureCropAndFlip, TrainingExample | BrokenPictureError]]:
        return [(variant, _read_or_error(pictures, variant)) for variant in batch]

    for found in map_with_prefetch(read_batch, batches):
        samples: list[tuple[PictureCropAndFlip, TrainingExample]] = []
        for variant, sample in found:
            if isinstance(sample, BrokenPictureError):
                lost[variant.index] = sample
            else:
                samples.append((variant, sample))
        if samples:
            arrays = _encode_samples([sample for _, sample in samples], size, vae)
            for (variant, sample), encoded in zip(samples, arrays, strict=True):
                if encoded is None:
                    reason = "becomes latents that are not finite: take it out"
                    lost[variant.index] = BrokenPictureError(sample.name, reason)
                else:
                    writer.add(pictures.pixels_cache_key(variant), encoded)
        advance(len(found))
    writer.flush()
    return lost


def _encode_samples(
    samples: Sequence[TrainingExample], size: int, vae: VAE
) -> list[ArraysByName | None]:
    """Encode the samples of a batch to the arrays to cache; None where latents are not finite."""
    device = next(vae.parameters()).device
    pixels = [sample.pixels for sample in samples]
    losers = [sample.loser for sample in samples if sample.loser is not None]
    moments_BCHW = encode_mean_and_std(vae, _stack_pixels(pixels, size).to(device)).float().cpu()
    worse_BCHW = moments_BCHW[:, :0]
    if len(losers) == len(pixels):  # a batch of pairs
        worse_BCHW = encode_mean_and_std(vae, _stack_pixels(losers, size).to(device)).float().cpu()
    encoded: list[ArraysByName | None] = []
    for sample, moments_CHW, worse_CHW in zip(samples, moments_BCHW, worse_BCHW, strict=False):
        if not (moments_CHW.isfinite().all() and worse_CHW.isfinite().all()):
            encoded.append(None)
            continue
        arrays = {MOMENTS: moments_CHW.numpy()}
        if sample.loss_mask is not None:
            arrays[LOSS_MASK] = sample.loss_mask
        if len(worse_CHW):
            arrays[LOSER_MOMENTS] = worse_CHW.numpy()
        if sample.hint is not None:
            arrays[HINT] = encode_hint_as_png_array(sample.hint)
        encoded.append(arrays)
    return encoded


def _read_or_error(
    pictures: Pictures, variant: PictureCropAndFlip
) -> TrainingExample | BrokenPictureError:
    try:
        return pictures.load_uncaptioned_example(variant)
    except BrokenPictureError as error:
        return error


def _stack_pixels(rows: Sequence[NDArray[np.uint8]], size: int) -> Tensor:
    """Stack pictures as (B, 3, H, W) in [-1, 1], padded to `size` rows."""
    return pixels_to_floats(torch.from_numpy(np.stack(_padded(rows, size))))


def encode_mean_and_std(vae: VAE, pixels_BCHW: Tensor) -> Tensor:
    """Encode pixels to mean and standard deviation of latents, (B, 2C, h, w); (B, C, h, w) for a
    VAE without posterior.
    """
    encoded = vae.encode(pixels_BCHW)
    mean_BCHW = retrieve_latent_mean(encoded)
    if not isinstance(vae, AutoencoderKL):
        return mean_BCHW
    return torch.cat([mean_BCHW, encoded.latent_dist.std], dim=1)


def batch_captions_by_length(
    components: ModelComponents, encoder: TextEncoder, captions: Sequence[str], size: int
) -> list[tuple[str, ...]]:
    """Group captions into batches that need the same number of text encoder windows."""

    def count(caption: str) -> int:
        return count_windows_of_longest_caption(components, encoder, [caption])

    ordered = sorted(captions, key=lambda caption: (count(caption), caption))
    return [batch for _, same in groupby(ordered, count) for batch in _cut([*same], size)]


@torch.no_grad()
def encode_and_cache_texts(
    components: ModelComponents,
    encoder: TextEncoder,
    batches: Iterable[tuple[str, ...]],
    size: int,
    writer: ShardWriter,
    advance: AdvanceFunction,
) -> None:
    """Encode captions and write their embeddings to the cache. Raises TrainingError where one is
    not finite.
    """
    for batch in batches:
        encoded = encode_captions(components, encoder, _padded(batch, size))
        for row, caption in enumerate(batch):
            arrays = encoded_row_to_arrays(encoded, row)
            if not all(np.isfinite(array).all() for array in arrays.values()):
                raise TrainingError(
                    f"The embeddings of the caption {caption[:80]!r} are not finite: the base "
                    "model is damaged, or cannot encode this."
                )
            writer.add(caption, arrays)
        advance(len(batch))
    writer.flush()


def _cut(items: Sequence[Item], size: int) -> list[tuple[Item, ...]]:
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def _padded(rows: Sequence[Item], size: int) -> list[Item]:
    return [*rows, *[rows[-1]] * (size - len(rows))]


def map_with_prefetch(act: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply `act` to the items in threads, a few items ahead of the consumer, and yield the
    results in order.
    """
    with ThreadPoolExecutor(min(BATCHES_DECODED_AHEAD, cpu_count() or 1)) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(act, item))
                if len(waiting) > BATCHES_DECODED_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
