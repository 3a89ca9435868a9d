"""Answers of A1111's API."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class GenerationAnswer(BaseModel):
    """Answer of txt2img and img2img: pictures as base64, the body, and JSON text about them."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


class PictureInfo(BaseModel):
    """Answer of png-info: the text `parameters`, all texts, and the settings that were read."""

    info: str
    items: dict[str, str]
    parameters: dict[str, str]


class Progress(BaseModel):
    """Answer of progress, about the task that runs or is next."""

    progress: float
    eta_relative: float
    state: dict[str, Any]
    current_image: str | None = None
    textinfo: str | None = None


class TaskQuestion(BaseModel):
    """Body of /internal/progress: the name of a task, as force_task_id."""

    model_config = ConfigDict(extra="ignore")

    id_task: str | None = None
    id_live_preview: int = -1
    live_preview: bool = True


class TaskState(BaseModel):
    """Answer of /internal/progress about one task."""

    active: bool
    queued: bool
    completed: bool
    progress: float | None = None
    eta: float | None = None
    live_preview: str | None = None
    id_live_preview: int | None = None
    textinfo: str | None = None


class Sampler(BaseModel):
    """Item of samplers."""

    name: str
    aliases: list[str]
    options: dict[str, Any]


class Scheduler(BaseModel):
    """Item of schedulers: a spacing of the noise levels."""

    name: str
    label: str
    aliases: list[str] | None
    default_rho: float | None
    need_inner_model: bool | None


class Model(BaseModel):
    """Item of sd-models."""

    model_config = ConfigDict(protected_namespaces=())

    title: str
    model_name: str
    hash: str | None = None
    sha256: str | None = None
    filename: str
    config: str | None = None


class Upscaler(BaseModel):
    """Item of upscalers."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    model_name: str | None = None
    model_path: str | None = None
    model_url: str | None = None
    scale: float | None = None


class Lora(BaseModel):
    """Item of loras."""

    name: str
    alias: str
    path: str
    metadata: dict[str, Any] = {}


class Embedding(BaseModel):
    """Item of embeddings."""

    step: int | None = None
    sd_checkpoint: str | None = None
    sd_checkpoint_name: str | None = None
    shape: int
    vectors: int


class Embeddings(BaseModel):
    """Answer of embeddings."""

    loaded: dict[str, Embedding]
    skipped: dict[str, Embedding]


class Memory(BaseModel):
    """Answer of memory, in bytes."""

    ram: dict[str, Any]
    cuda: dict[str, Any]


class Scripts(BaseModel):
    """Answer of scripts: none of either kind."""

    txt2img: list[str] = []
    img2img: list[str] = []
