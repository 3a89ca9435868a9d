"""Checks of a pipeline call's arguments, made before any work is done."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from t2i.errors import ArgumentError, suggest_choice
from t2i.terminal import plural
from t2i.text.prompt import Prompt

MAX_COUNT = 1_000_000
"""Upper bound of every count, side and step: tensors have one, unlike Python integers."""
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def repeat_prompt_to_count(
    name: str, prompts: object, count: int | None = None
) -> list[str | Prompt]:
    """Return a list of one prompt per row; a single prompt is repeated `count` times."""
    if isinstance(prompts, str | Prompt):
        return [prompts] * (count or 1)
    rows = prompts if isinstance(prompts, list | tuple) else [None]
    if not all(isinstance(row, str | Prompt) for row in rows):
        raise ArgumentError(
            f"Got {name} of type {type(prompts).__name__}: {prompts!r:.80}. "
            "Expected a string, a Prompt, or a list of them."
        )
    if not rows:
        raise ArgumentError(f'Got {name}=[]: give at least one prompt; "" is a prompt.')
    if count is not None and len(rows) != count:
        raise ArgumentError(
            f"Got {plural(len(rows), 'string')} as {name} for {plural(count, 'prompt')}: "
            "give one for each, or a single string for all."
        )
    return list(rows)


def check_prompt_or_embeddings(
    prompt: object,
    negative_prompt: object,
    prompt_embeds: Tensor | None,
    negative_prompt_embeds: Tensor | None,
) -> None:
    """Raise ArgumentError unless either a prompt or its embeddings are given, and embeddings are
    floating-point tensors (prompts, tokens, width).
    """
    if (prompt is None) == (prompt_embeds is None):
        given = "neither" if prompt is None else "both"
        raise ArgumentError(f"Got {given} of prompt and prompt_embeds: give exactly one of them.")
    if negative_prompt is not None and negative_prompt_embeds is not None:
        raise ArgumentError(
            "Got both negative_prompt and negative_prompt_embeds: give one of them."
        )
    for name, embeds in (
        ("prompt_embeds", prompt_embeds),
        ("negative_prompt_embeds", negative_prompt_embeds),
    ):
        if embeds is not None and not isinstance(embeds, Tensor):
            raise ArgumentError(f"Got {name} of type {type(embeds).__name__}, expected a tensor.")
        if embeds is None:
            continue
        if embeds.ndim != 3 or 0 in embeds.shape or not embeds.is_floating_point():
            raise ArgumentError(
                f"Got {name} of shape {tuple(embeds.shape)} and {embeds.dtype}, expected (prompts, "
                "tokens, width) and floating point."
            )


def check_embedding_width(embeds: Tensor, unet: Any) -> None:
    """Raise ArgumentError unless the UNet reads embeddings of this width."""
    expected = unet.config["cross_attention_dim"]
    projected = unet.config["encoder_hid_dim"] is not None
    if isinstance(expected, int) and not projected and embeds.shape[-1] != expected:
        raise ArgumentError(
            f"Got embeddings of width {embeds.shape[-1]}, but this UNet reads {expected}: use the "
            "model's own text encoder."
        )


def check_same_embedding_shape(prompt_embeds: Tensor, negative_prompt_embeds: Tensor) -> None:
    """Raise ArgumentError where the embeddings of prompt and negative prompt differ in shape."""
    if prompt_embeds.shape != negative_prompt_embeds.shape:
        raise ArgumentError(
            f"Got negative_prompt_embeds of shape {tuple(negative_prompt_embeds.shape)} for a "
            f"prompt of shape {tuple(prompt_embeds.shape)}: expected the same."
        )


def check_count(name: str, value: int) -> None:
    """Raise ArgumentError unless the argument is an int from 1 to MAX_COUNT, and not a bool."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_COUNT:
        raise ArgumentError(
            f"Got {name}={value!r:.80}, expected a whole number from 1 to {MAX_COUNT:,}."
        )


def check_path_type(name: str, value: object) -> None:
    """Raise ArgumentError unless the argument is a str or PathLike; the file itself need not
    exist.
    """
    if not isinstance(value, str | PathLike):
        raise ArgumentError(f"Got {name}={value!r:.80}, expected a path.")


