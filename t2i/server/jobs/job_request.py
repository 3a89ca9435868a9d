"""The requests of jobs as programs and the page send them, one model for each kind of job."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from t2i.cli.request.control_files import MAX_CONTROLS, ControlMode
from t2i.cli.request.input_files import InputFile
from t2i.cli.request.photo_inversion import AUTO_METHOD, Fit
from t2i.cli.request.reference_files import ReferenceFileAndSettings
from t2i.cli.request.request import MAX_REGIONS, Grammar
from t2i.server.jobs.job import JobKind

MAX_WORDS = 64
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22}$")]
"""Identifier of an upload or of a job."""
StepWindow = float | Annotated[tuple[float, float], Field()]
"""Share of the steps, up to this one or between two."""
Word = Annotated[str, Field(min_length=1, max_length=500)]


class AdapterChoice(BaseModel):
    """LoRA that a job's request chooses by its name in the server's list, with its strength."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=500)]
    scale: float = 1.0


class EmbeddingChoice(BaseModel):
    """Learned word (textual inversion) that a job's request chooses by its name in the server's
    list, with the word that stands for it in the prompt.
    """

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=500)]
    token: Annotated[str, Field(max_length=200)] | None = None


class ControlChoice(BaseModel):
    """A control by the name of its network in the server's list, with the uploads that it reads.

    image : the hint; mask : where the control acts, white at full strength
    steps : shares of the run
    blocks : of the UNet; none for all
    type : of the hint, for a network that reads several types (union)
    """

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=500)]
    image: Identifier
    scale: float = 1.0
    steps: tuple[float, float] = (0.0, 1.0)
    mode: ControlMode = "balanced"
    mask: Identifier | None = None
    blocks: Annotated[list[Annotated[str, Field(max_length=50)]], Field(max_length=64)] = []
    type: Annotated[int, Field(ge=0, lt=100_000)] | Annotated[str, Field(max_length=50)] | None = (
        None
    )


class ReferenceChoice(BaseModel):
    """Reference picture of a job, an upload, whose look its images take over.

    prompt : under which the picture is read
    scale : factor of the attention to the picture; 0 for none
    steps : shares of the run
    """

    model_config = ConfigDict(extra="forbid")

    image: Identifier
    prompt: str = ""
    scale: float = 1.0
    steps: tuple[float, float] = (0.0, 1.0)

    def resolve(self, find_upload: Callable[[str], Path]) -> ReferenceFileAndSettings:
        """Return the file and settings of the reference picture. Raises ArgumentError as
        `--reference` does.
        """
        picture = InputFile(path=str(find_upload(self.image)))
        return ReferenceFileAndSettings(
            picture=picture, prompt=self.prompt, scale=self.scale, steps=self.steps
        )


class SamplingRequest(BaseModel):
    """Base of the requests of all kinds of server jobs: the sampling options of the command line,
    under the names of Python.

    Left open they come from the preset, then from the model; the seed is drawn at random, and the
    grammar is A1111's.

    preset : of the model, by its name: "exact", "fast", ...; see GET /models
    """

    model_config = ConfigDict(extra="forbid")

    negative_prompt: str = ""
    model: Annotated[str, Field(max_length=500)] | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: Annotated[str, Field(max_length=100)] | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    grammar: Grammar = "a1111"
    guidance_method: Annotated[str, Field(max_length=500)] | None = None
    loras: list[AdapterChoice] = []
    embeddings: list[EmbeddingChoice] = []
    controls: Annotated[list[ControlChoice], Field(max_length=MAX_CONTROLS)] = []
    preset: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")] | None = None


class RegionChoice(BaseModel):
    """Words of a job's prompt that are bound to a box: left, top, right, bottom as shares of the
    image's size.
    """

    model_config = ConfigDict(extra="forbid")

    words: Annotated[str, Field(max_length=500)]
    box: tuple[float, float, float, float]


Regions = Annotated[list[RegionChoice], Field(max_length=MAX_REGIONS)]


