"""Generation metadata of an image as texts of its file: A1111's format, and t2i's full record."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from t2i import __version__
from t2i.cli.request.edit_options import format_region
from t2i.cli.request.file_checks import format_request_files_by_label
from t2i.cli.request.request import Request
from t2i.pictures import save_picture

if TYPE_CHECKING:
    from PIL.Image import Image

T2I_METADATA_VERSION = 1
"""Version of the JSON format; it grows when a reader of the old one would misread the new."""
RECORDED_LIBRARIES = ("torch", "diffusers", "transformers")


def build_metadata_texts(
    request: Request,
    seed: int,
    model_digest: str,
    num_pictures: int = 1,
    draws: Sequence[Mapping[str, object]] | None = None,
    retry: str | None = None,
) -> dict[str, str]:
    """Build the metadata texts of an image: `parameters` in A1111's format, `t2i` as JSON.

    num_pictures : number of images on a sheet, whose `parameters` are those of the first one; with
        `retry` that of the command, of which an interrupted sheet shows the first
    draws : of an image with --retry: seeds that were tried, and what was missing
    retry : value of --retry of a sheet, whose images may have other seeds than `seed` and the next
    """
    fields = build_t2i_metadata(request, seed, model_digest)
    if draws:
        fields["draws"] = list(draws)
    if num_pictures > 1:
        fields["pictures"] = num_pictures
    if retry is not None:
        fields["retry"] = retry
    return {
        "parameters": format_a1111(request, seed, model_digest),
        "t2i": json.dumps(fields, ensure_ascii=False),
    }


def save_image_with_metadata(image: "Image", text: Mapping[str, str] | None, path: Path) -> None:
    """Save an image with its metadata texts; an edited photo keeps its Exif and colour profile."""
    kept = {name: image.info.get(name) or b"" for name in ("exif", "icc_profile")}
    save_picture(image, path, text, **kept)


def format_a1111(request: Request, seed: int, model_digest: str) -> str:
    """Format a request and seed as A1111's `parameters` text."""
    settings: Mapping[str, object] = {
        "Steps": request.num_inference_steps,
        "Sampler": request.sampler,
        "CFG scale": request.guidance_scale,
        "Seed": seed,
        "Size": f"{request.width}x{request.height}",
        "Model hash": model_digest[:10],
        "Model": Path(request.model).name,
        **({} if request.strength is None else {"Denoising strength": request.strength}),
        **_upscale_settings(request),
        **(
            {}
            if request.edited is None
            else {"Edited from": " -> ".join(request.edited.chained_source_prompts)}
        ),
        **format_request_files_by_label(request),
        **_inversion_settings(request),
        **_region_settings(request),
        **({"Cache": "; ".join(request.cache)} if request.cache else {}),
        **({} if request.preset is None else {"Preset": request.preset.name}),
        "Version": f"t2i {__version__}",
    }
    lines = [request.prompt]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    # Who reads it goes by lines, and a carriage return would be a letter to them.
    lines = [re.sub(r"\r\n?", "\n", line) for line in lines]
    lines.append(", ".join(f"{name}: {_quote_value(value)}" for name, value in settings.items()))
    return "\n".join(lines)


def _upscale_settings(request: Request) -> Mapping[str, object]:
    """Return the settings of an upscaled image in A1111's names; `Size` is that before, as here."""
    if request.upscale is None:
        return {}
    return {
        "Denoising strength": request.upscale.strength,
        "Hires upscale": f"{request.upscale.factor:g}",
        "Hires steps": request.num_inference_steps,
        "Hires upscaler": "Lanczos",
    }


def _inversion_settings(request: Request) -> Mapping[str, object]:
    """Return the method by which the request's photo was inverted, and its error."""
    if request.inversion is None:
        return {}
    error = request.inversion.describe_reconstruction_error()
    return {
        "Inversion": request.inversion.method,
        **({"Inversion error": error} if error else {}),
    }


def _region_settings(request: Request) -> Mapping[str, object]:
    """Return the boxes to which words of the request are bound, as --region takes them."""
    if not request.regions:
        return {}
    return {"Regions": "; ".join(map(format_region, request.regions))}


def _quote_value(value: object) -> str:
    """Return a value as text, in quotes where it would be parsed as something else."""
    text = str(value)
    plain = text and text == text.strip() and text[0] not in "[{" and not set(text) & set(',:\r\n"')
    return text if plain else json.dumps(text, ensure_ascii=False)


def build_t2i_metadata(request: Request, seed: int, model_digest: str) -> dict[str, object]:
    """Build the JSON data of an image's generation metadata: its request, seed, model digest and
    library versions. `find_t2i_metadata` reads it.
    """
    return {
        "version": T2I_METADATA_VERSION,
        "request": asdict(request),
        "seed": seed,
        "model_digest": model_digest,
        "libraries": {"t2i": __version__, **read_library_versions(RECORDED_LIBRARIES)},
    }


def read_library_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each library by name, or "not installed"."""
    return {name: describe_library_version(name) for name in names}


@cache
def describe_library_version(name: str) -> str:
    """Return the version of an installed package, or "not installed"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
