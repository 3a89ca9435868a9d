"""Options of the commands that draw one prompt and look into it, and the request that they make."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from t2i.cli.processes import launched_processes
from t2i.errors import ArgumentError

if TYPE_CHECKING:
    from t2i.cli.request.request import Request, RequestOverrides

Out = Annotated[
    Path | None,
    typer.Option(
        help="A folder, or one file ending in .png, .jpg or .webp.", show_default="outputs"
    ),
]
Seed = Annotated[int | None, typer.Option(help="Of the noise that it begins from.")]
Steps = Annotated[int | None, typer.Option(help="Steps of the sampler.")]
Guidance = Annotated[
    float | None, typer.Option(help="How strongly the prompt is followed; 1 is unguided.")
]
Sampler = Annotated[str | None, typer.Option(help="ddim, euler, dpm++ 2m, ...")]
Method = Annotated[
    str | None,
    typer.Option(metavar="METHOD", help="Of guidance: apg, cfg-zero, pag, cfg:stop=0.5, ..."),
]
Size = Annotated[str | None, typer.Option(help="512x384, or 512 for a square.")]
Negative = Annotated[str | None, typer.Option(help="What the picture must not show.")]
Model = Annotated[
    str | None, typer.Option(help="A name of `t2i models`, or a folder.", show_default="embedded")
]
Grammar = Annotated[
    Literal["a1111", "comfy", "plain"] | None,
    typer.Option(help="What (), [] and : mean in a prompt.", show_default="a1111"),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE[:SCALE]", help="A LoRA and its strength; may be repeated."),
]
Embedding = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE[:WORD]", help="A learned word (textual inversion); may be repeated."
    ),
]
LoraDir = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Where <lora:NAME:0.8> of a prompt is found.", show_default="loras"
    ),
]
NoMetadata = Annotated[
    bool, typer.Option("--no-metadata", help="Do not write into a picture how it was made.")
]


def typed(given: Mapping[str, Any]) -> "RequestOverrides":
    """These options, read, out of the `locals()` of a command that has them all.

    Raises for what cannot be drawn.
    """
    from t2i.cli.request import input_files as sources
    from t2i.cli.request.request import RequestOverrides, parse_size
    from t2i.cli.request.sampler_names import sampler_from_class

    size, sampler = given["size"], given["sampler"]
    loras, embeddings = given["lora"], given["embedding"]
    width, height = (None, None) if size is None else parse_size(size)
    return RequestOverrides(
        negative_prompt=given["negative"],
        model=given["model"],
        num_inference_steps=given["steps"],
        guidance_scale=given["guidance"],
        sampler=None if sampler is None else sampler_from_class(sampler),
        width=width,
        height=height,
        grammar=given["grammar"],
        guidance_method=given["method"],
        loras=sources.parse_loras(loras) if loras else None,
        embeddings=sources.parse_embeddings(embeddings) if embeddings else None,
    )


def build_request(prompt: str, wishes: "RequestOverrides", lora_dir: Path | None) -> "Request":
    """What was typed, over what every command begins from; for commands of one process."""
    from t2i.cli.request.prompt_loras import LORA_FOLDER, set_prompt
    from t2i.cli.request.request import Request

    if launched_processes() > 1:
        raise ArgumentError(
            f"{launched_processes()} processes were started for one prompt: start one."
        )
    request = wishes.over(Request(prompt="", grammar="a1111"))
    return set_prompt(request, prompt, lora_dir or LORA_FOLDER)


def check_not_composed(request: "Request", prompts: Sequence[str]) -> None:
    """Raise ArgumentError for a prompt whose parts are told to passes of their own."""
    for prompt in prompts:
        said = request.spoken(prompt)
        if not isinstance(said, str) and len(said.at(0, 1)) > 1:
            raise ArgumentError(
                f"{prompt!r} has parts joined by AND, each of which the model is told alone: words "
                "are looked for in one text. Take the parts one by one, or --grammar plain."
            )
