"""Reader of t2i's own record, the JSON under the key `t2i`: complete, and still validated."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from t2i.cli.inspected_words import MAX_RETRIES
from t2i.cli.metadata.parsed_metadata import (
    ImageMetadata,
    MetadataSettings,
    MetadataValueParser,
    parse_json_object,
)
from t2i.cli.metadata.writing import T2I_METADATA_VERSION
from t2i.cli.request.request import MAX_PICTURES, MAX_SEED, Request
from t2i.errors import DataError
from t2i.terminal import escape_controls
from t2i.validation_errors import describe_first_validation_error

TOOL_NAME = "t2i"
ShortText = Annotated[str, Field(max_length=200)]


class DrawnSeedRecord(BaseModel):
    """Record of one draw of an image with --retry: its seed, the probability of each thing, and
    the words whose things were missing.
    """

    model_config = ConfigDict(strict=True)

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    found: Annotated[dict[ShortText, float], Field(max_length=200)]
    missing: Annotated[list[ShortText], Field(max_length=200)]


class T2IMetadata(BaseModel):
    """Generation metadata as t2i writes it into its images, in JSON: version, request, seed, model
    digest, libraries.
    """

    model_config = ConfigDict(strict=True)

    version: int
    request: Request
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    model_digest: ShortText
    libraries: Annotated[dict[ShortText, ShortText], Field(max_length=50)] = {}
    pictures: Annotated[int, Field(ge=1, le=MAX_PICTURES)] = 1
    draws: Annotated[list[DrawnSeedRecord], Field(max_length=MAX_RETRIES + 1)] = []
    retry: Annotated[str, Field(max_length=10_000)] | None = None


def parse_t2i_metadata(text: str) -> T2IMetadata:
    """Parse the JSON text of the generation metadata that t2i writes into its images.

    Raises DataError for another version of the format, and for invalid values.
    """
    values = parse_json_object("t2i", text)
    if isinstance(values.get("version"), int) and values["version"] != T2I_METADATA_VERSION:
        raise DataError(
            f"t2i: written in format {values['version']}, this t2i reads {T2I_METADATA_VERSION}"
        )
    try:
        return T2IMetadata.model_validate_json(text)
    except ValidationError as error:
        reason = describe_first_validation_error(error, "the record")
        raise DataError(escape_controls(f"t2i: {reason}")) from None


def find_t2i_metadata(texts: Mapping[str, str]) -> ImageMetadata | None:
    """Return t2i's own generation metadata among an image's texts, or None.

    Raises DataError for a record of another format.
    """
    text = texts.get("t2i")
    if text is None:
        return None
    values = parse_json_object("t2i", text)
    record = parse_t2i_metadata(text)
    parser = MetadataValueParser()
    request = record.request
    steps = parser.parse_steps(request.num_inference_steps)
    width, height = parser.parse_width_and_height(request.width, request.height)
    if parser.not_understood:
        raise DataError(f"t2i: {parser.not_understood[0]}")
    parser.record_unused_keys(values, set(T2IMetadata.model_fields))
    request_values = values["request"]
    assert isinstance(request_values, dict)  # else it had been no Request
    unused = request_values.keys() - asdict(request)
    parser.record_unused_keys({f"request.{key}": request_values[key] for key in unused}, set())
    settings = MetadataSettings(
        num_inference_steps=steps,
        sampler=request.sampler,
        guidance_scale=request.guidance_scale,
        seed=record.seed,
        width=width,
        height=height,
        model=request.model,
        model_hash=record.model_digest,
    )
    version = record.libraries.get(TOOL_NAME)
    metadata = parser.build_metadata(
        f"{TOOL_NAME} {version}" if version else TOOL_NAME,
        request.prompt,
        request.negative_prompt,
        settings,
        text,
    )
    return replace(
        metadata,
        request=request,
        libraries=record.libraries,
        num_pictures=record.pictures,
        retry=record.retry,
    )
