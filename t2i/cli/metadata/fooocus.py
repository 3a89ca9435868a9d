"""Parser of Fooocus' `parameters`: JSON or A1111's format, as `fooocus_scheme` names it."""

from collections.abc import Mapping

from t2i.cli.metadata.a1111 import parse_a1111
from t2i.cli.metadata.parsed_metadata import (
    ImageMetadata,
    MetadataSettings,
    MetadataValueParser,
    parse_json_object,
)
from t2i.errors import DataError

TOOL_NAME = "Fooocus"
USED_KEYS = {
    *("prompt", "negative_prompt", "steps", "sampler", "scheduler", "guidance_scale", "seed"),
    *("resolution", "base_model", "base_model_hash", "version", "metadata_scheme"),
    *("full_prompt", "full_negative_prompt"),  # the prompt and what its styles add
}
"""Keys of Fooocus whose values have a place in ImageMetadata."""


def find_fooocus_metadata(texts: Mapping[str, str]) -> ImageMetadata | None:
    """Return Fooocus' generation metadata among an image's texts, or None.

    Raises DataError for a text of another format.
    """
    text, scheme = texts.get("parameters"), texts.get("fooocus_scheme")
    if text is None or (scheme is None and not text.startswith("{")):
        return None
    if scheme == "a1111":
        return parse_a1111(text, TOOL_NAME)
    if scheme not in (None, "fooocus"):
        raise DataError(f"fooocus_scheme: {scheme!r:.40}, expected fooocus or a1111")
    try:
        found = parse_json_object("parameters", text)
    except DataError:
        if scheme is None:
            return None  # A1111's, with a prompt that begins with a brace.
        raise
    # Older files name the values as its page does: "Guidance Scale".
    values = {name.lower().replace(" ", "_"): value for name, value in found.items()}
    if not values.keys() & USED_KEYS:
        raise DataError("parameters: JSON without any value that Fooocus writes")

    parser = MetadataValueParser()
    resolution = parser.parse_string("resolution", values.get("resolution")) or ""
    size = resolution.strip("() ").replace("x", ",").split(",")
    if len(size) != 2 and resolution:
        parser.record_not_understood("resolution", resolution, "(width, height)")
    width, height = parser.parse_width_and_height(*size) if len(size) == 2 else (None, None)
    settings = MetadataSettings(
        num_inference_steps=parser.parse_steps(values.get("steps")),
        sampler=parser.parse_sampler(values.get("sampler"), values.get("scheduler")),
        guidance_scale=parser.parse_float("guidance_scale", values.get("guidance_scale")),
        seed=parser.parse_seed(values.get("seed")),
        width=width,
        height=height,
        model=parser.parse_string("base_model", values.get("base_model")),
        model_hash=parser.parse_string("base_model_hash", values.get("base_model_hash")),
    )
    prompt = parser.parse_string_or_empty("prompt", values.get("prompt"))
    negative_prompt = parser.parse_string_or_empty("negative_prompt", values.get("negative_prompt"))
    version = parser.parse_string("version", values.get("version"))
    parser.record_unused_keys(values, USED_KEYS)
    return parser.build_metadata(version or TOOL_NAME, prompt, negative_prompt, settings, text)
