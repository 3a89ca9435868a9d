"""Encoding what is not there yet: each process its share, every batch of the same size.

A batch that is too short is filled up with copies of its last row: how the others of a batch are
rounded together must not depend on what was there before.

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

from t2i.denoiser.build import Components
from t2i.denoiser.families.sd import VAE
from t2i.errors import TrainingError
from t2i.scenes.sample import Sample
from t2i.text.encoders.selection import TextEncoder
from train.batches.batch import as_floats
from train.cache.caption_encoding import read, windows
from train.cache.latent_cache import LOSER_MOMENTS, MASK, MOMENTS
from train.cache.shards import Writer
from train.cache.text_cache import arrays_of
from train.data.buckets import Shape
from train.data.decode import BrokenPicture
from train.data.pictures import Pictures, Variant
from train.reporting.progress import Advance
from train.targets.latents import latent_mean

Item = TypeVar("Item")
Made = TypeVar("Made")
AHEAD = 4
"""Batches of pictures that are decoded while one is encoded."""


def pictures_in_batches(
    pictures: Pictures, variants: Sequence[Variant], size: int
) -> list[tuple[Variant, ...]]:
    """Of one shape each."""

    def bucket(variant: Variant) -> Shape:
        return pictures.bucket(variant.index)

    ordered = sorted(variants, key=lambda variant: (bucket(variant), variant))
    return [batch for _, same in groupby(ordered, bucket) for batch in batches_of([*same], size)]


@torch.no_grad()
def make_latents(
    pictures: Pictures,
    batches: Iterable[tuple[Variant, ...]],
    size: int,
    vae: VAE,
    writer: Writer,
    advance: Advance,
) -> dict[int, BrokenPicture]:
    """Write the moments of the latents of pictures; those that have none, by their numbers."""
    lost: dict[int, BrokenPicture] = {}

    def shown(batch: tuple[Variant, ...]) -> list[tuple[Variant, Sample | BrokenPicture]]:
        return [(variant, picture_or_fault(pictures, variant)) for variant in batch]

    device = next(vae.parameters()).device
    for found in ahead(shown, batches):
        there: list[tuple[Variant, Sample]] = []
        for variant, sample in found:
            if isinstance(sample, BrokenPicture):
                lost[variant.index] = sample
            else:
                there.append((variant, sample))
        if there:
            pixels = [sample.pixels for _, sample in there]
            losers = [sample.loser for _, sample in there if sample.loser is not None]
            moments_BCHW = moments_of(vae, pixels_of(pixels, size).to(device)).float().cpu()
            worse_BCHW = moments_BCHW[:, :0]
            if len(losers) == len(pixels):  # a batch of pairs
                worse_BCHW = moments_of(vae, pixels_of(losers, size).to(device)).float().cpu()
            for (variant, sample), moments_CHW, worse_CHW in zip(
                there, moments_BCHW, worse_BCHW, strict=False
            ):
                if not (moments_CHW.isfinite().all() and worse_CHW.isfinite().all()):
                    lost[variant.index] = BrokenPicture(
                        sample.name, "becomes latents that are not finite: take it out"
                    )
                    continue
                arrays = {MOMENTS: moments_CHW.numpy()}
                if sample.loss_mask is not None:
                    arrays[MASK] = sample.loss_mask
                if len(worse_CHW):
                    arrays[LOSER_MOMENTS] = worse_CHW.numpy()
                writer.add(pictures.key(variant), arrays)
        advance(len(found))
    writer.flush()
    return lost


def picture_or_fault(pictures: Pictures, variant: Variant) -> Sample | BrokenPicture:
    try:
        return pictures.picture(variant)
    except BrokenPicture as error:
        return error


def pixels_of(rows: Sequence[NDArray[np.uint8]], size: int) -> Tensor:
    """As batches have them, (B, 3, H, W) in [-1, 1]; filled up to `size` rows."""
    return as_floats(torch.from_numpy(np.stack(filled_up(rows, size))))


def moments_of(vae: VAE, pixels_BCHW: Tensor) -> Tensor:
    """(B, 2C, h, w): mean and standard deviation; (B, C, h, w) where there is no posterior."""
    encoded = vae.encode(pixels_BCHW)
    mean_BCHW = latent_mean(encoded)
    if not isinstance(vae, AutoencoderKL):
        return mean_BCHW
    return torch.cat([mean_BCHW, encoded.latent_dist.std], dim=1)


def captions_in_batches(
    components: Components, encoder: TextEncoder, captions: Sequence[str], size: int
) -> list[tuple[str, ...]]:
    """Of one number of windows each."""

    def count(caption: str) -> int:
        return windows(components, encoder, [caption])

    ordered = sorted(captions, key=lambda caption: (count(caption), caption))
    return [batch for _, same in groupby(ordered, count) for batch in batches_of([*same], size)]


@torch.no_grad()
def make_texts(
    components: Components,
    encoder: TextEncoder,
    batches: Iterable[tuple[str, ...]],
    size: int,
    writer: Writer,
    advance: Advance,
) -> None:
    """Write what the text encoders make of captions. Raises TrainingError if that is not finite."""
    for batch in batches:
        told = read(components, encoder, filled_up(batch, size))
        for row, caption in enumerate(batch):
            arrays = arrays_of(told, row)
            if not all(np.isfinite(array).all() for array in arrays.values()):
                raise TrainingError(
                    f"The text encoder makes numbers that are not finite of the caption "
                    f"{caption[:80]!r}: the base model is damaged, or cannot read this."
                )
            writer.add(caption, arrays)
        advance(len(batch))
    writer.flush()


def batches_of(items: Sequence[Item], size: int) -> list[tuple[Item, ...]]:
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def filled_up(rows: Sequence[Item], size: int) -> list[Item]:
    return [*rows, *[rows[-1]] * (size - len(rows))]


def ahead(act: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """What `act` makes of each, in threads, a few items ahead."""
    with ThreadPoolExecutor(min(AHEAD, cpu_count() or 1)) as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(act, item))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
