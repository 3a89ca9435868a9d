"""`t2i generate`: pictures of a prompt, one per seed."""

import inspect
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t2i.cli.answer import Format, note, print_json

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.text_to_image import TextToImagePipeline
    from t2i.cli.request import Defaults, Request


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the picture shows.")],
    out: Annotated[
        Path, typer.Option(help="A folder, or one file ending in .png, .jpg or .webp.")
    ] = Path("outputs"),
    seed: Annotated[
        int | None, typer.Option(help="Of the first picture; the next ones count up.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the sampler.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How strongly the prompt is followed; 1 is unguided.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim, euler, dpm++ 2m, ...")] = None,
    num: Annotated[int, typer.Option(help="How many pictures.")] = 1,
    size: Annotated[str | None, typer.Option(help="512x384, or 512 for a square.")] = None,
    negative: Annotated[str, typer.Option(help="What the picture must not show.")] = "",
    model: Annotated[str, typer.Option(help="A name of `t2i models`, or a folder.")] = "embedded",
    format: Format = "text",
) -> None:
    """Make pictures of PROMPT and print their paths.

    A seed that is not given is drawn, printed and recorded. Steps, guidance, sampler and size come
    from the model where they are not given. No file is replaced: in a folder a number is added to
    a name in use; a file named by --out is refused if it exists. Ctrl-C keeps finished pictures.
    """
    from t2i.cli.metadata import digest, picture_text
    from t2i.cli.naming import Names
    from t2i.cli.request import Request, choose_seeds, parse_size, read_defaults
    from t2i.denoiser.folder import resolve
    from t2i.pictures import save_picture

    # what is asked for
    width, height = (None, None) if size is None else parse_size(size)
    request = Request(
        prompt=prompt,
        negative_prompt=negative,
        model=model,
        num_inference_steps=steps,
        guidance_scale=guidance,
        sampler=sampler,
        width=width,
        height=height,
    )
    seeds = choose_seeds(seed, num)
    names = Names(out, prompt, num)

    # what makes it
    quiet_libraries()
    folder = resolve(model)
    request = request.with_defaults(read_defaults(folder))
    names.make_folder()
    made: list[dict[str, object]] = []
    interrupted = False
    with warnings_in_one_line():
        pipe = load_pipeline(folder, request.sampler)
        request = request.with_defaults(pipeline_defaults(pipe))
        weights = digest(folder)
        if not names.carry_text:
            note(f"Only a .png carries its prompt and settings; {out.name} will not.")

        # one picture after the other
        try:
            for index, seed in enumerate(seeds):
                start = time.perf_counter()
                picture = sample(pipe, request, seed)
                request = replace(request, width=picture.width, height=picture.height)
                path = names.path(index, seed)
                text = picture_text(request, seed, weights)
                save_picture(picture, path, text if names.carry_text else None)
                seconds = round(time.perf_counter() - start, 2)
                made.append({"path": str(path), "seed": seed, "seconds": seconds})
                if format == "text":
                    note(f"seed {seed}, {seconds} s")
                    typer.echo(path)
        except KeyboardInterrupt:
            interrupted = True
            note(f"Interrupted: {len(made)} of {num} pictures are finished and kept.")

    if format == "json":
        print_json({"request": asdict(request), "pictures": made, "interrupted": interrupted})
    if interrupted:
        raise typer.Exit(130)


def load_pipeline(folder: Path, sampler: str | None) -> "TextToImagePipeline":
    from accelerate import PartialState

    from pipelines.text_to_image import TextToImagePipeline
    from t2i.denoiser.schedulers import scheduler
    from t2i.denoiser.weights import read_json

    parts = {}
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


def sample(pipe: "TextToImagePipeline", request: "Request", seed: int) -> "Image":
    import torch

    assert request.num_inference_steps is not None
    assert request.guidance_scale is not None
    # disable=None: no bar where nobody watches, as in a file or a pipe.
    bar = {"desc": f"seed {seed}", "disable": None, "leave": False}
    pipe.set_progress_bar_config(**bar)  # type: ignore[no-untyped-call]  # has no types
    pictures: list[Image] = pipe(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
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
