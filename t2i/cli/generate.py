"""`t2i generate`: pictures of a prompt, one per seed; of a file of prompts; or of a picture."""

import inspect
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from t2i.cli.answer import Format, note, print_json
from t2i.cli.processes import launched_processes, launched_rank
from t2i.errors import ArgumentError, ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.text_to_image import TextToImagePipeline
    from t2i.cli.naming import Names
    from t2i.cli.request import Defaults, Request, Wishes
    from t2i.cli.story import Story


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
    out: Annotated[
        Path | None,
        typer.Option(
            help="A folder, or one file ending in .png, .jpg or .webp.", show_default="outputs"
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the first picture; the next ones count up.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the sampler.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How strongly the prompt is followed; 1 is unguided.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim, euler, dpm++ 2m, ...")] = None,
    num: Annotated[int, typer.Option(help="How many pictures, of each prompt.")] = 1,
    method: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="Of guidance: apg, cfg-zero, pag, cfg:stop=0.5, ..."),
    ] = None,
    size: Annotated[str | None, typer.Option(help="512x384, or 512 for a square.")] = None,
    negative: Annotated[str | None, typer.Option(help="What the picture must not show.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A name of `t2i models`, or a folder.", show_default="embedded"),
    ] = None,
    grammar: Annotated[
        Literal["a1111", "comfy", "plain"] | None,
        typer.Option(help="What (), [] and : mean in a prompt.", show_default="a1111"),
    ] = None,
    no_metadata: Annotated[
        bool, typer.Option("--no-metadata", help="Do not write into a picture how it was made.")
    ] = False,
    format: Format = "text",
) -> None:
    """Make pictures of PROMPT, or of each prompt of FILE, or IMAGE again; print their paths.

    A seed that is not given is drawn, printed and recorded. Steps, guidance, sampler and size come
    from the model where they are not given. No file is replaced: in a folder a number is added to
    a name in use; a file named by --out is refused if it exists. Ctrl-C keeps finished pictures.
    """
    from t2i.cli.request import Request, Wishes, choose_seeds, parse_size

    # what is asked for
    check_one_subject(prompt, prompts, again)
    width, height = (None, None) if size is None else parse_size(size)
    wishes = Wishes(
        negative_prompt=negative,
        model=model,
        num_inference_steps=steps,
        guidance_scale=guidance,
        sampler=sampler,
        width=width,
        height=height,
        grammar=grammar,
        guidance_method=method,
    )
    if prompts is not None:
        generate_bulk(prompts, out, wishes, seed, num, not no_metadata, format)
        return
    if launched_processes() > 1:
        raise ArgumentError(
            f"{launched_processes()} processes were started for one prompt: only the prompts of a "
            "file are shared among them. Give --prompts FILE, or start one process."
        )
    story = None
    if again is None:
        request = wishes.over(Request(prompt="", grammar="a1111"))
        request = replace(request, prompt=prompt or "")
    else:
        story, request, recorded = retold(again, wishes)
        seed = recorded if seed is None else seed
    seeds = choose_seeds(seed, num)

    from t2i.cli.naming import Names

    names = Names(out or Path("outputs"), request.prompt, num)
    generate_each(request, seeds, names, story, not no_metadata, format)


def check_one_subject(prompt: str | None, prompts: Path | None, again: Path | None) -> None:
    subjects = {"PROMPT": prompt, "--prompts": prompts, "--from": again}
    given = [name for name, value in subjects.items() if value is not None]
    if not given:
        raise ArgumentError(
            "Missing what to draw: give a PROMPT, a file of them with --prompts FILE, or a picture "
            "to make again with --from IMAGE."
        )
    if len(given) > 1:
        raise ArgumentError(f"Got {' and '.join(given)}: give one of them.")


def generate_bulk(
    prompts: Path,
    out: Path | None,
    wishes: "Wishes",
    seed: int | None,
    num: int,
    metadata: bool,
    format: Format,
) -> None:
    from t2i.cli.plan import Bulk
    from t2i.cli.prompts_file import check_requests, read_prompts
    from t2i.cli.request import Request, check_num, choose_seed
    from t2i.pictures import FORMATS

    check_num(num)
    choose_seed(seed)
    out = Path("outputs") / prompts.stem if out is None else out
    if out.suffix.lower() in FORMATS and not out.is_dir():
        raise ArgumentError(f"Got --out {out}: the pictures of a file need a folder.")
    bulk = Bulk(
        prompts=prompts,
        out=out,
        options=wishes.over(Request(prompt="", grammar="a1111")),
        seed=seed,
        num=num,
        metadata=metadata,
    )
    # Before anything slow is imported: a mistake in the file is answered at once.
    lines = read_prompts(prompts) if launched_rank() == 0 else []
    check_requests(prompts, lines, bulk.options)

    from t2i.cli.bulk import run

    run(bulk, lines, as_json=format == "json")


