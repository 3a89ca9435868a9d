"""Latents of a short run, with edits and without."""

from typing import Any

import torch
from torch import Tensor

from t2i.attention import attend
from t2i.attention.edits.base.edit import Edit

SOURCE, TARGET = "a red apple to the left of a cat", "a blue dog to the left of a cat"


def drawn(pipe: Any, *edits: Edit, prompts: Any = (SOURCE, TARGET), **call: Any) -> Tensor:
    """(B, C, H, W) of the prompts, under the edits if there are any."""
    prompts = list(prompts)
    pictures = len(prompts) * call.get("num_images_per_prompt", 1)
    options: dict[str, Any] = {
        "num_inference_steps": 4,
        "guidance_scale": 5.0,
        "output_type": "latent",
        "generator": [torch.Generator().manual_seed(seed) for seed in range(pictures)],
    }
    options |= call
    if not edits:
        latents: Tensor = pipe(prompts, **options).images
        return latents
    with attend(pipe) as attn:
        for edit in edits:
            attn.edit(edit)
        edited: Tensor = pipe(prompts, **options).images
    return edited


def difference(ours: Tensor, theirs: Tensor) -> str:
    apart = (ours - theirs).abs()
    return f"max {apart.max()}, mean {apart.mean()}"
