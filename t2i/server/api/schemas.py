"""Answers of the server's own API, as OpenAPI describes them."""

from typing import Any

from pydantic import BaseModel

from t2i.denoiser.presets import PresetCost
from t2i.server.jobs.job import Job, JobKind, JobState


class ResultFileAnswer(BaseModel):
    """JSON description of one file of a job's result; the file itself is read at
    /api/v1/jobs/{id}/files/{name}.
    """

    name: str
    media_type: str
    width: int | None
    height: int | None
    seed: int | None


class ResultAnswer(BaseModel):
    """Result of a finished server job, as JSON: its files, and data about them."""

    files: list[ResultFileAnswer]
    data: dict[str, Any]


class FailureAnswer(BaseModel):
    """Error of a job: the name of its class and its message."""

    type: str
    message: str


class ProgressAnswer(BaseModel):
    """Progress of a running job."""

    step: int
    steps: int
    seconds_left: float | None


class JobAnswer(BaseModel):
    """Job with its state, its result or its error."""

    id: str
    kind: JobKind
    state: JobState
    request: dict[str, Any]
    seeds: list[int]
    created: float
    started: float | None
    finished: float | None
    result: ResultAnswer | None
    error: FailureAnswer | None
    progress: ProgressAnswer | None

    @classmethod
    def from_job(cls, job: Job) -> "JobAnswer":
        """Build the answer of the API about a job."""
        return cls.model_validate(job.to_dict())


class JobsAnswer(BaseModel):
    """Answer with the jobs of the token that asks, the newest first."""

    jobs: list[JobAnswer]


class WordMapAnswer(BaseModel):
    """JSON description of the heat map of one word of a picture: the row of the atlas image that
    holds it, its peak (x, y) and its share.

    found : probability that the thing is in the picture; null for a model, or a word, that has none
    is_missing : whether it counts as missing
    """

    text: str
    tokens: list[int]
    negative: bool
    peak: list[float]
    share: float
    found: float | None = None
    is_missing: bool | None = None
    row: int
    absent_steps: list[int]


class MapsAnswer(BaseModel):
    """JSON description of the heat maps of a picture: its words, and the atlas image, which has a
    row for each word and a column for each step.
    """

    words: list[WordMapAnswer]
    height: int
    width: int
    steps: int | None
    atlas: str
    exact: str


class UploadAnswer(BaseModel):
    """Uploaded picture, which requests name by its identifier."""

    id: str
    name: str
    width: int
    height: int
    sha256: str


class HealthAnswer(BaseModel):
    """State of the server: whether the default model is loaded, and else what is wrong with it."""

    status: str
    ready: bool
    problem: str | None = None


class PresetAnswer(BaseModel):
    """Preset of a model: its settings, with the model's own where it leaves them open; LoRAs by
    their names; and what it costs, where that was measured.
    """

    name: str
    steps: int
    guidance_scale: float | None
    guidance_method: str | None
    sampler: str | None
    cache: list[str]
    loras: list[str]
    cost: PresetCost | None


class ModelAnswer(BaseModel):
    """Model that requests to the server may name, with the values of requests that leave them
    open.
    """

    name: str
    summary: str
    bytes: int
    width: int
    height: int
    steps: int
    guidance_scale: float | None
    sampler: str | None
    default: bool
    presets: list[PresetAnswer] = []


class ModelsAnswer(BaseModel):
    """Models that requests may name."""

    models: list[ModelAnswer]


class NamesAnswer(BaseModel):
    """Answer with a list of names that requests to the server may use."""

    names: list[str]


class SamplersAnswer(BaseModel):
    """Samplers that requests may name."""

    samplers: list[str]


class AdaptersAnswer(BaseModel):
    """LoRAs or learned words that requests may name."""

    loras: list[str]
    embeddings: list[str]


class ControlsAnswer(BaseModel):
    """Networks of controls (ControlNets, T2I-Adapters) that requests may name."""

    controls: list[str]


class ExportAnswer(BaseModel):
    """A request as a command, as Python, and as the body of POST /api/v1/jobs."""

    command: str
    python: str
    request: str


class RequiredPictureAnswer(BaseModel):
    """Picture to upload before a job that is rebuilt from metadata can be sent: the field that
    names the upload, the file's name and its SHA-256.
    """

    field: str
    name: str
    sha256: str | None


class MetadataAnswer(BaseModel):
    """Job request that is rebuilt from a picture's metadata: the tool, the request, the pictures to
    upload for it, what is not in the request, and what differs here.
    """

    tool: str
    kind: JobKind
    request: dict[str, Any]
    pictures: list[RequiredPictureAnswer]
    not_restored: list[str]
    differences: list[str]
    text: str


class TokenAnswer(BaseModel):
    """Token of a prompt: its position along the text, its letters, weight and window."""

    id: int
    text: str
    position: int
    weight: float
    window: int


class WordAnswer(BaseModel):
    """Word of a prompt: where it stands in it as it was typed, and the positions of its tokens."""

    text: str
    start: int | None
    end: int | None
    tokens: list[int]
    weight: float
    truncated: bool


class TokensAnswer(BaseModel):
    """Tokens and words of a prompt, and the windows that they fill."""

    tokens: list[TokenAnswer]
    words: list[WordAnswer]
    windows: int
    window_size: int
    truncated: list[str]


class RunAnswer(BaseModel):
    """Training run: its name and when its log was written last."""

    name: str
    updated: float
    steps: int | None


class RunsAnswer(BaseModel):
    """Answer with the training runs in the server's folder of runs."""

    runs: list[RunAnswer]


class RunLogAnswer(BaseModel):
    """Log of a training run: a record for each logged step, and the names of its sheets."""

    name: str
    config: dict[str, Any]
    records: list[dict[str, Any]]
    sheets: list[str]