def retold(picture: Path, wishes: "Wishes") -> tuple["Story", "Request", int | None]:
    """What a picture says of its making; the request, under what was typed; and its seed."""
    from t2i.cli.story import read_story, request_of
    from t2i.denoiser.folder import EMBEDDED

    story = read_story(picture)
    request, seed = request_of(story)
    if wishes.model is None and request.model not in EMBEDDED and not Path(request.model).exists():
        # Looked for here alone: a picture must not make anybody download what it names.
        raise ModelError(
            f"{picture} was made with the model {request.model!r}, which is not found here. "
            "Give its folder, or another model, with --model."
        )
    return story, wishes.over(request), seed


def generate_each(
    request: "Request",
    seeds: range,
    names: "Names",
    story: "Story | None",
    metadata: bool,
    format: Format,
) -> None:
    """One picture for each seed; of one that is made again, say what differs."""
    from t2i.cli.metadata import digest, picture_text
    from t2i.cli.request import read_defaults
    from t2i.cli.story import differences
    from t2i.denoiser.folder import resolve
    from t2i.pictures import save_picture

    # what makes it
    quiet_libraries()
    folder = resolve(request.model)
    request = request.with_defaults(read_defaults(folder))
    names.make_folder()
    made: list[dict[str, object]] = []
    interrupted = False
    with warnings_in_one_line():
        pipe = load_pipeline(folder, request.sampler)
        request = request.with_defaults(pipeline_defaults(pipe))
        weights = digest(folder)
        told = [] if story is None else differences(story, weights)
        for difference in told:
            note(f"Not the same here: {difference}")

        # one picture after the other
        try:
            for index, seed in enumerate(seeds):
                start = time.perf_counter()
                picture = sample(pipe, request, seed)
                request = replace(request, width=picture.width, height=picture.height)
                path = names.path(index, seed)
                text = picture_text(request, seed, weights) if metadata else None
                save_picture(picture, path, text)
                seconds = round(time.perf_counter() - start, 2)
                made.append({"path": str(path), "seed": seed, "seconds": seconds})
                if format == "text":
                    note(f"seed {seed}, {seconds} s")
                    typer.echo(path)
        except KeyboardInterrupt:
            interrupted = True
            note(f"Interrupted: {len(made)} of {len(seeds)} pictures are finished and kept.")

    if format == "json":
        answer = {"request": asdict(request), "pictures": made, "interrupted": interrupted}
        print_json(answer if story is None else answer | {"differences": told})
    if interrupted:
        raise typer.Exit(130)


def load_pipeline(folder: Path, sampler: str | None) -> "TextToImagePipeline":
    from accelerate import PartialState

    from pipelines.text_to_image import TextToImagePipeline
    from t2i.denoiser.schedulers import scheduler
    from t2i.denoiser.weights import read_json

    parts = {}
    if folder.is_file():
        pipe = TextToImagePipeline.from_pretrained(folder)
        if sampler is not None:
            pipe.scheduler = scheduler(sampler, pipe.scheduler.config)
        return pipe.to(PartialState().device)
    if sampler is not None:
        # Before the weights: a mistyped name should not wait for gigabytes.
        config = read_json(folder / "scheduler" / "scheduler_config.json")
        parts["scheduler"] = scheduler(sampler, config)
    return TextToImagePipeline.from_pretrained(folder, **parts).to(PartialState().device)


def quiet_libraries() -> None:
    """No bars while weights are read, and no advice on libraries that this project does without."""
    import diffusers
    import transformers

    transformers.utils.logging.set_verbosity_error()
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()


def pipeline_defaults(pipe: "TextToImagePipeline") -> "Defaults":
    from t2i.cli.request import Defaults

    parameters = inspect.signature(pipe.__call__).parameters
    return Defaults(
        num_inference_steps=parameters["num_inference_steps"].default,
        guidance_scale=parameters["guidance_scale"].default,
        sampler=type(pipe.scheduler).__name__,
    )


def sample(
    pipe: "TextToImagePipeline", request: "Request", seed: int, *, bar: bool = True
) -> "Image":
    import torch

    from t2i.conditioning.methods import parse_guidance

    assert request.num_inference_steps is not None
    assert request.guidance_scale is not None
    method = request.guidance_method
    # disable=None: no bar where nobody watches, as in a file or a pipe.
    settings = {"desc": f"seed {seed}", "disable": None if bar else True, "leave": False}
    pipe.set_progress_bar_config(**settings)  # type: ignore[no-untyped-call]  # has no types
    pictures: list[Image] = pipe(
        prompt=request.spoken(request.prompt),
        negative_prompt=request.spoken(request.negative_prompt),
        guidance=None if method is None else parse_guidance(method, request.guidance_scale),
        width=request.width,
        height=request.height,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        # Drawn on the CPU, so that a seed means the same picture on every device.
        generator=torch.Generator("cpu").manual_seed(seed),
        return_dict=False,
    )[0]
    return pictures[0]


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Show a warning as what it says, without the line of code that said it."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: note(f"Warning: {message}")
        yield
