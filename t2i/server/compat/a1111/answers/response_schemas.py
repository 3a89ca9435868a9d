"""Answers of A1111's API."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class GenerationAnswer(BaseModel):
    """Answer of txt2img and img2img: pictures as base64, the body, and JSON text about them."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


class PictureInfo(BaseModel):
    """Answer of A1111's png-info: the text `parameters` in a picture's metadata, all texts, and the
    settings that were read from them.
    """

    info: str
    items: dict[str, str]
    parameters: dict[str, str]


class Progress(BaseModel):
    """Answer of A1111's GET /sdapi/v1/progress, about the client's task that runs or is next."""

    progress: float
    eta_relative: float
    state: dict[str, Any]
    current_image: str | None = None
    textinfo: str | None = None


class TaskQuestion(BaseModel):
    """Body of A1111's POST /internal/progress: the name of the task whose progress is asked for, as
    force_task_id.
    """

    model_config = ConfigDict(extra="ignore")

    id_task: str | None = None
    id_live_preview: int = -1
    live_preview: bool = True


class TaskState(BaseModel):
    """Answer of A1111's POST /internal/progress: the progress of one task."""

    active: bool
    queued: bool
    completed: bool
    progress: float | None = None
    eta: float | None = None
    live_preview: str | None = None
    id_live_preview: int | None = None
    textinfo: str | None = None


class Sampler(BaseModel):
    """Item of A1111's GET /sdapi/v1/samplers: a sampler's name, aliases and options."""

    name: str
    aliases: list[str]
    options: dict[str, Any]


class Scheduler(BaseModel):
    """Item of A1111's GET /sdapi/v1/schedulers: a spacing of the noise levels."""

    name: str
    label: str
    aliases: list[str] | None
    default_rho: float | None
    need_inner_model: bool | None


class Model(BaseModel):
    """Item of A1111's GET /sdapi/v1/sd-models: a model that requests may name."""

    model_config = ConfigDict(protected_namespaces=())

    title: str
    model_name: str
    hash: str | None = None
    sha256: str | None = None
    filename: str
    config: str | None = None


class Upscaler(BaseModel):
    """Item of A1111's GET /sdapi/v1/upscalers: an upscaler that requests may name."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    model_name: str | None = None
    model_path: str | None = None
    model_url: str | None = None
    scale: float | None = None


class Lora(BaseModel):
    """Item of A1111's GET /sdapi/v1/loras: a LoRA that prompts may name."""

    name: str
    alias: str
    path: str
    metadata: dict[str, Any] = {}


class Embedding(BaseModel):
    """Item of A1111's GET /sdapi/v1/embeddings: a learned word (textual inversion)."""

    step: int | None = None
    sd_checkpoint: str | None = None
    sd_checkpoint_name: str | None = None
    shape: int
    vectors: int


class Embeddings(BaseModel):
    """Answer of A1111's GET /sdapi/v1/embeddings: the learned words (textual inversions)."""

    loaded: dict[str, Embedding]
    skipped: dict[str, Embedding]


class Memory(BaseModel):
    """Answer of A1111's GET /sdapi/v1/memory: memory of the machine and of the process, in
    bytes.
    """

    ram: dict[str, Any]
    cuda: dict[str, Any]


class Scripts(BaseModel):
    """Answer of A1111's GET /sdapi/v1/scripts: the lists of txt2img and img2img scripts, both
    empty.
    """

    txt2img: list[str] = []
    img2img: list[str] = []
