"""`t2i generate`: pictures of a prompt, one per seed; of a file of prompts; or of a picture."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t2i.cli.output import Format
from t2i.cli.processes import launched_processes, launched_rank
from t2i.cli.request.options import (
    Embedding,
    Grammar,
    Guidance,
    Lora,
    LoraDir,
    Method,
    Model,
    Negative,
    NoMetadata,
    Out,
    Sampler,
    Size,
    Steps,
    typed,
)
from t2i.errors import ArgumentError, ModelError, T2IError

if TYPE_CHECKING:
    from t2i.cli.metadata.reading import ImageMetadata
    from t2i.cli.request.prompt_line import PromptLine
    from t2i.cli.request.request import Request, RequestOverrides


def generate(
    prompt: Annotated[
        str | None, typer.Argument(metavar="[PROMPT]", help="What the picture shows.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Many prompts: .txt, .jsonl or .csv; the same command goes on."
        ),
    ] = None,
    again: Annotated[
        Path | None,
        typer.Option("--from", metavar="IMAGE", help="A picture to make again, as it says itself."),
    ] = None,
    out: Out = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the first picture; the next ones count up.")
    ] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    sampler: Sampler = None,
    num: Annotated[int, typer.Option(help="How many pictures, of each prompt.")] = 1,
    grid: Annotated[
        bool, typer.Option("--grid", help="Lay the pictures of --num out on a sheet beside them.")
    ] = False,
    method: Method = None,
    size: Size = None,
    negative: Negative = None,
    model: Model = None,
    grammar: Grammar = None,
    image: Annotated[
        Path | None,
        typer.Option(metavar="PICTURE", help="Change this picture, towards what PROMPT says."),
    ] = None,
    upscale: Annotated[
        str | None,
        typer.Option(
            metavar="FACTOR[:STRENGTH]",
            help="Draw at the model's size, enlarge, and draw anew a little, as in 2 or 2:0.3.",
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="How much of --image is drawn anew: 0 to 1.", show_default="0.8; 1 with --mask"
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(metavar="PICTURE", help="White where --image is drawn anew, black elsewhere."),
    ] = None,
    lora: Lora = None,
    lora_dir: LoraDir = None,
    embedding: Embedding = None,
    ip_adapter: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER_OR_FILE", help="An IP-Adapter, to look at --image-prompt."),
    ] = None,
    image_prompt: Annotated[
        str | None,
        typer.Option(metavar="PICTURE[:SCALE]", help="A picture as a part of the prompt."),
    ] = None,
    no_metadata: NoMetadata = False,
    format: Format = "text",
) -> None:
    """Make pictures of PROMPT, or of each prompt of FILE, or IMAGE again; print their paths.

    A seed that is not given is drawn, printed and recorded. Steps, guidance, sampler and size come
    from the model where they are not given. No file is replaced: in a folder a number is added to
    a name in use; a file named by --out is refused if it exists. Ctrl-C keeps finished pictures.
    """
    from t2i.cli.drawing.grid import ImageGrid, check_single_image
    from t2i.cli.request import input_files as sources
    from t2i.cli.request.file_checks import check_file_combinations, check_files_exist
    from t2i.cli.request.prompt_loras import LORA_FOLDER, set_prompt
    from t2i.cli.request.request import Request, choose_seeds
    from t2i.cli.request.upscaling import parse_upscale

    # what is asked for
    _check_one_subject(prompt, prompts, again)
    wishes = replace(
        typed(locals()),
        ip_adapter=None if ip_adapter is None else sources.parse_file(str(ip_adapter)),
        image_prompt=None if image_prompt is None else sources.parse_scaled_file(image_prompt),
        image=None if image is None else sources.parse_file(str(image)),
        mask=None if mask is None else sources.parse_file(str(mask)),
        strength=strength,
        upscale=None if upscale is None else parse_upscale(upscale),
    )
    if prompts is not None:
        if grid:
            raise ArgumentError(
                "Got --grid with --prompts: a sheet shows the pictures of one prompt. Give PROMPT."
            )
        _generate_bulk(prompts, out, wishes, seed, num, not no_metadata, lora_dir, format)
        return
    if launched_processes() > 1:
        raise ArgumentError(
            f"{launched_processes()} processes were started for one prompt: only the prompts of a "
            "file are shared among them. Give --prompts FILE, or start one process."
        )
    story = None
    if again is None:
        request = wishes.over(Request(prompt="", grammar="a1111"))
        request = set_prompt(request, prompt or "", lora_dir or LORA_FOLDER)
    else:
        story, request, recorded = request_from_image(again, wishes, lora_dir or LORA_FOLDER)
        if seed is None:
            check_single_image(again, story)
            seed = recorded
    seeds = choose_seeds(seed, num)
    laid_out = ImageGrid(num) if grid else None
    check_file_combinations(request)
    check_files_exist(request)

    from t2i.cli.drawing.single_request import generate_images
    from t2i.cli.file_names import OutputNames

    names = OutputNames(out or Path("outputs"), request.prompt, num, grid=grid)
    generate_images(request, seeds, names, story, not no_metadata, format, laid_out)


def _check_one_subject(prompt: str | None, prompts: Path | None, again: Path | None) -> None:
    subjects = {"PROMPT": prompt, "--prompts": prompts, "--from": again}
    given = [name for name, value in subjects.items() if value is not None]
    if not given:
        raise ArgumentError(
            "Missing what to draw: give a PROMPT, a file of them with --prompts FILE, or a picture "
            'to make again with --from IMAGE, as in: t2i generate "a red apple"'
        )
    if len(given) > 1:
        raise ArgumentError(f"Got {' and '.join(given)}: give one of them.")


def _generate_bulk(
    prompts: Path,
    out: Path | None,
    wishes: "RequestOverrides",
    seed: int | None,
    num: int,
    metadata: bool,
    lora_dir: Path | None,
    format: Format,
) -> None:
    from t2i.cli.bulk.plan import BulkRun
    from t2i.cli.bulk.prompts_file import read_prompts
    from t2i.cli.request.file_checks import check_files_exist
    from t2i.cli.request.prompt_loras import LORA_FOLDER
    from t2i.cli.request.request import Request, check_num_images, choose_seed
    from t2i.pictures import FORMATS

    check_num_images(num)
    choose_seed(seed)
    out = Path("outputs") / prompts.stem if out is None else out
    if out.suffix.lower() in FORMATS and not out.is_dir():
        raise ArgumentError(f"Got --out {out}: the pictures of a file need a folder.")
    bulk = BulkRun(
        prompts=prompts,
        out=out,
        options=wishes.over(Request(prompt="", grammar="a1111")),
        seed=seed,
        num=num,
        metadata=metadata,
    )
    # Before anything slow is imported: a mistake in the file is answered at once.
    check_files_exist(bulk.options)
    lines: list[PromptLine] = []
    if launched_rank() == 0:
        lines = read_prompts(prompts, bulk.options, lora_dir or LORA_FOLDER)

    from t2i.cli.bulk.bulk import run_bulk

    run_bulk(bulk, lines, as_json=format == "json")


def request_from_image(
    picture: Path, wishes: "RequestOverrides", lora_dir: Path
) -> tuple["ImageMetadata", "Request", int | None]:
    """What a picture says of its making; the request, under what was typed; and its seed."""
    from t2i.cli.metadata.reading import read_metadata, request_from_metadata
    from t2i.cli.request.prompt_loras import remove_network_tags, set_prompt
    from t2i.denoiser.loading.address import EMBEDDED

    story = read_metadata(picture)
    request, seed = request_from_metadata(story)
    if wishes.model is None and request.model not in EMBEDDED and not Path(request.model).exists():
        # Looked for here alone: a picture must not make anybody download what it names.
        raise ModelError(
            f"{picture} was made with the model {request.model!r}, which is not found here. "
            "Give its folder, or another model, with --model; those that are here are listed by: "
            "t2i models"
        )
    request = wishes.over(request)
    if story.request is None and request.grammar != "plain":
        # Another tool wrote the names of its LoRAs; ours are in the request.
        if wishes.loras == ():
            request = replace(request, prompt=remove_network_tags(request.prompt))
        else:
            request = set_prompt(request, request.prompt, lora_dir)
    _check_files_found(picture, request)
    return story, request, seed


def _check_files_found(picture: Path, request: "Request") -> None:
    """Raise for a file that the picture was made of and that is not here."""
    from t2i.cli.request.file_checks import FILE_KINDS, iter_files, locate_file
    from t2i.terminal import visible

    for name, file in iter_files(request):
        try:
            locate_file(name, file)
        except T2IError as error:
            if file.sha256 is None:  # it was typed
                raise
            kind = FILE_KINDS[name]
            raise type(error)(
                f"{picture} was made with the {kind.word} {file.path!r:.200}, sha256 "
                f"{file.sha256[:10]}..., which cannot be used here: "
                f"{visible(str(error))} Or give another with {kind.option}."
            ) from error
