"""Models in the memory of a worker: loaded when a request names them, evicted beyond a budget."""

import gc
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]  # has no types
import torch

from t2i.cli.generation.adapters import AttachedAdapters
from t2i.cli.generation.image_generation import (
    build_named_scheduler,
    load_pipeline,
    read_pipeline_defaults,
    warn_of_large_size,
)
from t2i.cli.prompt_checks.caption_vocabulary import CaptionVocabulary, read_caption_vocabulary
from t2i.cli.prompt_checks.prompt_checks import find_prompt_warnings
from t2i.cli.request.digests import compute_model_digest
from t2i.cli.request.file_checks import FileDigests
from t2i.cli.request.request import Request, RequestDefaults, read_model_defaults
from t2i.denoiser.schedulers import Scheduler, rebuild_scheduler_with_settings
from t2i.server.worker.previews import LatentProjection, fit_latent_projection

if TYPE_CHECKING:
    from pipelines.text_to_image import TextToImagePipeline

DEFAULT_MEMORY_SHARE = 0.5
"""Part of the device's memory that models may take together where no budget is given."""


@dataclass(slots=True)
class LoadedModel:
    """Diffusion model in a worker's memory, with the adapters that are attached to it.

    own_scheduler : the model's, for requests that name no sampler
    digest : of its files
    """

    pipe: "TextToImagePipeline"
    attached: AttachedAdapters
    own_scheduler: Scheduler
    digest: str
    defaults: RequestDefaults
    vocabulary: CaptionVocabulary | None
    num_bytes: int
    projection: LatentProjection

    def apply_request(self, request: Request, prompts: Sequence[str]) -> Request:
        """Attach the adapters and the sampler of a request, and return it with all its defaults.

        prompts : all that are drawn together
        Warns of prompts that may not be meant as written.
        """
        request = FileDigests().copy_request_with_digests(request)
        request = request.with_defaults(self.defaults)
        texts = [text for text in prompts if text or request.inversion is None]
        for warning in find_prompt_warnings(
            request, texts, request.model, self.vocabulary, look_for_files=False
        ):
            warnings.warn(warning, stacklevel=2)
        # A fresh sampler each time, so that nothing passes from one picture to the next.
        self.pipe.scheduler = build_named_scheduler(
            request.sampler, self.own_scheduler.config
        ) or rebuild_scheduler_with_settings(self.own_scheduler)
        self.attached.switch_to_request(request)
        request = request.with_defaults(read_pipeline_defaults(self.pipe, request))
        warn_of_large_size(self.pipe, request)
        return request


@dataclass(slots=True)
class ModelCache:
    """Cache of a worker's loaded models by name, the one used last at the end; together within a
    budget of bytes.

    folders : name -> folder or file, of all models that requests may name
    max_bytes : None for a part of the device's memory
    """

    folders: Mapping[str, Path]
    device: torch.device
    max_bytes: int | None
    models: dict[str, LoadedModel] = field(default_factory=dict)

    def get_or_load(self, name: str) -> LoadedModel:
        """Return a model, loaded if it is not in memory; other models are evicted to make room."""
        model = self.models.pop(name, None)
        if model is None:
            model = self._load(name)
        self.models[name] = model
        return model

    def _load(self, name: str) -> LoadedModel:
        folder = self.folders[name]
        budget = self.max_bytes or get_total_device_memory(self.device) * DEFAULT_MEMORY_SHARE
        needed = sum(file.stat().st_size for file in _list_weights(folder))
        while self.models and needed + sum(m.num_bytes for m in self.models.values()) > budget:
            self.models.pop(next(iter(self.models)))
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        pipe = load_pipeline(folder, None, self.device)
        parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
        return LoadedModel(
            pipe=pipe,
            attached=AttachedAdapters(pipe),
            own_scheduler=pipe.scheduler,
            digest=compute_model_digest(folder),
            defaults=read_model_defaults(folder),
            vocabulary=read_caption_vocabulary(folder),
            num_bytes=sum(
                p.numel() * p.element_size() for part in parts for p in part.parameters()
            ),
            projection=fit_latent_projection(pipe.vae),
        )


def _list_weights(folder: Path) -> list[Path]:
    return [folder] if folder.is_file() else list(folder.rglob("*.safetensors"))


def get_total_device_memory(device: torch.device) -> int:
    """Return the total memory of a torch device in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)
