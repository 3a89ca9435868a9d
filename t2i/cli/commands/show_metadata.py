"""`t2i show`: the generation metadata of an image."""

import json
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from t2i.cli.output import FormatOption, print_json
from t2i.terminal import plural, print_result_line

if TYPE_CHECKING:
    from t2i.cli.metadata.reading import ImageMetadata
    from t2i.cli.request.request import Request


def show_metadata(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A PNG, JPEG or WebP file.")],
    format: FormatOption = "text",
) -> None:
    """Print the prompt and sampling settings that the metadata of IMAGE record.

    It may be an image of t2i, A1111, ComfyUI, InvokeAI or Fooocus. The picture itself is not
    decoded. What a file says is not trusted: nothing in it can reach the
    terminal as a command.
    """
    from t2i.cli.metadata.reading import read_metadata
    from t2i.terminal import escape_controls

    metadata = read_metadata(image)
    if format == "json":
        print_json(_metadata_document(image, metadata))
        return
    found = _metadata_rows(metadata) | {"again": _reproduce_command(image, metadata)}
    width = max(map(len, found))
    for name, value in found.items():
        lines = value.split("\n")
        print_result_line(f"{name:{width}}  {escape_controls(lines[0])}")
        for line in lines[1:]:
            print_result_line(f"{'':{width}}  {escape_controls(line)}")


def _metadata_document(image: Path, metadata: "ImageMetadata") -> dict[str, object]:
    return {
        "path": str(image),
        "tool": metadata.tool,
        "prompt": metadata.prompt,
        "negative_prompt": metadata.negative_prompt,
        "settings": asdict(metadata.settings),
        "not_understood": list(metadata.not_understood),
        "request": None if metadata.request is None else asdict(metadata.request),
        "libraries": dict(metadata.libraries),
        "raw": metadata.raw,
        "pictures": metadata.num_pictures,
        "again": _reproduce_command(image, metadata),
    }


def _reproduce_command(image: Path, metadata: "ImageMetadata") -> str:
    """Return the command that draws the image again."""
    if metadata.num_pictures > 1:
        from t2i.cli.image_grid import build_grid_reproduction_command

        return build_grid_reproduction_command(image, metadata)
    return f"t2i generate --from {quote(str(image))}"


def _metadata_rows(metadata: "ImageMetadata") -> dict[str, str]:
    """Return name and value of each recorded setting."""
    from t2i.cli.request.file_checks import format_request_files_by_label

    settings = metadata.settings
    size = None if settings.width is None else f"{settings.width}x{settings.height}"
    values = {
        "prompt": metadata.prompt,
        "negative": metadata.negative_prompt or None,
        "steps": settings.num_inference_steps,
        "sampler": settings.sampler,
        "guidance": settings.guidance_scale,
        "method": metadata.request and metadata.request.guidance_method,
        "preset": metadata.request and metadata.request.preset and metadata.request.preset.name,
        "cache": metadata.request and "\n".join(metadata.request.cache),
        "grammar": metadata.request and metadata.request.grammar,
        "seed": settings.seed,
        "size": size,
        "sheet of": plural(metadata.num_pictures, "picture") if metadata.num_pictures > 1 else None,
        "model": settings.model,
        "model hash": settings.model_hash,
        "strength": metadata.request and metadata.request.strength,
        "upscale": metadata.request
        and metadata.request.upscale
        and metadata.request.upscale.option_value,
        **({} if metadata.request is None else format_request_files_by_label(metadata.request)),
        **({} if metadata.request is None else _edit_rows(metadata.request)),
        "tool": metadata.tool,
        "libraries": ", ".join(f"{name} {version}" for name, version in metadata.libraries.items()),
        "not understood": "\n".join(metadata.not_understood),
    }
    return {name: str(value) for name, value in values.items() if value not in (None, "")}


def _edit_rows(request: "Request") -> dict[str, str]:
    """Return its boxes, how its photo was inverted, the prompts it was drawn together with, and the
    edits, one on a line.
    """
    from t2i.cli.request.edit_options import format_region

    edited, inversion = request.edited, request.inversion
    rows = {"regions": "\n".join(map(format_region, request.regions))}
    if inversion is not None:
        rows |= {
            "inversion": inversion.method,
            "inversion error": inversion.describe_reconstruction_error(),
            "fit": inversion.fit + (", at full size" if inversion.full_size else ""),
        }
    if edited is None:
        return rows
    others = [text for number, text in enumerate(edited.prompts) if number != edited.picture]
    edits = [json.dumps(dict(edit), ensure_ascii=False) for edit in edited.edits]
    if edited.earlier:
        rows["edited before"] = "\n".join(edited.chained_source_prompts)
    return rows | {"drawn with": "\n".join(others), "edits": "\n".join(edits)}
