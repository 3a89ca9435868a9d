"""Checks of the image embeddings or prompts of a Kandinsky call.

B batch rows (here: images), D width of an embedding.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipelines.run import argument_checks
from pipelines.run.callback_results import require_returned_dict
from pipelines.run.step_callbacks import StepEndCallback
from t2i.conditioning.conditioning import Branch
from t2i.errors import ArgumentError
from t2i.terminal import plural

ImageEmbeds = Tensor | Sequence[Tensor]
"""One row per picture; a list is joined, as diffusers does."""

TEXT_NAME_BY_IMAGE_NAME = {
    "image_embeds": "prompt_embeds",
    "negative_image_embeds": "negative_prompt_embeds",
}
"""Callback name of image embeddings -> of the same embeddings as texts of one token."""


def group_embeddings_by_branch(
    needs: Sequence[Branch],
    image_embeds: ImageEmbeds,
    negative_image_embeds: ImageEmbeds | None,
    width: int,
    num_images_per_prompt: int,
) -> dict[Branch, Tensor]:
    """Return image embeddings by guidance branch, each repeated to `num_images_per_prompt` rows;
    "uncond" only if needed.
    """
    cond_BD = check_and_join_image_embeddings("image_embeds", image_embeds, width)
    given = {"cond": cond_BD}
    if "uncond" in needs:
        if negative_image_embeds is None:
            raise ArgumentError(
                "Got image_embeds without negative_image_embeds: guidance needs an embedding of "
                "what to avoid, such as that of a black image; or guidance_scale=1."
            )
        uncond_BD = check_and_join_image_embeddings(
            "negative_image_embeds", negative_image_embeds, width
        )
        if len(uncond_BD) not in (1, len(cond_BD)):
            raise ArgumentError(
                f"Got {plural(len(uncond_BD), 'row')} of negative_image_embeds for "
                f"{len(cond_BD)} of image_embeds: give one, or one for each."
            )
        given["uncond"] = uncond_BD.expand_as(cond_BD)
    return {
        branch: rows.repeat_interleave(num_images_per_prompt, dim=0)
        for branch, rows in given.items()
    }


def check_and_join_image_embeddings(name: str, embeds: ImageEmbeds, width: int) -> Tensor:
    """Join image embeddings into one tensor (B, D); raise ArgumentError for another type, width or
    dtype.
    """
    given = list(embeds) if isinstance(embeds, list | tuple) else [embeds]
    parts = [part for part in given if isinstance(part, Tensor)]
    if not parts or len(parts) < len(given):
        raise ArgumentError(
            f"Got {name} of type {type(embeds).__name__}, expected a tensor or a list of tensors."
        )
    for part in parts:
        if part.ndim != 2 or part.shape[1] != width or not part.is_floating_point():
            raise ArgumentError(
                f"Got {name} of shape {tuple(part.shape)} and {part.dtype}, expected (images, "
                f"{width}) and floating point: one row per embedding, as wide as this UNet reads."
            )
    return torch.cat(parts)


def check_and_list_prior_prompts(
    prompt: object, negative_prompt: object, negative_image_embeds: object, prior: object
) -> tuple[list[str], list[str] | None]:
    """Check the prompts of a call without image embeddings; return them as a list, and one negative
    prompt for each if any is given.

    Raises ArgumentError for prompts that are missing or do not go together, or without a prior.
    """
    if prompt is None:
        raise ArgumentError("Got neither prompt nor image_embeds: give exactly one of them.")
    if negative_image_embeds is not None:
        raise ArgumentError(
            "Got negative_image_embeds with a prompt: give negative_prompt, or image_embeds."
        )
    if prior is None:
        raise ArgumentError(
            "Got a prompt, but this pipeline has no prior to predict an image embedding: load one, "
            "UnclipPipeline.from_pretrained(decoder, prior=...), or give image_embeds."
        )
    prompts = require_plain_string_prompts("prompt", prompt)
    if negative_prompt is None:
        return prompts, None
    return prompts, require_plain_string_prompts("negative_prompt", negative_prompt, len(prompts))


def require_plain_string_prompts(name: str, prompt: object, count: int | None = None) -> list[str]:
    """Return prompts as strings; ArgumentError for a Prompt, whose grammar a prior cannot read."""
    rows = argument_checks.repeat_prompt_to_count(name, prompt, count)
    if not all(isinstance(row, str) for row in rows):
        raise ArgumentError(f"Got {name} with a Prompt: a prior reads plain strings.")
    return [str(row) for row in rows]


def check_no_prompts(prompt: object, negative_prompt: object) -> None:
    """Raise ArgumentError where prompts are given beside image embeddings."""
    for name, given in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        if given is not None:
            raise ArgumentError(f"Got both {name} and image_embeds: give one of them.")


def check_only_uncond_and_cond(needs: Sequence[Branch]) -> None:
    """Raise ArgumentError for a guidance with branches besides "uncond" and "cond"."""
    if "cond" not in needs or not {*needs} <= {"uncond", "cond"}:
        raise ArgumentError(
            f"Got a guidance of the branches {', '.join(needs)}; a model of image embeddings has "
            "uncond and cond: choose ClassifierFree, AdaptiveProjected or ZeroStar."
        )


def wrap_callback_with_diffusers_names(callback: StepEndCallback) -> StepEndCallback:
    """Wrap a step-end callback so that it reads and returns embeddings under diffusers' names."""
    theirs = {ours: name for name, ours in TEXT_NAME_BY_IMAGE_NAME.items()}

    def renamed(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        given = {
            theirs.get(name, name): value[:, 0] if name in theirs and value is not None else value
            for name, value in tensors.items()
        }
        returned = require_returned_dict(callback(pipe, step, timestep, given))
        return {
            TEXT_NAME_BY_IMAGE_NAME.get(name, name): add_token_axis(value)
            if name in TEXT_NAME_BY_IMAGE_NAME
            else value
            for name, value in returned.items()
        }

    return renamed


def add_token_axis(embeds: object) -> object:
    """Add a token axis to embeddings (B, D), giving (B, 1, D); anything else stays unchanged."""
    return embeds[:, None] if isinstance(embeds, Tensor) and embeds.ndim == 2 else embeds
