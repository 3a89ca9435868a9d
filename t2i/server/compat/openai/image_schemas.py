"""Bodies and answers of OpenAI's routes for images.

Beside OpenAI's fields a body may have those of t2i (the client sends them from `extra_body`).
"""

from typing import Annotated, Any, Literal

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field

from t2i.cli.request.request import Grammar

OutputFormat = Literal["png", "jpeg", "webp"]
MAX_PICTURES = 10
MAX_PARTIAL_IMAGES = 3


class ImageBody(BaseModel):
    """Fields that the request bodies of OpenAI's image generations and edits share."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), allow_inf_nan=False)

    prompt: str
    model: str | None = Field(default=None, description="A name that /v1/models lists.")
    n: Annotated[int, Field(ge=1, le=MAX_PICTURES)] | None = None
    size: str | None = Field(default=None, description='As "512x384", or "auto".')
    response_format: Literal["b64_json", "url"] | None = None
    output_format: str | None = Field(default=None, description="png, jpeg or webp.")
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(
        default=None, description="Quality of jpeg and webp; 100 without it."
    )
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=MAX_PARTIAL_IMAGES)] | None = None
    user: str | None = None
    safety_identifier: str | None = None

    # Those of t2i.
    negative_prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    grammar: Grammar | None = Field(default=None, description="plain without it.")

    # Accepted at their neutral values.
    background: str | None = None
    quality: str | None = None
    moderation: str | None = None
    style: str | None = None
    complexity: str | None = None
    frame_count: int | None = None
    frame_duration_ms: int | None = None
    svg: Any = None


class GenerationBody(ImageBody):
    """Body of POST /v1/images/generations."""


class EditForm(ImageBody):
    """Form of POST /v1/images/edits. Transparent parts of the mask, or of a picture without one,
    are drawn anew; an opaque picture without a mask is changed as a whole.
    """

    image: list[UploadFile] = Field(default=[], description="The picture: PNG, JPEG or WebP.")
    image_array: list[UploadFile] = Field(default=[], alias="image[]")
    mask: UploadFile | None = Field(default=None, description="Transparent where it is drawn anew.")
    strength: float | None = Field(default=None, description="How much is drawn anew: 0 to 1.")

    # Accepted at their neutral values.
    input_fidelity: str | None = None
    markup: UploadFile | None = None


class GeneratedImage(BaseModel):
    """Image in an answer of OpenAI's API: its bytes as base64, or its URL."""

    b64_json: str | None = None
    url: str | None = None


class Usage(BaseModel):
    """Token counts in an answer of OpenAI's API: all zero, for nothing is billed."""

    input_tokens: int = 0
    input_tokens_details: dict[str, int] = {"image_tokens": 0, "text_tokens": 0}
    output_tokens: int = 0
    total_tokens: int = 0


class ImagesAnswer(BaseModel):
    """Answer of OpenAI's image generations and edits: the images, with their format and size.

    job_id, seeds : of t2i: the job, for /api/v1/jobs, and a seed for each image
    """

    created: int
    background: Literal["opaque"] = "opaque"
    data: list[GeneratedImage]
    output_format: OutputFormat
    size: str
    safety_identifier: str | None = None
    usage: Usage = Usage()
    job_id: str
    seeds: list[int]


class ModelItem(BaseModel):
    """Item of OpenAI's GET /v1/models: a model that requests may name."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "t2i"


class ModelList(BaseModel):
    """Answer of OpenAI's GET /v1/models: the models that requests may name."""

    object: Literal["list"] = "list"
    data: list[ModelItem]
