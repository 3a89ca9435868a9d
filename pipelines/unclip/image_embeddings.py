"""Embeddings of pictures as a caller hands them over, or prompts to imagine them from: checked.

B batch rows (here: pictures), D width of an embedding.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipelines.run import arguments
from pipelines.run.callback_results import tensors_of
from pipelines.run.step_callbacks import StepEndCallback
from t2i.conditioning.conditioning import Branch
from t2i.errors import ArgumentError
from t2i.terminal import several

Embeds = Tensor | Sequence[Tensor]
"""One row per picture; a list is joined, as diffusers does."""

CALLED = {"image_embeds": "prompt_embeds", "negative_image_embeds": "negative_prompt_embeds"}
"""A callback's name for embeddings of pictures -> for those of texts of one token."""


def by_branch(
    needs: Sequence[Branch],
    image_embeds: Embeds,
    negative_image_embeds: Embeds | None,
    width: int,
    pictures: int,
) -> dict[Branch, Tensor]:
    """What was given, `pictures` rows for each embedding; "uncond" where guidance needs it."""
    cond_BD = rows_of("image_embeds", image_embeds, width)
    given = {"cond": cond_BD}
    if "uncond" in needs:
        if negative_image_embeds is None:
            raise ArgumentError(
                "Got image_embeds without negative_image_embeds: guidance needs an embedding of "
                "what is not to be drawn, such as that of a black picture; or guidance_scale=1."
            )
        uncond_BD = rows_of("negative_image_embeds", negative_image_embeds, width)
        if len(uncond_BD) not in (1, len(cond_BD)):
            raise ArgumentError(
                f"Got {several(len(uncond_BD), 'row')} of negative_image_embeds for "
                f"{len(cond_BD)} of image_embeds: give one, or one for each."
            )
        given["uncond"] = uncond_BD.expand_as(cond_BD)
    return {branch: rows.repeat_interleave(pictures, dim=0) for branch, rows in given.items()}


def rows_of(name: str, embeds: Embeds, width: int) -> Tensor:
    """The embeddings (B, D), or an ArgumentError for another shape."""
    given = list(embeds) if isinstance(embeds, list | tuple) else [embeds]
    parts = [part for part in given if isinstance(part, Tensor)]
    if not parts or len(parts) < len(given):
        raise ArgumentError(
            f"Got {name} of type {type(embeds).__name__}, expected a tensor or a list of tensors."
        )
    for part in parts:
        if part.ndim != 2 or part.shape[1] != width or not part.is_floating_point():
            raise ArgumentError(
                f"Got {name} of shape {tuple(part.shape)} and {part.dtype}, expected (pictures, "
                f"{width}) and floating point: one embedding a row, of the width this UNet reads."
            )
    return torch.cat(parts)


def prompts_of(
    prompt: object, negative_prompt: object, negative_image_embeds: object, prior: object
) -> tuple[list[str], list[str] | None]:
    """The prompts, and a negative one for each if there are any."""
    if prompt is None:
        raise ArgumentError("Got neither prompt nor image_embeds: give exactly one of them.")
    if negative_image_embeds is not None:
        raise ArgumentError(
            "Got negative_image_embeds with a prompt: give negative_prompt, or image_embeds."
        )
    if prior is None:
        raise ArgumentError(
            "Got a prompt, but this pipeline has no prior to imagine a picture with: load one, "
            "UnclipPipeline.from_pretrained(decoder, prior=...), or give image_embeds."
        )
    prompts = literal("prompt", prompt)
    if negative_prompt is None:
        return prompts, None
    return prompts, literal("negative_prompt", negative_prompt, len(prompts))


def literal(name: str, prompt: object, count: int | None = None) -> list[str]:
    """The prompts as strings; a prior hears a prompt once, so that no grammar acts on it."""
    rows = arguments.list_of_prompts(name, prompt, count)
    if not all(isinstance(row, str) for row in rows):
        raise ArgumentError(f"Got {name} with a Prompt: a prior reads plain strings.")
    return [str(row) for row in rows]


def check_alone(prompt: object, negative_prompt: object) -> None:
    """Raise ArgumentError where there are prompts beside embeddings."""
    for name, given in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        if given is not None:
            raise ArgumentError(f"Got both {name} and image_embeds: give one of them.")


def check_branches(needs: Sequence[Branch]) -> None:
    """Raise ArgumentError for a guidance that asks for more than embeddings can tell."""
    if "cond" not in needs or not {*needs} <= {"uncond", "cond"}:
        raise ArgumentError(
            f"Got a guidance of the branches {', '.join(needs)}; a model that is told pictures has "
            "uncond and cond: choose ClassifierFree, AdaptiveProjected or ZeroStar."
        )


def called(callback: StepEndCallback) -> StepEndCallback:
    """The callback under diffusers' names for embeddings of pictures."""
    theirs = {ours: name for name, ours in CALLED.items()}

    def renamed(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        given = {
            theirs.get(name, name): value[:, 0] if name in theirs and value is not None else value
            for name, value in tensors.items()
        }
        returned = tensors_of(callback(pipe, step, timestep, given))
        return {
            CALLED.get(name, name): widened(value) if name in CALLED else value
            for name, value in returned.items()
        }

    return renamed


def widened(embeds: object) -> object:
    """Embeddings as texts of one token; what is no such thing is refused where it is taken over."""
    return embeds[:, None] if isinstance(embeds, Tensor) and embeds.ndim == 2 else embeds
