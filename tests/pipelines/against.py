"""Ours and diffusers' pipeline, called alike on the same parts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Seeds = tuple[int, ...]


def generators(seeds: Seeds) -> Any:
    made = [torch.Generator().manual_seed(seed) for seed in seeds]
    return made if len(made) > 1 else made[0]


@contextmanager
def decoder_inputs(autoencoder: Any) -> Iterator[list[Tensor]]:
    """The latents that a run gives the autoencoder to decode: a run gives pixels and these."""
    seen: list[Tensor] = []
    decode = autoencoder.decode

    def seeing(latents_BCHW: Tensor, *args: Any, **options: Any) -> Any:
        seen.append(latents_BCHW)
        return decode(latents_BCHW, *args, **options)

    autoencoder.decode = seeing
    try:
        yield seen
    finally:
        del autoencoder.decode


def assert_same(ours: Any, theirs: Any, seeds: Seeds = (3,), **call: Any) -> Tensor:
    """Both decode the same latents to the same pixels, bit for bit; returns what is decoded.

    With `output_type="latent"` both return the same latents, which are returned here too.
    """
    options = {"num_inference_steps": 4, "output_type": "pt"} | call
    decoded, results = [], []
    for pipe in (ours, theirs):
        pipe.set_progress_bar_config(disable=True)
        with decoder_inputs(pipe.vae) as seen:
            results.append(pipe(generator=generators(seeds), **options).images)
        decoded.append(results[-1] if options["output_type"] == "latent" else torch.cat(seen))
    for kind, found in (("latents", decoded), ("images", results)):
        difference = (found[0] - found[1]).abs()
        assert torch.equal(*found), f"{kind}: max {difference.max()}, mean {difference.mean()}"
        assert torch.isfinite(found[0]).all(), kind
    return decoded[0]
