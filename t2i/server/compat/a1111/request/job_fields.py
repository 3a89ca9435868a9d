"""Fields of a job from the body of txt2img or img2img, in the names of the own API."""

import re
from collections.abc import Iterable
from typing import Any

from t2i.errors import ArgumentError
from t2i.server.compat.a1111.request.bodies import GenerationBody, Img2ImgBody, Txt2ImgBody
from t2i.server.compat.a1111.request.neutral_values import (
    build_unsupported_field_error,
    check_no_unsupported_fields,
)
from t2i.server.compat.a1111.request.sampler_choice import choose_sampler

SAME_AS_FIRST_PASS_VALUES = (
    "",
    "None",
    "none",
    "Use same checkpoint",
    "Use same sampler",
    "Use same scheduler",
)
"""Values of the hr_ fields that mean: as in the first pass."""
ONLY_UPSCALER = "Lanczos"
"""Upscaler of enable_hr."""
DEFAULT_HR_STRENGTH = 0.75
"""Strength of enable_hr's second pass where the body leaves it out, as in A1111."""
DEFAULT_IMAGE_STRENGTH = 0.75
"""Strength of img2img where the body leaves it out, as in A1111."""


def build_txt2img_fields(
    body: Txt2ImgBody, model: str, embeddings: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the fields of the server job that an A1111 txt2img body asks for. Raises
    ArgumentError.

    model : name of the model that draws it
    embeddings : names of the server's learned words
    """
    fields = _build_shared_fields(body, model, embeddings)
    if body.enable_hr:
        fields["upscale"] = _build_upscale(body)
    return fields


def build_img2img_fields(
    body: Img2ImgBody, model: str, embeddings: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the fields of the server job that an A1111 img2img body asks for, except those of its
    pictures.

    model, embeddings : as for `build_txt2img_fields`
    """
    strength = body.denoising_strength
    fields = _build_shared_fields(body, model, embeddings)
    return fields | {"strength": DEFAULT_IMAGE_STRENGTH if strength is None else strength}


def find_embeddings_in_prompts(texts: Iterable[str], names: Iterable[str]) -> list[dict[str, str]]:
    """Return the server's learned words (textual inversions) whose names stand in a prompt, as
    A1111 finds them.

    A name in a folder, "styles/ink", is written as the last part: "ink".
    """
    prompts = "\n".join(texts)
    words = {name: name.rpartition("/")[2] for name in names}
    return [
        {"name": name, "token": word}
        for name, word in words.items()
        if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", prompts)
    ]


def _build_shared_fields(
    body: GenerationBody, model: str, embeddings: Iterable[str]
) -> dict[str, Any]:
    check_no_unsupported_fields(body)
    words = find_embeddings_in_prompts((body.prompt or "", body.negative_prompt or ""), embeddings)
    fields = {
        "prompt": body.prompt or "",
        "negative_prompt": body.negative_prompt or "",
        "model": model,
        "steps": body.steps,
        "guidance_scale": body.cfg_scale,
        "sampler": choose_sampler(body.sampler_name or body.sampler_index, body.scheduler),
        "width": body.width,
        "height": body.height,
        "seed": None if body.seed in (None, -1) else body.seed,
        "num": count_pictures(body),
        "grammar": "a1111",
        "embeddings": words or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def count_pictures(body: GenerationBody) -> int:
    """Return how many pictures an A1111 request body asks for: number of batches times pictures of
    a batch.
    """
    counts = {
        name: 1 if value is None else value
        for name, value in (("batch_size", body.batch_size), ("n_iter", body.n_iter))
    }
    for name, count in counts.items():
        if count < 1:
            raise ArgumentError(f"Got {name}={count}: expected a whole number from 1 on.")
    return counts["batch_size"] * counts["n_iter"]


def _build_upscale(body: Txt2ImgBody) -> str:
    """Return "factor:strength" of enable_hr. Raises ArgumentError for what is not done here."""
    upscaler = body.hr_upscaler
    if upscaler is not None and upscaler != ONLY_UPSCALER:
        raise build_unsupported_field_error(
            "hr_upscaler", upscaler, f'send "hr_upscaler": "{ONLY_UPSCALER}"'
        )
    if body.hr_second_pass_steps not in (None, 0, body.steps):
        raise build_unsupported_field_error(
            "hr_second_pass_steps", body.hr_second_pass_steps, "both passes take `steps`; send 0"
        )
    same = {
        "hr_checkpoint_name": None,
        "hr_sampler_name": body.sampler_name or body.sampler_index,
        "hr_scheduler": body.scheduler,
        "hr_prompt": body.prompt,
        "hr_negative_prompt": body.negative_prompt,
    }
    for name, first in same.items():
        value = getattr(body, name)
        if value is not None and value not in SAME_AS_FIRST_PASS_VALUES and value != first:
            raise build_unsupported_field_error(
                name, value, "the second pass is drawn as the first one"
            )
    strength = body.denoising_strength
    return f"{_choose_hr_factor(body)}:{DEFAULT_HR_STRENGTH if strength is None else strength}"


def _choose_hr_factor(body: Txt2ImgBody) -> float:
    """Return the factor of enable_hr: hr_scale, or what hr_resize_x and hr_resize_y come to."""
    asked = (body.hr_resize_x or 0, body.hr_resize_y or 0)
    if asked == (0, 0):
        return 2.0 if body.hr_scale is None else body.hr_scale
    if body.width is None or body.height is None:
        raise ArgumentError(
            f"Got hr_resize_x={asked[0]} and hr_resize_y={asked[1]} without width and height: "
            "send these too, or hr_scale."
        )
    factors = [
        side / first for side, first in zip(asked, (body.width, body.height), strict=True) if side
    ]
    if max(factors) - min(factors) > 1e-6:
        raise ArgumentError(
            f"Got hr_resize_x={asked[0]} and hr_resize_y={asked[1]} for a picture of "
            f"{body.width}x{body.height}: the larger picture has the same shape. Send one of them, "
            "or hr_scale."
        )
    return factors[0]
