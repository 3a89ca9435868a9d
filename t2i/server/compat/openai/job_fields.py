"""Fields of a job from the body of OpenAI's routes, in the names of the own API."""

from collections.abc import Mapping
from typing import Any, get_args

from t2i.cli.request.request import parse_size
from t2i.errors import ArgumentError
from t2i.server.compat.openai.image_schemas import ImageBody, OutputFormat

NEUTRAL_VALUES_BY_FIELD: Mapping[str, tuple[object, ...]] = {
    "background": (None, "auto", "opaque"),
    "quality": (None, "auto", "standard"),
    "moderation": (None, "auto", "low"),
    "style": (None,),
    "complexity": (None,),
    "frame_count": (None,),
    "frame_duration_ms": (None,),
    "svg": (None,),
    "input_fidelity": (None,),
    "markup": (None,),
}
"""Field -> values that change nothing."""
REFUSAL_REASON_BY_FIELD: Mapping[str, str] = {
    "background": "pictures are opaque: leave it out",
    "quality": "send the number of steps instead, as in extra_body={'steps': 30}",
    "style": "describe the style in the prompt",
    "input_fidelity": "send strength instead, as in extra_body={'strength': 0.5}",
    "markup": "describe the change in the prompt, and mark its place with a mask",
}
"""Field -> why it is refused, and what to do."""
FIELDS_OF_OWN_API = ("negative_prompt", "seed", "steps", "guidance_scale", "sampler", "strength")
AUTO_SIZE = "auto"


def build_image_fields(body: ImageBody, model: str) -> dict[str, Any]:
    """Return the fields of the server job that an OpenAI image body asks for, except those of its
    pictures. Raises ArgumentError.

    model : name of the model that draws it
    """
    _check_neutral_fields(body)
    parse_output_format(body)
    if body.partial_images and not body.stream:
        raise ArgumentError(
            f"Got partial_images={body.partial_images} without stream: send stream=true too."
        )
    if body.stream and body.response_format == "url":
        raise ArgumentError("Got response_format=url with stream: a stream sends b64_json.")
    fields = {name: getattr(body, name, None) for name in FIELDS_OF_OWN_API}
    fields |= {
        "prompt": body.prompt,
        "model": model,
        "num": body.n or 1,
        "grammar": body.grammar or "plain",
    }
    if body.size not in (None, "", AUTO_SIZE):
        fields["width"], fields["height"] = parse_size(body.size, "size")
    return {name: value for name, value in fields.items() if value is not None}


def parse_output_format(body: ImageBody) -> OutputFormat:
    """Return the image format that an OpenAI request body asks for, PNG if it names none. Raises
    ArgumentError for an unknown one.
    """
    name = body.output_format or "png"
    for known in get_args(OutputFormat):
        if name == known:
            break
    else:
        raise ArgumentError(
            f"Got output_format={name!r:.80}: expected {', '.join(get_args(OutputFormat))}."
        )
    if known == "png" and body.output_compression not in (None, 100):
        raise ArgumentError(
            f"Got output_compression={body.output_compression} with output_format=png, which loses "
            "nothing: send output_format=jpeg or webp."
        )
    if known != "png" and body.response_format == "url":
        raise ArgumentError(
            f"Got response_format=url with output_format={known}: the server keeps PNG files. Send "
            "response_format=b64_json."
        )
    return known  # type: ignore[no-any-return]  # one of the Literal's values


def _check_neutral_fields(body: ImageBody) -> None:
    """Raise ArgumentError for a field that asks for something which t2i does not do."""
    for name, neutral in NEUTRAL_VALUES_BY_FIELD.items():
        value = getattr(body, name, None)
        if value not in neutral:
            reason = REFUSAL_REASON_BY_FIELD.get(name, "leave it out")
            raise ArgumentError(f"Got {name}={value!r:.80}, which is not done here: {reason}.")
    for name, value in (body.model_extra or {}).items():
        if value is not None:
            raise ArgumentError(f"Got {name}={value!r:.80}: no such field is known here.")
