"""Runs of tiny pipelines, ours and diffusers', and all that a session could leave behind."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.text_to_image import TextToImagePipeline
from tests.tiny import diffusers_pipeline, tiny_scheduler, tiny_sd_components

CAT, DOG = "a red apple to the left of a cat", "a red apple to the left of a dog"
LONG = "red apple " * 12 + "cat"
"""More than one chunk."""


def ours(**parts: Any) -> TextToImagePipeline:
    """With parts of its own, but for those that are given."""
    pipe = TextToImagePipeline(**with_parts(parts))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(**parts: Any) -> Any:
    return diffusers_pipeline(with_parts(parts))


def with_parts(given: Mapping[str, Any]) -> dict[str, Any]:
    """All parts of a pipeline: those that are given, and new ones where some are not."""
    whole = given.keys() >= {"vae", "text_encoder", "tokenizer", "unet", "scheduler"}
    return dict(given) if whole else tiny_sd_components() | given


def beside(pipe: Any) -> Any:
    """Another pipeline of the same kind around the same parts, with a scheduler of its own."""
    names = ("vae", "text_encoder", "tokenizer", "unet")
    parts = {name: getattr(pipe, name) for name in names} | {"scheduler": tiny_scheduler()}
    return ours(**parts) if isinstance(pipe, TextToImagePipeline) else theirs(**parts)


def draw(pipe: Any, prompt: Any, seed: int = 3, **call: Any) -> Tensor:
    """Latents, (B, C, H, W); every picture of a batch begins with the same noise."""
    options: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 4.0}
    options |= {"output_type": "latent"} | call
    count = (len(prompt) if isinstance(prompt, list) else 1) * options.get(
        "num_images_per_prompt", 1
    )
    seeds = [torch.Generator().manual_seed(seed) for _ in range(count)]
    latents: Tensor = pipe(prompt, generator=seeds, **options).images
    return latents


def left_behind(pipe: Any) -> dict[str, object]:
    """Whatever a session puts into torch, a pipeline or its models: to compare before and after."""
    found: dict[str, object] = {
        "torch": torch.nn.functional.scaled_dot_product_attention,
        "step_callbacks": list(getattr(pipe, "step_callbacks", ())),
    }
    for part in pipe.components.values():
        if not isinstance(part, nn.Module):
            continue
        for name, module in part.named_modules():
            for key, value in vars(module).items():
                content = list(value) if key.endswith(("hooks", "kwargs", "called")) else None
                found[f"{type(part).__name__}.{name}.{key}"] = (id(value), content)
            found[f"{type(part).__name__}.{name}.processor"] = id(getattr(module, "processor", 0))
    return found


def assert_equal(left: Tensor, right: Tensor) -> None:
    difference = (left.float() - right.float()).abs()
    assert torch.equal(left, right), f"max {difference.max()}, mean {difference.mean()}"


def assert_differ(left: Tensor, right: Tensor) -> None:
    assert not torch.equal(left, right)
    assert torch.isfinite(left).all()
    assert torch.isfinite(right).all()
