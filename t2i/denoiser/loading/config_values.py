"""What may stand under each key of a model's configs: the type that a class says in its signature,
and the range that makes sense."""

import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy

from t2i.errors import ModelError

AT_LEAST_ONE = {
    "addition_embed_type_num_heads",
    "addition_time_embed_dim",
    "attention_head_dim",
    "block_out_channels",
    "clip_embed_dim",
    "conv_in_kernel",
    "conv_out_kernel",
    "cross_attention_dim",
    "d_ff",
    "d_kv",
    "d_model",
    "decoder_block_out_channels",
    "embedding_dim",
    "encoder_block_out_channels",
    "encoder_hid_dim",
    "hidden_size",
    "image_size",
    "in_channels",
    "intermediate_size",
    "latent_channels",
    "layers_per_block",
    "max_position_embeddings",
    "n_embd",
    "n_head",
    "n_layer",
    "n_positions",
    "norm_num_groups",
    "num_attention_heads",
    "num_embeddings",
    "num_heads",
    "num_hidden_layers",
    "num_layers",
    "num_train_timesteps",
    "num_vq_embeddings",
    "original_inference_steps",
    "out_channels",
    "patch_size",
    "projection_class_embeddings_input_dim",
    "sample_size",
    "solver_order",
    "time_cond_proj_dim",
    "time_embedding_dim",
    "upsampling_scaling_factor",
    "vocab_size",
    "vq_embed_dim",
}
"""Sizes and counts."""
ABOVE_ZERO = {
    "latent_magnitude",
    "layer_norm_eps",
    "norm_eps",
    "resnet_out_scale_factor",
    "scaling_factor",
    "timestep_scaling",
}
UP_TO_ONE = {"beta_start", "beta_end", "trained_betas"}
"""Above 0 and at most 1: what is taken away from the signal at a step."""
SHARES = {"attention_dropout", "dropout", "dynamic_thresholding_ratio"}
"""From 0 to 1."""
MOST_STEPS = 100_000
"""Of a noise schedule; a hundred times what models are trained with."""
MOST = {"num_train_timesteps": MOST_STEPS, "sample_size": 16_384, "solver_order": 3}

SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
NO_JSON = {type(None), numpy.ndarray, ...}
"""In an annotation beside what JSON may have."""
TRANSLATED = {"algorithm_type", "solver_type"}
"""Schedulers translate those of other schedulers, which their annotations do not say."""


def check_values(kind: Callable[..., Any], config: Mapping[str, object]) -> None:
    """Raise ModelError for the first value in a config that the class `kind` cannot use.

    Its message follows the name of the file.

    Keys that are no argument of the class are passed over, and so is null: what is built of it
    shows whether the class knows a default.
    """
    parameters = inspect.signature(kind).parameters
    for key, value in config.items():
        for number in scalars(value):
            if isinstance(number, float) and not math.isfinite(number):
                raise misfit(key, value, "a finite number")
        parameter = parameters.get(key)
        if parameter is None:
            continue
        if value is None:
            # What these are for is done to a picture, long after the model is built.
            if key in ABOVE_ZERO and parameter.default is not None:
                raise misfit(key, value, "more than 0")
            continue
        if expected := misfit_of_type(key, value, parameter.annotation):
            raise misfit(key, value, expected)
        if expected := misfit_of_range(key, value):
            raise misfit(key, value, expected)


def misfit(key: str, value: object, expected: str) -> ModelError:
    return ModelError(
        f"has {key} = {value!r:.80}, expected {expected}: correct it, or copy the file from "
        "the model again."
    )


def misfit_of_type(key: str, value: object, annotation: object) -> str:
    """What a parameter of this annotation takes, in words, or "" where the value is that.

    A list may be of any length: signatures say `tuple[int]` of four numbers.
    """
    taken = told_by(annotation)
    if taken is None or (taken.literals and key in TRANSLATED):
        return ""
    if isinstance(value, list | tuple):
        sound = taken.lists and all(one is None or is_one_of(one, taken) for one in scalars(value))
        sound = sound and len(value) > 0
    else:
        sound = taken.alone and not isinstance(value, dict) and is_one_of(value, taken)
    if sound:
        return ""
    if taken.literals:
        return "one of " + ", ".join(sorted(map(str, taken.literals)))
    words = " or ".join(word for kind, word in SCALARS.items() if kind in taken.kinds)
    if not taken.lists:
        return words
    return f"{words}, or a list of such" if taken.alone else f"a list, each {words}"


@dataclass(frozen=True, slots=True)
class Taken:
    """What a parameter takes.

    kinds : the types of its numbers and texts
    literals : the only texts, if there is a choice
    alone, lists : whether one value is taken, and whether several are
    """

    kinds: frozenset[type]
    literals: frozenset[object]
    alone: bool
    lists: bool


def told_by(annotation: object) -> Taken | None:
    """None for an annotation that says nothing of JSON's values."""
    nothing: frozenset[Any] = frozenset()
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in SCALARS:
        return Taken(frozenset({annotation}), nothing, True, False)
    if origin is typing.Literal:
        return Taken(frozenset({str}), frozenset(arguments), True, False)
    if annotation in (tuple, list):
        return Taken(frozenset(SCALARS), nothing, False, True)
    if origin not in (tuple, list, typing.Union, types.UnionType):
        return None
    several = origin in (tuple, list)
    told = [told_by(one) for one in arguments if one not in NO_JSON]
    if None in told or not told:
        return None
    inner = [one for one in told if one is not None]
    return Taken(
        nothing.union(*(one.kinds for one in inner)),
        nothing.union(*(one.literals for one in inner)),
        not several and any(one.alone for one in inner),
        several or any(one.lists for one in inner),
    )


def is_one_of(value: object, taken: Taken) -> bool:
    """Whether one of JSON's values is taken; a whole number is a number, true is none."""
    if taken.literals:
        return value in taken.literals
    kind = type(value)
    return kind in taken.kinds or (kind is int and float in taken.kinds)


def misfit_of_range(key: str, value: object) -> str:
    """What the key takes, in words, or "" where each number in the value is that."""
    numbers = [one for one in scalars(value) if isinstance(one, int | float)]
    numbers = [one for one in numbers if not isinstance(one, bool)]
    if key in AT_LEAST_ONE and not all(one >= 1 for one in numbers):
        return "at least 1"
    if key in MOST and not all(one <= MOST[key] for one in numbers):
        return f"at most {MOST[key]:,}"
    if key in ABOVE_ZERO and not all(one > 0 for one in numbers):
        return "more than 0"
    if key in UP_TO_ONE and not all(0 < one <= 1 for one in numbers):
        return "above 0 and at most 1"
    if key in SHARES and not all(0 <= one <= 1 for one in numbers):
        return "a number from 0 to 1"
    return ""


def scalars(value: object) -> Iterable[object]:
    """What a value holds at any depth of lists; itself, where it is none."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list | tuple):
            waiting += one
        else:
            yield one
