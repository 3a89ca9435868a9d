"""Checks of config values against the type annotation of their parameter and a plausible range."""

import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy

from t2i.errors import ModelError

KEYS_AT_LEAST_ONE = {
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
KEYS_ABOVE_ZERO = {
    "latent_magnitude",
    "layer_norm_eps",
    "norm_eps",
    "resnet_out_scale_factor",
    "scaling_factor",
    "timestep_scaling",
}
KEYS_UP_TO_ONE = {"beta_start", "beta_end", "trained_betas"}
"""Above 0 and at most 1: what is taken away from the signal at a step."""
KEYS_ZERO_TO_ONE = {"attention_dropout", "dropout", "dynamic_thresholding_ratio"}
"""Keys of values from 0 to 1."""
MAX_TRAIN_STEPS = 100_000
"""Largest noise schedule; a hundred times the usual length."""
MAX_VALUES = {"num_train_timesteps": MAX_TRAIN_STEPS, "sample_size": 16_384, "solver_order": 3}

SCALAR_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
NON_JSON_TYPES = {type(None), numpy.ndarray, ...}
"""In an annotation beside what JSON may have."""
KEYS_WITH_TRANSLATED_VALUES = {"algorithm_type", "solver_type"}
"""Schedulers translate those of other schedulers, which their annotations do not say."""


def check_config_values(kind: Callable[..., Any], config: Mapping[str, object]) -> None:
    """Raise ModelError for the first value in a config that the class `kind` cannot use.

    The message continues the name of the file. Keys that are no parameter of the class are ignored,
    and so is null.
    """
    parameters = inspect.signature(kind).parameters
    for key, value in config.items():
        for number in iter_scalars(value):
            if isinstance(number, float) and not math.isfinite(number):
                raise build_config_value_error(key, value, "a finite number")
        parameter = parameters.get(key)
        if parameter is None:
            continue
        if value is None:
            # What these are for is done to a picture, long after the model is built.
            if key in KEYS_ABOVE_ZERO and parameter.default is not None:
                raise build_config_value_error(key, value, "more than 0")
            continue
        if expected := describe_expected_type_if_wrong(key, value, parameter.annotation):
            raise build_config_value_error(key, value, expected)
        if expected := describe_expected_range_if_outside(key, value):
            raise build_config_value_error(key, value, expected)


def build_config_value_error(key: str, value: object, expected: str) -> ModelError:
    """Return the ModelError for a config value that is not as expected."""
    return ModelError(
        f"has {key} = {value!r:.80}, expected {expected}: correct it, or copy the file from "
        "the model again."
    )


def describe_expected_type_if_wrong(key: str, value: object, annotation: object) -> str:
    """Return "" if a config value has a type that its parameter's annotation allows, otherwise a
    description of the allowed types for an error message.

    Lists may have any length: signatures declare `tuple[int]` for four numbers.
    """
    allowed = parse_annotation(annotation)
    if allowed is None or (allowed.literals and key in KEYS_WITH_TRANSLATED_VALUES):
        return ""
    if isinstance(value, list | tuple):
        sound = allowed.lists and all(
            one is None or is_accepted_scalar(one, allowed) for one in iter_scalars(value)
        )
        sound = sound and len(value) > 0
    else:
        sound = allowed.alone and not isinstance(value, dict) and is_accepted_scalar(value, allowed)
    if sound:
        return ""
    if allowed.literals:
        return "one of " + ", ".join(sorted(map(str, allowed.literals)))
    words = " or ".join(word for kind, word in SCALAR_NAMES.items() if kind in allowed.kinds)
    if not allowed.lists:
        return words
    return f"{words}, or a list of such" if allowed.alone else f"a list, each {words}"


@dataclass(frozen=True, slots=True)
class AcceptedJsonTypes:
    """JSON types that the type annotation of a config's parameter accepts: types of scalars,
    allowed strings, and whether scalars and lists are allowed.

    kinds : types of its scalars
    literals : the only allowed strings, if there is a choice
    alone, lists : True if a scalar is allowed, and if a list is
    """

    kinds: frozenset[type]
    literals: frozenset[object]
    alone: bool
    lists: bool


def parse_annotation(annotation: object) -> AcceptedJsonTypes | None:
    """Parse a parameter's type annotation to the JSON types that it accepts; return None for one
    that does not restrict JSON values.
    """
    nothing: frozenset[Any] = frozenset()
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in SCALAR_NAMES:
        return AcceptedJsonTypes(frozenset({annotation}), nothing, True, False)
    if origin is typing.Literal:
        return AcceptedJsonTypes(frozenset({str}), frozenset(arguments), True, False)
    if annotation in (tuple, list):
        return AcceptedJsonTypes(frozenset(SCALAR_NAMES), nothing, False, True)
    if origin not in (tuple, list, typing.Union, types.UnionType):
        return None
    several = origin in (tuple, list)
    items = [parse_annotation(one) for one in arguments if one not in NON_JSON_TYPES]
    if None in items or not items:
        return None
    inner = [one for one in items if one is not None]
    return AcceptedJsonTypes(
        nothing.union(*(one.kinds for one in inner)),
        nothing.union(*(one.literals for one in inner)),
        not several and any(one.alone for one in inner),
        several or any(one.lists for one in inner),
    )


def is_accepted_scalar(value: object, allowed: AcceptedJsonTypes) -> bool:
    """Return True if a scalar of a config has a type that its parameter accepts; an int counts as a
    float, a bool does not.
    """
    if allowed.literals:
        return value in allowed.literals
    kind = type(value)
    return kind in allowed.kinds or (kind is int and float in allowed.kinds)


def describe_expected_range_if_outside(key: str, value: object) -> str:
    """Return "" if the numbers of a config value lie in the plausible range of their key, otherwise
    a description of the range for an error message.
    """
    numbers = [one for one in iter_scalars(value) if isinstance(one, int | float)]
    numbers = [one for one in numbers if not isinstance(one, bool)]
    if key in KEYS_AT_LEAST_ONE and not all(one >= 1 for one in numbers):
        return "at least 1"
    if key in MAX_VALUES and not all(one <= MAX_VALUES[key] for one in numbers):
        return f"at most {MAX_VALUES[key]:,}"
    if key in KEYS_ABOVE_ZERO and not all(one > 0 for one in numbers):
        return "more than 0"
    if key in KEYS_UP_TO_ONE and not all(0 < one <= 1 for one in numbers):
        return "above 0 and at most 1"
    if key in KEYS_ZERO_TO_ONE and not all(0 <= one <= 1 for one in numbers):
        return "a number from 0 to 1"
    return ""


def iter_scalars(value: object) -> Iterable[object]:
    """Iterate over the scalars in nested lists; a scalar yields itself."""
    remaining = [value]
    while remaining:
        one = remaining.pop()
        if isinstance(one, list | tuple):
            remaining += one
        else:
            yield one
