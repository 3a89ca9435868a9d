"""A job's request as a command, as Python, and as the body of a request: to copy."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from t2i.cli.inspected_words import format_words
from t2i.cli.option_parsing.option_values import format_number
from t2i.cli.request.edit_options import (
    RegionBoxOption,
    format_alignment,
    format_region,
    format_word_weight,
)
from t2i.cli.request.input_files import EmbeddingFile, InputFileWithScale
from t2i.cli.request.photo_inversion import AUTO_METHOD
from t2i.errors import ArgumentError
from t2i.server.api.schemas import ExportAnswer
from t2i.server.catalogue import Catalogue
from t2i.server.jobs.job_request import (
    ControlChoice,
    EditRequest,
    GenerateRequest,
    InspectRequest,
    InvertRequest,
    NewJob,
    RememberRequest,
    SamplingRequest,
)
from t2i.server.jobs.request_building import read_control_choice

EXAMPLE_PICTURE_NAME, EXAMPLE_MASK_NAME = "picture.png", "mask.png"
"""Names of uploads in a command: the server keeps no path of theirs."""
EXAMPLE_HINT_NAME, EXAMPLE_REFERENCE_NAME = "hint.png", "reference.png"
EXAMPLE_SOURCE_FOLDER = "source"
"""Name of a recorded source's folder in a command."""


def build_export_answer(new: NewJob, catalogue: Catalogue) -> ExportAnswer:
    """Return a server job's request as a command line, as Python code, and as the JSON body of POST
    /api/v1/jobs; names of files on the client's machine are examples.
    """
    body = new.request
    document = {"kind": new.kind, "request": body.model_dump(mode="json", exclude_defaults=True)}
    try:
        request = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise ArgumentError(
            "Got a number that is not finite in the request: no picture can be drawn with it. Give "
            "a finite number, or leave the field out."
        ) from None
    return ExportAnswer(
        command=format_command(body, catalogue),
        python=format_python_code(body, catalogue),
        request=request,
    )


def format_command(body: SamplingRequest, catalogue: Catalogue) -> str:
    """Return the `t2i` command line that does what a server job's request asks for."""
    words = ["t2i", *_list_subject(body)]
    for option, value in _list_options(body, catalogue):
        words += [option] if value is None else [option, value]
    return shlex.join(words)


def _list_subject(body: SamplingRequest) -> list[str]:
    """Return the name of the command and its arguments."""
    if isinstance(body, EditRequest):
        source = [] if body.source_prompt is None else [body.source_prompt]
        further = [word for target in body.targets[1:] for word in ("--target", target)]
        return ["edit", *map(_protect, [*source, *body.targets[:1]]), *further]
    if isinstance(body, InvertRequest):
        return [
            "invert",
            EXAMPLE_PICTURE_NAME,
            _protect(body.prompt),
            "--out",
            EXAMPLE_SOURCE_FOLDER,
        ]
    if isinstance(body, InspectRequest):
        return ["inspect", *([] if body.prompt is None else [_protect(body.prompt)])]
    assert isinstance(body, GenerateRequest | RememberRequest)
    return ["generate", _protect(body.prompt)]


def _protect(text: str) -> str:
    """Return an argument that is not taken for an option."""
    return f" {text}" if text.startswith("-") else text


def _list_options(body: SamplingRequest, catalogue: Catalogue) -> Iterator[tuple[str, str | None]]:
    for option, value in (
        ("--negative", body.negative_prompt or None),
        ("--model", body.model),
        ("--steps", body.steps),
        ("--guidance", body.guidance_scale),
        ("--sampler", body.sampler),
        ("--method", body.guidance_method),
        ("--preset", body.preset),
        ("--size", _write_size(body)),
        ("--seed", body.seed),
        ("--grammar", body.grammar if body.grammar != "a1111" else None),
    ):
        if value is not None:
            yield option, str(value)
    for lora in body.loras:
        path = str(catalogue.loras.get(lora.name, lora.name))
        yield "--lora", InputFileWithScale(path=path, scale=lora.scale).option_value
    for word in body.embeddings:
        path = str(catalogue.embeddings.get(word.name, word.name))
        yield "--embedding", EmbeddingFile(path=path, token=word.token).option_value
    for control in body.controls:
        yield "--control", _format_control(control, catalogue)
    yield from _list_own_options(body)


