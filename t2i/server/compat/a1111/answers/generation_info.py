"""`info` and `parameters` of A1111's answers, from the metadata of the pictures that were drawn."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2i import __version__
from t2i.cli.metadata.embedded_texts import read_embedded_texts
from t2i.cli.metadata.parsed_metadata import ImageMetadata
from t2i.cli.metadata.reading import read_metadata
from t2i.cli.request.request import Request
from t2i.denoiser.sampler_names import sampler_name_from_class
from t2i.server.compat.a1111.request.bodies import GenerationBody
from t2i.server.compat.a1111.request.sampler_choice import format_sampler_as_a1111

PICTURE_FIELDS = ("init_images", "mask", "latent_mask")
"""Fields of a body that hold pictures, left out of `parameters` unless they were asked for."""


def build_info_json(paths: Sequence[Path], created: float, task: Mapping[str, object]) -> str:
    """Return the JSON text `info` of A1111's answer about the pictures of a job: their prompts,
    seeds and settings under A1111's names.

    paths : of the pictures, with their metadata; may be none for a job that was interrupted
    created : when the job was taken, in seconds of Unix time
    task : what is added, such as the id of the job
    """
    found = [read_metadata(path) for path in paths]
    infotexts = [read_embedded_texts(path).texts.get("parameters", "") for path in paths]
    info: dict[str, Any] = {
        "all_prompts": [one.prompt for one in found],
        "all_negative_prompts": [one.negative_prompt for one in found],
        "all_seeds": [one.settings.seed for one in found],
        "all_subseeds": [-1 for _ in found],
        "subseed": -1,
        "subseed_strength": 0,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "batch_size": 1,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": infotexts,
        "styles": [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(created)),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "version": f"t2i {__version__}",
        **task,
    }
    if found:
        info |= _describe_picture(found[0])
    return json.dumps(info, ensure_ascii=False)


def _describe_picture(metadata: ImageMetadata) -> dict[str, Any]:
    """Return the settings of the first picture; those of the others differ in the seed alone."""
    settings, request = metadata.settings, metadata.request
    return {
        "prompt": metadata.prompt,
        "negative_prompt": metadata.negative_prompt,
        "seed": settings.seed,
        "width": settings.width,
        "height": settings.height,
        "sampler_name": None
        if settings.sampler is None
        else format_recorded_sampler_as_a1111(settings.sampler),
        "cfg_scale": settings.guidance_scale,
        "steps": settings.num_inference_steps,
        "sd_model_name": None if settings.model is None else Path(settings.model).name,
        "sd_model_hash": None if settings.model_hash is None else settings.model_hash[:10],
        "denoising_strength": None if request is None else find_denoising_strength(request),
    }


def find_denoising_strength(request: Request) -> float | None:
    """Return what A1111 calls the denoising strength of a request: that of its upscaling pass, else
    that of image-to-image; None for a request without either.
    """
    return request.strength if request.upscale is None else request.upscale.strength


def format_recorded_sampler_as_a1111(sampler: str) -> str:
    """Return the name of a sampler in A1111's spelling; the sampler is a name of t2i or a scheduler
    class, as a picture's metadata record it.
    """
    return format_sampler_as_a1111(sampler_name_from_class(sampler))


def echo_body_as_parameters(
    body: GenerationBody, task_id: str, *, pictures: bool
) -> dict[str, Any]:
    """Return `parameters` of A1111's answer: the request body as it was read, with the name of its
    task.

    pictures : whether to send the body's pictures back
    """
    hidden = set() if pictures else set(PICTURE_FIELDS)
    return body.model_dump(exclude=hidden) | {"force_task_id": task_id}


def build_a1111_settings(metadata: ImageMetadata) -> dict[str, str]:
    """Return the generation settings in a picture's metadata as texts, under the names that A1111
    gives them in `parameters`.
    """
    settings = metadata.settings
    sizes = {"Size-1": settings.width, "Size-2": settings.height}
    values: dict[str, object] = {
        "Prompt": metadata.prompt,
        "Negative prompt": metadata.negative_prompt,
        "Steps": settings.num_inference_steps,
        "Sampler": None
        if settings.sampler is None
        else format_recorded_sampler_as_a1111(settings.sampler),
        "CFG scale": settings.guidance_scale,
        "Seed": settings.seed,
        **sizes,
        "Model": None if settings.model is None else Path(settings.model).name,
        "Model hash": None if settings.model_hash is None else settings.model_hash[:10],
    }
    return {name: str(value) for name, value in values.items() if value is not None}
