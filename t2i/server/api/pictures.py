"""Routes of pictures that clients bring: uploads for jobs, and the metadata that they carry."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, UploadFile

from t2i.cli.metadata.reading import (
    ImageMetadata,
    build_request_from_metadata,
    list_reproduction_differences,
    read_metadata,
)
from t2i.cli.request.prompt_loras import remove_network_tags
from t2i.cli.request.request import Request
from t2i.errors import DataError
from t2i.server.api.schemas import MetadataAnswer, UploadAnswer
from t2i.server.api.service_access import Owner, Service
from t2i.server.catalogue import Catalogue
from t2i.server.jobs.job import JobKind
from t2i.server.jobs.uploads import sanitise_name

router = APIRouter(prefix="/api/v1", tags=["pictures"])
Picture = Annotated[UploadFile, File(description="A PNG, JPEG or WebP picture.")]


@router.post("/uploads", status_code=201)
def upload_picture(file: Picture, service: Service, owner: Owner) -> UploadAnswer:
    """Keep a picture for the jobs that name it; what no job takes is removed after a day."""
    upload = service.uploads.add(file.file.read(), file.filename or "", owner)
    return UploadAnswer(id=upload.id, name=upload.name, width=upload.width, height=upload.height)


@router.post("/metadata")
def read_picture_metadata(file: Picture, service: Service) -> MetadataAnswer:
    """Answer with the request that the metadata of a picture say: ours, A1111's, ComfyUI's or
    InvokeAI's.
    """
    name = sanitise_name(file.filename or "") or "picture.png"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"picture{Path(name).suffix[:10]}"
        path.write_bytes(file.file.read())
        try:
            metadata = read_metadata(path)
        except DataError as error:
            raise DataError(str(error).replace(str(path), name)) from None
    request, seed = build_request_from_metadata(metadata)
    kind, values = describe_recorded_request(metadata, request, service.catalogue)
    if seed is not None:
        values["seed"] = seed
    return MetadataAnswer(
        tool=metadata.tool,
        kind=kind,
        request=values,
        differences=list_reproduction_differences(metadata, None)[:50],
        text=metadata.raw,
    )


def describe_recorded_request(
    metadata: ImageMetadata, request: Request, catalogue: Catalogue
) -> tuple[JobKind, dict[str, Any]]:
    """Return the kind and the request of the job that draws a picture again.

    Files that it was made with are taken where the server lists one of the same name; pictures have
    to be uploaded again.
    """
    prompt = request.prompt
    if metadata.request is None and request.grammar != "plain":
        prompt = remove_network_tags(prompt)
    values: dict[str, Any] = {
        "negative_prompt": request.negative_prompt,
        "model": request.model if request.model in catalogue.models else None,
        "steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "sampler": request.sampler,
        "width": request.width,
        "height": request.height,
        "grammar": request.grammar,
        "guidance_method": request.guidance_method,
        "loras": [
            {"name": Path(lora.path).stem, "scale": lora.scale}
            for lora in request.loras
            if Path(lora.path).stem in catalogue.loras
        ],
        "strength": request.strength if request.inversion is None else None,
        "upscale": None if request.upscale is None else request.upscale.option_value,
    }
    values = {key: value for key, value in values.items() if value not in (None, "", [])}
    if request.edited is None:
        return "generate", {"prompt": prompt, **values}
    prompts = request.edited.prompts
    values.pop("strength", None)
    values.pop("upscale", None)
    return "edit", {
        "source_prompt": prompts[0],
        "targets": list(prompts[1:]),
        **values,
    }