class GenerateRequest(SamplingRequest):
    """Request of `generate`: images of a prompt, or of another image changed towards it.

    image, mask : identifiers of uploads
    upscale : factor, or "factor:strength"
    regions : boxes to which words of the prompt are bound
    reference : picture whose look is taken over
    words_maps : keep heat maps of every word; map_steps : also those of each step
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "a red apple to the left of a cat", "seed": 7}]}
    )

    prompt: str
    num: int = 1
    image: Identifier | None = None
    mask: Identifier | None = None
    strength: float | None = None
    upscale: float | Annotated[str, Field(max_length=50)] | None = None
    regions: Regions = []
    reference: ReferenceChoice | None = None
    words_maps: bool = False
    map_steps: bool = False


class EditRequest(SamplingRequest):
    """Request of `edit`: a source and images of changed words beside it.

    source_prompt : what the source shows; or source : a finished job of the kind remember or invert
    targets : prompts of the edits; none for the source's own prompt with weights
    weights : word -> factor
    blend : "auto", "none", or words as in "cat,dog"
    cross_replace, self_replace : shares of the steps in which the source's maps are kept
    alignment : word of a target -> the word of the source that it comes from, null for a new word;
        "dog#2" is the second of several
    regions : boxes to which words of the targets are bound; then the shares are 0 where left open,
        and so nothing holds the objects in their place
    image, method, mask, fit, full_size : a photo instead of a drawn source, as for `invert`
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "source_prompt": "a cat on a blue background",
                    "targets": ["a dog on a blue background"],
                    "seed": 7,
                }
            ]
        }
    )

    source_prompt: str | None = None
    source: Identifier | None = None
    targets: list[str] = []
    weights: dict[str, float] = {}
    blend: Annotated[str, Field(max_length=2000)] = "auto"
    cross_replace: StepWindow | None = None
    self_replace: StepWindow | None = None
    alignment: Annotated[dict[Word, Word | None], Field(max_length=MAX_WORDS)] = {}
    regions: Regions = []
    image: Identifier | None = None
    method: Annotated[str, Field(max_length=500)] = AUTO_METHOD
    mask: Identifier | None = None
    fit: Fit = "crop"
    full_size: bool = False
    words_maps: bool = False
    map_steps: bool = False


class InvertRequest(SamplingRequest):
    """Request of `invert`: a photo recorded as a source that later edits read.

    image, mask : identifiers of uploads
    prompt : what the photo shows
    method : of the inversion, see docs/photos.md
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"image": "AAAAAAAAAAAAAAAAAAAAAA", "prompt": "a cat on a sofa"}]
        }
    )

    image: Identifier
    prompt: str
    method: Annotated[str, Field(max_length=500)] = AUTO_METHOD
    mask: Identifier | None = None
    fit: Fit = "crop"


class RememberRequest(SamplingRequest):
    """Request of `remember`: a drawn image recorded as a source that later edits read."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "a cat on a blue background", "seed": 7}]}
    )

    prompt: str
    words_maps: bool = False
    map_steps: bool = False


class InspectRequest(SamplingRequest):
    """Request of `inspect`: heat maps of words of a drawn image, or of a photo.

    words : of the prompt, or phrases; none for every word but function words
    source : a finished job of the kind invert, instead of a prompt
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"prompt": "a red apple to the left of a cat", "words": ["apple", "cat"]}]
        }
    )

    prompt: str | None = None
    source: Identifier | None = None
    words: Annotated[list[Annotated[str, Field(max_length=500)]], Field(max_length=MAX_WORDS)] = []
    image: Identifier | None = None
    method: Annotated[str, Field(max_length=500)] = AUTO_METHOD
    fit: Fit = "crop"
    map_steps: bool = False


JobRequest = GenerateRequest | EditRequest | InvertRequest | RememberRequest | InspectRequest
REQUEST_CLASS_BY_KIND: dict[JobKind, type[JobRequest]] = {
    "generate": GenerateRequest,
    "edit": EditRequest,
    "invert": InvertRequest,
    "remember": RememberRequest,
    "inspect": InspectRequest,
}


class GenerateJob(BaseModel):
    """Body that creates a server job which generates images: the kind "generate" and its
    request.
    """

    model_config = ConfigDict(extra="forbid")
    kind: Literal["generate"]
    request: GenerateRequest


class EditJob(BaseModel):
    """Body that creates a server job which edits a prompt or a photo by its words: the kind "edit"
    and its request.
    """

    model_config = ConfigDict(extra="forbid")
    kind: Literal["edit"]
    request: EditRequest


class InvertJob(BaseModel):
    """Body that creates a server job which inverts a photo and records it as a source of edits: the
    kind "invert" and its request.
    """

    model_config = ConfigDict(extra="forbid")
    kind: Literal["invert"]
    request: InvertRequest


class RememberJob(BaseModel):
    """Body that creates a server job which draws an image and records its run as a source of edits:
    the kind "remember" and its request.
    """

    model_config = ConfigDict(extra="forbid")
    kind: Literal["remember"]
    request: RememberRequest


class InspectJob(BaseModel):
    """Body that creates a server job which reads heat maps of words: the kind "inspect" and its
    request.
    """

    model_config = ConfigDict(extra="forbid")
    kind: Literal["inspect"]
    request: InspectRequest


NewJob = Annotated[
    GenerateJob | EditJob | InvertJob | RememberJob | InspectJob, Field(discriminator="kind")
]
_READERS: dict[JobKind, TypeAdapter[Any]] = {
    kind: TypeAdapter(model) for kind, model in REQUEST_CLASS_BY_KIND.items()
}


def parse_job_request(kind: JobKind, values: object) -> JobRequest:
    """Parse the JSON data of a request. Raises pydantic's ValidationError."""
    request: JobRequest = _READERS[kind].validate_python(values)
    return request
