"""Arguments of a pipeline's call, from a request: sampling, size and input images."""

from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i.cli.generation.control_networks import build_controls
from t2i.cli.request.input_files import EMBEDDING_SUFFIX, InputFile
from t2i.cli.request.request import Request

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from pipelines.base.pipeline import Pipeline
    from pipelines.text_to_image import TextToImagePipeline


def set_progress_bar(pipe: "Pipeline", label: str, *, shown: bool) -> None:
    """Set the label of a pipeline's progress bar, and whether it is shown.

    None is shown where standard error is no terminal.
    """
    settings = {"desc": label, "disable": None if shown else True, "leave": False}
    pipe.set_progress_bar_config(**settings)  # type: ignore[no-untyped-call]  # diffusers' own


def build_sampling_and_control_arguments(
    pipe: "Pipeline", request: Request, seed: int
) -> dict[str, Any]:
    """Return the arguments of a pipeline's call for negative prompt, guidance, steps, seed,
    controls and caches.

    Every kind of pipeline takes them. The request must have its defaults filled in.
    """
    import torch

    from t2i.denoiser.caches.registry import parse_cache

    cache = {"cache": [parse_cache(text) for text in request.cache]} if request.cache else {}
    return {
        **build_guidance_and_step_arguments(request),
        # Drawn on the CPU, so that a seed means the same picture on every device.
        "generator": torch.Generator("cpu").manual_seed(seed),
        "controls": build_controls(pipe, request),
        **cache,
    }


def build_guidance_and_step_arguments(request: Request) -> dict[str, Any]:
    """Return the arguments of a pipeline's call for negative prompt, guidance and steps."""
    from t2i.conditioning.guidance_registry import parse_guidance

    assert request.num_inference_steps is not None
    assert request.guidance_scale is not None
    method = request.guidance_method
    return {
        "negative_prompt": request.parse_prompt_in_grammar(request.negative_prompt),
        "guidance": None if method is None else parse_guidance(method, request.guidance_scale),
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
    }


def build_size_and_image_arguments(
    pipe: "TextToImagePipeline", request: Request
) -> dict[str, object]:
    """Return the arguments of a pipeline's call for the size, the image, the mask and image prompt.

    An input image is resized to the requested size; left open, it keeps its own, rounded down to a
    multiple of the pixels per latent.
    """
    from t2i.denoiser.families import sd
    from t2i.pictures import open_picture

    seen = build_image_prompt_arguments(request)
    if request.image is None:
        return seen | {"width": request.width, "height": request.height}
    image = open_rgb(request.image)
    factor = sd.pixels_per_latent(pipe.vae)
    width, height = (
        max(side // factor, 1) * factor if asked is None else asked
        for asked, side in zip((request.width, request.height), image.size, strict=True)
    )
    sd.latent_size(pipe.vae, height, width)
    seen |= {"image": _resize_image(image, width, height), "strength": request.strength}
    if request.mask is not None:
        # As it is painted: where it is clear is for the pipeline to read.
        mask = _resize_image(open_picture(Path(expanduser(request.mask.path))), width, height)
        seen |= {"mask_image": mask, "width": width, "height": height}
    return seen


def build_image_prompt_arguments(request: Request) -> dict[str, object]:
    """Return the arguments of a pipeline's call for the image prompts of IP-Adapters and their
    masks; {} without any.
    """
    from t2i.pictures import open_picture

    pictures: list[InputFile] = [one.picture for one in request.image_prompts]
    masks = [one.mask for one in request.image_prompts]
    if request.image_prompt is not None:
        pictures.insert(0, request.image_prompt)
        masks.insert(0, None)
    if not pictures:
        return {}
    arguments: dict[str, object] = {"ip_adapter_image": list(map(open_image_prompt, pictures))}
    if any(mask is not None for mask in masks):
        opened = [
            None if mask is None else open_picture(Path(expanduser(mask.path))) for mask in masks
        ]
        arguments["cross_attention_kwargs"] = {"ip_adapter_masks": opened}
    return arguments


def open_image_prompt(file: InputFile) -> "Image | Tensor":
    """Open the picture of an image prompt, or the embedding of a face in a .safetensors file.

    Raises DataError.
    """
    from t2i.adapters.face_id import read_face_embedding

    path = Path(expanduser(file.path))
    return read_face_embedding(path) if path.suffix == EMBEDDING_SUFFIX else open_rgb(file)


def open_rgb(file: InputFile) -> "Image":
    """Open an image file of a request as an RGB PIL image, on white where it is transparent. Raises
    DataError.
    """
    from pipelines.images.input_images import to_opaque_rgb
    from t2i.pictures import open_picture

    picture: Image = to_opaque_rgb(open_picture(Path(expanduser(file.path))))
    return picture


def _resize_image(picture: "Image", width: int, height: int) -> "Image":
    from PIL import Image

    same = picture.size == (width, height)
    return picture if same else picture.resize((width, height), Image.Resampling.LANCZOS)
