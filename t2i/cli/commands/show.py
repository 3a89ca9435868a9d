"""`t2i show`: what a picture says about its making."""

import json
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from t2i.cli.output import Format, print_json
from t2i.terminal import print_line, several

if TYPE_CHECKING:
    from t2i.cli.metadata.reading import ImageMetadata
    from t2i.cli.request.request import Request


def show(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A PNG, JPEG or WebP file.")],
    format: Format = "text",
) -> None:
    """Print the prompt and settings that IMAGE carries, whether t2i made it or A1111, ComfyUI,
    InvokeAI or Fooocus.

    The picture itself is not decoded. What a file says is not trusted: nothing in it can reach the
    terminal as a command.
    """
    from t2i.cli.metadata.reading import read_metadata
    from t2i.terminal import visible

    story = read_metadata(image)
    if format == "json":
        print_json(_metadata_document(image, story))
        return
    found = _metadata_rows(story) | {"again": _reproduce_command(image, story)}
    width = max(map(len, found))
    for name, value in found.items():
        lines = value.split("\n")
        print_line(f"{name:{width}}  {visible(lines[0])}")
        for line in lines[1:]:
            print_line(f"{'':{width}}  {visible(line)}")


def _metadata_document(image: Path, story: "ImageMetadata") -> dict[str, object]:
    return {
        "path": str(image),
        "tool": story.tool,
        "prompt": story.prompt,
        "negative_prompt": story.negative_prompt,
        "settings": asdict(story.settings),
        "not_understood": list(story.not_understood),
        "request": None if story.request is None else asdict(story.request),
        "libraries": dict(story.libraries),
        "raw": story.raw,
        "pictures": story.pictures,
        "again": _reproduce_command(image, story),
    }


def _reproduce_command(image: Path, story: "ImageMetadata") -> str:
    """The command that draws it again."""
    if story.pictures > 1:
        from t2i.cli.drawing.grid import reproduce_grid_command

        return reproduce_grid_command(image, story)
    return f"t2i generate --from {quote(str(image))}"


def _metadata_rows(story: "ImageMetadata") -> dict[str, str]:
    """Name and value of what the story says; what it does not say has no row."""
    from t2i.cli.request.file_checks import describe_files

    settings = story.settings
    size = None if settings.width is None else f"{settings.width}x{settings.height}"
    values = {
        "prompt": story.prompt,
        "negative": story.negative_prompt or None,
        "steps": settings.num_inference_steps,
        "sampler": settings.sampler,
        "guidance": settings.guidance_scale,
        "method": story.request and story.request.guidance_method,
        "grammar": story.request and story.request.grammar,
        "seed": settings.seed,
        "size": size,
        "sheet of": several(story.pictures, "picture") if story.pictures > 1 else None,
        "model": settings.model,
        "model hash": settings.model_hash,
        "strength": story.request and story.request.strength,
        "upscale": story.request and story.request.upscale and story.request.upscale.typed,
        **({} if story.request is None else describe_files(story.request)),
        **({} if story.request is None else _edit_rows(story.request)),
        "tool": story.tool,
        "libraries": ", ".join(f"{name} {version}" for name, version in story.libraries.items()),
        "not understood": "\n".join(story.not_understood),
    }
    return {name: str(value) for name, value in values.items() if value not in (None, "")}


def _edit_rows(request: "Request") -> dict[str, str]:
    """What it was drawn together with, and the edits, a line each."""
    edited = request.edited
    if edited is None:
        return {}
    others = [text for number, text in enumerate(edited.prompts) if number != edited.picture]
    edits = [json.dumps(dict(edit), ensure_ascii=False) for edit in edited.edits]
    return {"drawn with": "\n".join(others), "edits": "\n".join(edits)}
