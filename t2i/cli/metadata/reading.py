"""How a picture was made, read from its file, whichever tool made it; and what to ask for again."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path

from t2i import __version__
from t2i.cli.metadata.a1111 import read_a1111
from t2i.cli.metadata.comfyui import read_comfyui
from t2i.cli.metadata.embedded_texts import read_texts
from t2i.cli.metadata.fooocus import read_fooocus
from t2i.cli.metadata.invokeai import read_invokeai
from t2i.cli.metadata.parsed_metadata import ImageMetadata, RecordedSettings
from t2i.cli.metadata.t2i_json import TOOL, read_t2i
from t2i.cli.metadata.writing import installed_version
from t2i.cli.request.request import MAX_SEED, Grammar, Request
from t2i.cli.request.sampler_names import translate_sampler
from t2i.errors import ArgumentError, DataError
from t2i.terminal import visible
from t2i.text.dialects import Dialect
from t2i.text.prompt import Prompt

__all__ = [
    "ImageMetadata",
    "RecordedSettings",
    "list_differences",
    "read_metadata",
    "request_from_metadata",
]

READERS: tuple[Callable[[Mapping[str, str]], ImageMetadata | None], ...] = (
    read_t2i,
    read_fooocus,
    read_invokeai,
    read_comfyui,
    read_a1111,
)
"""The most exact first: a file may carry several texts."""

SETTING_NAMES = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "model_hash": "model hash",
}
"""What people call a setting, where that is not its name."""


def read_metadata(path: Path) -> ImageMetadata:
    """The story in a PNG, JPEG or WebP, without decoding the picture.

    Raises DataError if there is none that can be read, and says why. What stood in the way of one
    text while another could be read is in the story's `not_understood`.
    """
    texts = read_texts(path)
    complaints = [visible(complaint) for complaint in texts.complaints]
    for read in READERS:
        try:
            story = read(texts.found)
        except DataError as error:
            complaints.append(visible(str(error)))
        except RecursionError:
            complaints.append(f"{read.__name__.removeprefix('read_')}: nested too deep to be read")
        else:
            if story is not None:
                return replace(story, not_understood=(*complaints, *story.not_understood))
    if complaints:
        raise DataError(
            f"{path} carries no story that can be read: {'; '.join(complaints)}. "
            "Look for the file as it was made."
        )
    raise DataError(
        f"{path} carries no story: it was saved without, or a program or website removed it. "
        "Look for the file as it was made."
    )


def request_from_metadata(story: ImageMetadata) -> tuple[Request, int | None]:
    """What to ask t2i for, and the seed; None is what the story does not say or t2i cannot take.

    Of another tool's picture the model is not taken over: its name means nothing here.
    """
    settings = story.settings
    seed = settings.seed if settings.seed is not None and settings.seed <= MAX_SEED else None
    if story.request is not None:
        own = story.request.sampler is not None and story.request.sampler.endswith("Scheduler")
        # The name of a class stands for the sampler that the model brings along.
        return (replace(story.request, sampler=None) if own else story.request), seed
    sampler = translate_sampler(settings.sampler)[0] if settings.sampler else None
    request = Request(
        prompt=story.prompt,
        negative_prompt=story.negative_prompt,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        sampler=sampler,
        width=settings.width,
        height=settings.height,
        grammar=detect_grammar(story),
    )
    return request, seed


def detect_grammar(story: ImageMetadata) -> Grammar:
    """How the tool that made the picture reads a prompt; plain where we cannot read it so."""
    known = [GRAMMARS[tool] for tool in GRAMMARS if story.tool.startswith(tool)]
    if not known:
        return "plain"
    try:
        for text in (story.prompt, story.negative_prompt):
            Prompt(text, dialect=known[0])
    except ArgumentError:
        return "plain"
    return known[0]


GRAMMARS: dict[str, Dialect] = {"A1111": "a1111", "ComfyUI": "comfy", TOOL: "a1111"}
"""Beginning of a tool's name -> what its prompts are written in."""


def list_differences(story: ImageMetadata, model_digest: str | None) -> list[str]:
    """Why the picture may not come out the same here, a line each; safe to print.

    model_digest : metadata.digest of the model that will make it; None where that is not known
    """
    if story.request is None:
        return [visible(line) for line in _list_foreign_differences(story)]
    lines = []
    for name, theirs in story.libraries.items():
        here = __version__ if name == TOOL else installed_version(name)
        if here != theirs:
            lines.append(f"{name} {theirs} made it, here is {here}")
    theirs = story.settings.model_hash or ""
    if model_digest is None:
        lines.append(f"whether the model is the same, {theirs[:10]}, is not known")
    elif model_digest != theirs:
        lines.append(f"model {theirs[:10]} made it, here is {model_digest[:10]}")
    lines += [f"not understood: {line}" for line in story.not_understood]
    return [visible(line) for line in lines]


def _list_foreign_differences(story: ImageMetadata) -> list[str]:
    settings = story.settings
    if story.tool.startswith(f"{TOOL} "):
        lines = [f"made by {story.tool}, but its full record is missing: it may not be identical"]
    else:
        lines = [f"made by another tool, {story.tool}: it will not be identical"]
    if settings.model is not None:
        lines.append(f"the model {settings.model!r} is not taken over: choose one with --model")
    if settings.sampler is not None and translate_sampler(settings.sampler)[0] is None:
        lines.append(f"the sampler {settings.sampler!r} is unknown here: the model's own is used")
    if settings.seed is not None and settings.seed > MAX_SEED:
        lines.append(f"the seed {settings.seed} is above {MAX_SEED}: another is drawn")
    missing = [
        SETTING_NAMES.get(field.name, field.name)
        for field in fields(RecordedSettings)
        if getattr(settings, field.name) is None and field.name != "model_hash"
    ]
    if missing:
        lines.append(f"not recorded: {', '.join(missing)}")
    return lines + [f"not understood: {line}" for line in story.not_understood]
