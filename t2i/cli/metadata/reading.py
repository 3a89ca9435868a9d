"""Reader of generation metadata of all supported tools, and requests made from it."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path

from t2i import __version__
from t2i.cli.metadata.a1111 import find_a1111_metadata
from t2i.cli.metadata.comfyui import find_comfyui_metadata
from t2i.cli.metadata.embedded_texts import read_embedded_texts
from t2i.cli.metadata.fooocus import find_fooocus_metadata
from t2i.cli.metadata.invokeai import find_invokeai_metadata
from t2i.cli.metadata.parsed_metadata import ImageMetadata, MetadataSettings
from t2i.cli.metadata.t2i_json import TOOL_NAME, find_t2i_metadata
from t2i.cli.metadata.writing import describe_library_version
from t2i.cli.request.request import MAX_SEED, Grammar, Request
from t2i.denoiser.sampler_names import translate_sampler_name_and_spacing
from t2i.errors import ArgumentError, DataError
from t2i.terminal import escape_controls
from t2i.text.dialects import Dialect
from t2i.text.prompt import Prompt

__all__ = [
    "ImageMetadata",
    "MetadataSettings",
    "build_request_from_metadata",
    "list_reproduction_differences",
    "read_metadata",
]

READERS: tuple[Callable[[Mapping[str, str]], ImageMetadata | None], ...] = (
    find_t2i_metadata,
    find_fooocus_metadata,
    find_invokeai_metadata,
    find_comfyui_metadata,
    find_a1111_metadata,
)
"""Readers, the most exact first: a file may carry several texts."""

SETTING_NAMES = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "model_hash": "model hash",
}
"""Field -> name in messages, where it differs."""


def read_metadata(path: Path) -> ImageMetadata:
    """Read the generation metadata of a PNG, JPEG or WebP file without decoding the image.

    Raises DataError with the reasons where there is none that can be read. Errors of one text while
    another could be read are in the metadata's `not_understood`.
    """
    texts = read_embedded_texts(path)
    complaints = [escape_controls(complaint) for complaint in texts.errors]
    for read in READERS:
        try:
            metadata = read(texts.texts)
        except DataError as error:
            complaints.append(escape_controls(str(error)))
        except RecursionError:
            name = read.__name__.removeprefix("find_").removesuffix("_metadata")
            complaints.append(f"{name}: nested too deep to be read")
        else:
            if metadata is not None:
                return replace(metadata, not_understood=(*complaints, *metadata.not_understood))
    if complaints:
        raise DataError(
            f"{path} has no generation metadata that can be read: {'; '.join(complaints)}. "
            "Look for the file as it was made."
        )
    raise DataError(
        f"{path} has no generation metadata: it was saved without, or a program or website removed "
        "it. Look for the file as it was made."
    )


def build_request_from_metadata(metadata: ImageMetadata) -> tuple[Request, int | None]:
    """Build the request that reproduces an image from its metadata; return it with the seed.

    The seed is None if it is missing or too large. The model of another tool's image is not taken
    over: its name means nothing here.
    """
    settings = metadata.settings
    seed = settings.seed if settings.seed is not None and settings.seed <= MAX_SEED else None
    if metadata.request is not None:
        own = metadata.request.sampler is not None and metadata.request.sampler.endswith(
            "Scheduler"
        )
        # The name of a class stands for the sampler that the model brings along.
        return (replace(metadata.request, sampler=None) if own else metadata.request), seed
    sampler = translate_sampler_name_and_spacing(settings.sampler)[0] if settings.sampler else None
    request = Request(
        prompt=metadata.prompt,
        negative_prompt=metadata.negative_prompt,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        sampler=sampler,
        width=settings.width,
        height=settings.height,
        grammar=detect_prompt_grammar(metadata),
    )
    return request, seed


def detect_prompt_grammar(metadata: ImageMetadata) -> Grammar:
    """Return the prompt grammar of the tool that made an image, or "plain" if parsing fails."""
    known = [GRAMMARS[tool] for tool in GRAMMARS if metadata.tool.startswith(tool)]
    if not known:
        return "plain"
    try:
        for text in (metadata.prompt, metadata.negative_prompt):
            Prompt(text, dialect=known[0])
    except ArgumentError:
        return "plain"
    return known[0]


GRAMMARS: dict[str, Dialect] = {"A1111": "a1111", "ComfyUI": "comfy", TOOL_NAME: "a1111"}
"""Beginning of a tool's name -> grammar of its prompts."""


def list_reproduction_differences(metadata: ImageMetadata, model_digest: str | None) -> list[str]:
    """List the reasons why an image may not be reproduced exactly, as printable lines.

    model_digest : of the model that will draw it; None where that is not known
    """
    if metadata.request is None:
        return [escape_controls(line) for line in _list_foreign_differences(metadata)]
    lines = []
    for name, theirs in metadata.libraries.items():
        here = __version__ if name == TOOL_NAME else describe_library_version(name)
        if here != theirs:
            lines.append(f"made with {name} {theirs}, here is {here}")
    theirs = metadata.settings.model_hash or ""
    if model_digest is None:
        lines.append(f"made with model {theirs[:10]}; the model here is not known")
    elif model_digest != theirs:
        lines.append(f"made with model {theirs[:10]}, here is {model_digest[:10]}")
    lines += [f"not understood: {line}" for line in metadata.not_understood]
    return [escape_controls(line) for line in lines]


def _list_foreign_differences(metadata: ImageMetadata) -> list[str]:
    settings = metadata.settings
    if metadata.tool.startswith(f"{TOOL_NAME} "):
        lines = [
            f"made by {metadata.tool}, but its full record is missing: it may not be identical"
        ]
    else:
        lines = [f"made by another tool, {metadata.tool}: it will not be identical"]
    if settings.model is not None:
        lines.append(f"the model {settings.model!r} is not taken over: choose one with --model")
    if (
        settings.sampler is not None
        and translate_sampler_name_and_spacing(settings.sampler)[0] is None
    ):
        lines.append(f"the sampler {settings.sampler!r} is unknown here: the model's own is used")
    if settings.seed is not None and settings.seed > MAX_SEED:
        lines.append(f"the seed {settings.seed} is above {MAX_SEED}: another is drawn")
    missing = [
        SETTING_NAMES.get(field.name, field.name)
        for field in fields(MetadataSettings)
        if getattr(settings, field.name) is None and field.name != "model_hash"
    ]
    if missing:
        lines.append(f"not recorded: {', '.join(missing)}")
    return lines + [f"not understood: {line}" for line in metadata.not_understood]
