"""Ours and diffusers' pipeline, called alike on the same parts."""

from typing import Any

import torch
from torch import Tensor

Seeds = tuple[int, ...]


def generators(seeds: Seeds) -> Any:
    made = [torch.Generator().manual_seed(seed) for seed in seeds]
    return made if len(made) > 1 else made[0]


def assert_same(ours: Any, theirs: Any, seeds: Seeds = (3,), **call: Any) -> Tensor:
    """Both give the same latents and the same pixels, bit for bit; returns the latents."""
    for output_type in ("pt", "latent"):
        results = []
        for pipe in (ours, theirs):
            pipe.set_progress_bar_config(disable=True)
            options = {"num_inference_steps": 4, "guidance_scale": 6.0} | call
            results.append(
                pipe(generator=generators(seeds), output_type=output_type, **options).images
            )
        difference = (results[0] - results[1]).abs()
        assert torch.equal(*results), f"max {difference.max()}, mean {difference.mean()}"
        assert torch.isfinite(results[0]).all()
    latents: Tensor = results[0]
    return latents
