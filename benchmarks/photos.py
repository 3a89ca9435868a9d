"""Rows and time of inverting a photo and of editing its recording, against an edit without one.

python -m benchmarks.photos [--model embedded] [--out benchmarks/results/photos.json]
python -m benchmarks.photos --method direct --method null-text:inner_steps=5

`beside` generates source and target in one batch from the same noise, and `path` is the inversion
alone: together they are the first edit of a photo without a recording. null-text, which optimises
for long, is measured on request only. All runs take turns in one process and are compared by
processor time (by the clock on a GPU). Rows are those of the denoiser's batches.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmarks.attention_turns import in_turns
from benchmarks.machine import collect_environment_info, settle, write_result
from pipelines.images.photo import prepare_photo
from pipelines.inversion.methods import INVERSION_METHODS, parse_method
from pipelines.inversion.noise_levels import build_noise_levels
from pipelines.prompt_to_prompt.edit_run import find_image_size
from pipelines.prompt_to_prompt.inverted_source import (
    PipelineInversionRun,
    encode_pixels_to_mean_latents,
)
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.prompt_to_prompt.recorded_source import RecordedSource
from t2i.evaluate.denoiser_row_counts import recording_denoiser_row_counts

PHOTO = Path(__file__).resolve().parent.parent / "docs/images/photo.png"
SOURCE = "a tree to the left of a cat on a blue background"
TARGET = "a tree to the left of a dog on a blue background"
Result = TypeVar("Result")
MOST = 0.65
"""Most of the time of a first edit without a recording that an edit of a recording should take."""


def invert(pipe: PromptEditPipeline, method: str, options: argparse.Namespace) -> RecordedSource:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how well a method does is measured by t2i evaluate
        return pipe.invert(
            PHOTO,
            SOURCE,
            method,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            seed=0,
        )


def invert_pixels(pipe: PromptEditPipeline, method: str, options: argparse.Namespace) -> Tensor:
    return invert(pipe, method, options).pixels


def compute_source_latents_path(
    pipe: PromptEditPipeline, method: str, options: argparse.Namespace
) -> Tensor:
    chosen = parse_method(method)
    with torch.no_grad():
        clean = encode_pixels_to_mean_latents(
            pipe, prepare_photo(PHOTO, *find_image_size(pipe, None, None)).pixels
        )
        run = PipelineInversionRun(
            pipe,
            SOURCE,
            {"guidance_scale": options.guidance}
            | chosen.build_guidance_arguments(SOURCE, options.guidance),
            build_noise_levels(pipe.scheduler, options.steps),
            clean,
            torch.Generator().manual_seed(0),
        )
        return chosen.compute_source_latents_path(run).latents[0]


def edit_recording(pipe: PromptEditPipeline, source: RecordedSource) -> Tensor:
    images: Tensor = pipe(source, TARGET, output_type="pt").images
    return images


def edit_beside(pipe: PromptEditPipeline, options: argparse.Namespace) -> Tensor:
    images: Tensor = pipe(
        SOURCE,
        TARGET,
        seed=0,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        output_type="pt",
    ).images
    return images


def count_rows(pipe: PromptEditPipeline, run: Callable[[], Result]) -> tuple[int, Result]:
    with recording_denoiser_row_counts(pipe.unet) as rows:
        result = run()
    return sum(rows), result


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="embedded")
    parser.add_argument(
        "--method", action="append", help="of inversion; all but null-text by default"
    )
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("two rounds at least tell how noisy the machine is")
    return options


def main() -> None:
    options = parse()
    settle(options.threads)
    pipe = PromptEditPipeline.from_pretrained(options.model).to(options.device)
    pipe.set_progress_bar_config(disable=True)
    methods = options.method or [name for name in INVERSION_METHODS if name != "null-text"]

    # the rows of a first run of each, which warms up, too
    runs: dict[str, Callable[[], Tensor]] = {"beside": partial(edit_beside, pipe, options)}
    rows = {"beside": count_rows(pipe, runs["beside"])[0]}
    for method in methods:
        inverting, editing = f"invert {method}", f"edit {method}"
        rows[inverting], source = count_rows(pipe, partial(invert, pipe, method, options))
        runs[inverting] = partial(invert_pixels, pipe, method, options)
        runs[f"path {method}"] = partial(compute_source_latents_path, pipe, method, options)
        rows[f"path {method}"] = count_rows(pipe, runs[f"path {method}"])[0]
        runs[editing] = partial(edit_recording, pipe, source)
        rows[editing] = count_rows(pipe, runs[editing])[0]
    clocks, _ = in_turns(runs, options.rounds, warm_up=0)
    times = clocks["wall" if options.device == "cuda" else "cpu"]

    table: dict[str, Any] = {}
    print(f"beside: {rows['beside']} rows, {times['beside']['median_seconds']:.2f} s")
    heads = f"{'path':>8}{'invert':>8}{'/beside':>9}{'edit':>7}{'/beside':>9}"
    print(f"{'rows of':16}{heads}{'second/first':>14}   rounds; at most {MOST} is meant")
    for method in methods:
        path, inverting, editing = (
            {"rows": rows[name], **times[name]}
            for name in (f"path {method}", f"invert {method}", f"edit {method}")
        )
        parts = zip(times["beside"]["seconds"], path["seconds"], editing["seconds"], strict=True)
        rounds = sorted(edit / (beside + found) for beside, found, edit in parts)
        second = statistics.median(rounds)
        table[method] = {"path": path, "invert": inverting, "edit": editing}
        table[method]["second_edit_to_first_without_recording"] = second
        print(
            f"{method:16}{path['rows']:8}{inverting['rows']:8}{inverting['ratio_of_medians']:9.2f}"
            f"{editing['rows']:7}{editing['ratio_of_medians']:9.2f}{second:14.2f}"
            f"   {rounds[0]:.2f} to {rounds[-1]:.2f}{'' if second <= MOST else ', TOO MUCH'}"
        )
    if options.out:
        asked = {key: value for key, value in vars(options).items() if key not in ("out", "method")}
        beside = {"rows": rows["beside"], **times["beside"]}
        write_result(
            options.out,
            {
                "asked": asked | {"source": SOURCE, "target": TARGET},
                "beside": beside,
                "first_to_itself": times["first_to_itself"],
                "methods": table,
                "machine": collect_environment_info(),
            },
        )


if __name__ == "__main__":
    main()