def _format_control(choice: ControlChoice, catalogue: Catalogue) -> str:
    """Return the value of --control for a control of a job, with example names of its pictures."""
    listed = replace(catalogue, controls={choice.name: Path(choice.name), **catalogue.controls})
    examples = {choice.mask: EXAMPLE_MASK_NAME, choice.image: EXAMPLE_HINT_NAME}
    return read_control_choice(choice, listed, lambda name: Path(examples[name])).option_value


def _write_size(body: SamplingRequest) -> str | None:
    if body.width is None and body.height is None:
        return None
    return f"{body.width or body.height}x{body.height or body.width}"


def _list_own_options(body: Any) -> Iterator[tuple[str, str | None]]:
    """Yield the options of one kind of request."""
    if isinstance(body, InspectRequest) and body.words:
        yield "--words", format_words(body.words)
    if isinstance(body, GenerateRequest) and body.num != 1:
        yield "--num", str(body.num)
    if getattr(body, "source", None) is not None:
        yield "--source", EXAMPLE_SOURCE_FOLDER
    if not isinstance(body, InvertRequest) and getattr(body, "image", None) is not None:
        yield "--image", EXAMPLE_PICTURE_NAME
    if getattr(body, "mask", None) is not None:
        yield "--mask", EXAMPLE_MASK_NAME
    if getattr(body, "method", AUTO_METHOD) != AUTO_METHOD:
        yield "--invert", body.method
    if getattr(body, "fit", "crop") != "crop":
        yield "--fit", body.fit
    for name in ("strength", "upscale"):
        if getattr(body, name, None) is not None:
            yield f"--{name}", str(getattr(body, name))
    if isinstance(body, GenerateRequest) and body.reference is not None:
        reference = body.reference.resolve(lambda _: Path(EXAMPLE_REFERENCE_NAME))
        yield "--reference", reference.option_value
    for region in getattr(body, "regions", []):
        yield "--region", format_region(RegionBoxOption(words=region.words, box=region.box))
    if isinstance(body, EditRequest):
        yield from _list_edit_options(body)


def _list_edit_options(body: EditRequest) -> Iterator[tuple[str, str | None]]:
    """Yield the options of an edit about its attention edits."""
    if body.full_size:
        yield "--full-size", None
    for word, factor in body.weights.items():
        yield "--weight", format_word_weight(word, factor)
    if body.blend != "auto":
        yield "--blend", body.blend
    if body.alignment:
        yield "--align", format_alignment(body.alignment)
    for name in ("cross_replace", "self_replace"):
        window = getattr(body, name)
        if window is not None:
            parts = window if isinstance(window, tuple) else (window,)
            yield f"--{name.replace('_', '-')}", ":".join(map(format_number, parts))


def format_python_code(body: SamplingRequest, catalogue: Catalogue) -> str:
    """Format a job's request as Python code; what needs more than a call runs the command from
    Python.
    """
    simple = {"prompt", "negative_prompt", "model", "steps", "guidance_scale", "seed", "grammar"}
    simple |= {"width", "height", "words_maps", "map_steps"}
    if (
        not isinstance(body, GenerateRequest)
        or body.model_dump(exclude_defaults=True).keys() - simple
    ):
        words = shlex.split(format_command(body, catalogue))[1:]
        return f"from t2i.cli import main\n\nmain({words!r})\n"
    arguments = {
        "negative_prompt": _write_prompt(body.negative_prompt, body.grammar),
        "num_inference_steps": body.steps,
        "guidance_scale": body.guidance_scale,
        "width": body.width if body.width is not None else body.height,
        "height": body.height if body.height is not None else body.width,
        "generator": None
        if body.seed is None
        else f'torch.Generator("cpu").manual_seed({body.seed})',
    }
    call = [_write_prompt(body.prompt, body.grammar)]
    call += [f"{name}={value}" for name, value in arguments.items() if value not in (None, "''")]
    inner = "".join(f"    {argument},\n" for argument in call)
    return (
        f"import torch\n\nimport t2i\nfrom t2i import Prompt\n\npipe = t2i.load("
        f"{body.model or catalogue.default_model!r})\nimage = pipe(\n{inner}).images[0]\n"
    )


def _write_prompt(text: str, grammar: str) -> str:
    """Return the expression of a prompt in its grammar."""
    if not text or grammar == "plain":
        return repr(text)
    return f"Prompt({text!r})" if grammar == "a1111" else f"Prompt({text!r}, {grammar!r})"