def check_output_type(output_type: str) -> None:
    """Raise ArgumentError unless output_type is "pil", "np", "pt" or "latent"."""
    if not isinstance(output_type, str) or output_type not in OUTPUT_TYPES:
        raise ArgumentError(
            f"Unknown output_type {output_type!r}. {suggest_choice(str(output_type), OUTPUT_TYPES)}"
        )


def check_generators(generator: object, num_images: int) -> None:
    """Raise ArgumentError unless `generator` is None, one generator, or a list of one per image."""
    generators = generator if isinstance(generator, list) else [generator]
    for one in generators:
        if (one is not None or isinstance(generator, list)) and not isinstance(
            one, torch.Generator
        ):
            raise ArgumentError(
                f"Got a generator of type {type(one).__name__}, expected a torch.Generator: "
                "torch.Generator().manual_seed(7)."
            )
    if isinstance(generator, list) and len(generator) != num_images:
        raise ArgumentError(
            f"Got {plural(len(generator), 'generator')} for {plural(num_images, 'image')}: "
            "give one for each image, or a single one for all."
        )


def check_latents_shape_and_dtype(latents: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ArgumentError unless the latents are floating point and of this shape."""
    if not isinstance(latents, Tensor):
        raise ArgumentError(f"Got latents of type {type(latents).__name__}, expected a tensor.")
    if tuple(latents.shape) != shape or not latents.is_floating_point():
        raise ArgumentError(
            f"Got latents of shape {tuple(latents.shape)} and {latents.dtype}, expected {shape} "
            "(images, channels, height, width of the latents) and floating point."
        )


def check_guidance_protocol(guidance: object) -> None:
    """Raise ArgumentError unless the object implements the Guidance protocol."""
    protocol = ("possible_branches", "branches", "combine")
    sound = not isinstance(guidance, type) and all(hasattr(guidance, name) for name in protocol)
    if guidance is not None and not sound:
        raise ArgumentError(
            f"Got guidance={guidance!r:.80}, expected an object such as ClassifierFree(7.5) of "
            "t2i.conditioning.guidance; "
            "t2i.conditioning.guidance_registry.parse_guidance('apg', 7.5) makes one from its name."
        )


def check_two_whole_numbers(name: str, value: object) -> None:
    """Raise ArgumentError unless the argument is None or two whole numbers."""
    pair = value if isinstance(value, list | tuple) and len(value) == 2 else [None]
    if value is not None and not all(map(is_whole_number_up_to_million, pair)):
        raise ArgumentError(
            f"Got {name}={value!r:.80}, expected two whole numbers, height and width: (512, 512)."
        )


def is_whole_number_up_to_million(value: object) -> bool:
    """Return True for an int, not a bool, of at most a million in magnitude."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_COUNT


def check_bool(name: str, value: object) -> None:
    """Raise ArgumentError unless the value of the argument `name` is True or False."""
    if not isinstance(value, bool):
        raise ArgumentError(f"Got {name}={value!r:.80}, expected True or False.")


def check_clip_skip_not_negative(value: object) -> None:
    """Raise ArgumentError unless clip_skip is None or a whole number from 0 on."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if value is not None and not whole:
        raise ArgumentError(f"Got clip_skip={value!r:.80}, expected a whole number from 0 on.")


def check_mapping(name: str, value: object) -> None:
    """Raise ArgumentError unless the value of the argument `name` is None or a mapping."""
    if value is not None and not isinstance(value, Mapping):
        raise ArgumentError(f"Got {name} of type {type(value).__name__}, expected a dict.")


def check_callback_tensor_inputs(names: Sequence[str], choices: Sequence[str]) -> None:
    """Raise ArgumentError unless callback_on_step_end_tensor_inputs is a list of names in
    `choices`.
    """
    if not isinstance(names, list | tuple):
        raise ArgumentError(
            "Got callback_on_step_end_tensor_inputs of type "
            f"{type(names).__name__}, expected a list of names: ['latents']."
        )
    for name in names:
        if not isinstance(name, str) or name not in choices:
            raise ArgumentError(
                f"Unknown name {name!r} in callback_on_step_end_tensor_inputs. "
                f"{suggest_choice(str(name), choices)}"
            )
