"""Time and memory of our pipeline against diffusers' own, on the same weights.

python -m benchmarks.generate [--model embedded] [--out benchmarks/results/generate.json]
python -m benchmarks.generate --model sdxl --dtype bfloat16 --size 256 --steps 2 --rounds 3

`--model sd1`, `sd2` and `sdxl` are of the published sizes, with random weights: nothing is
downloaded. --guidance-method measures what a method of docs/guidance.md saves or costs.

Both run in one process around the very same parts, turn and turn about, so that what else the
machine does hits both alike. Memory is the peak of a process of each one's own (on a GPU: of its
allocator).
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from benchmarks.machine import collect_environment_info, settle, write_result
from pipelines.text_to_image import TextToImagePipeline
from t2i.conditioning.guidance_registry import parse_guidance
from t2i.denoiser.loading.model_location import ASSETS
from t2i.denoiser.loading.weight_checks import read_json_object
from t2i.text.bpe import build_clip_tokenizer, load_vocabulary_and_merges

REPO = Path(__file__).resolve().parent.parent
PROMPT = "a red apple to the left of a cat"
SHAPES = ("sd1", "sd2", "sdxl")


def pipeline_pair(options: argparse.Namespace) -> dict[str, Any]:
    """Ours, and theirs around the same parts (Any: diffusers' types know neither call)."""
    dtype = getattr(torch, options.dtype)
    if options.model in SHAPES:
        ours = TextToImagePipeline(**shaped(options.model, dtype)).to(options.device)
    else:
        ours = TextToImagePipeline.from_pretrained(options.model, dtype=dtype).to(options.device)
    parts = {name: part for name, part in ours.components.items() if part is not None}
    if "text_encoder_2" in parts:
        theirs: Any = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        absent: dict[str, Any] = {"safety_checker": None, "feature_extractor": None}
        theirs = StableDiffusionPipeline(**parts, **absent, requires_safety_checker=False)
    pipes: dict[str, Any] = {"ours": ours, "theirs": theirs}
    for pipe in pipes.values():
        pipe.set_progress_bar_config(disable=True)
    return pipes


def shaped(name: str, dtype: torch.dtype) -> dict[str, Any]:
    """The parts of a model of a published size, with random weights and our own vocabulary."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # made in float32 first, SDXL would need twice the memory
    try:
        return parts_of_shape(name, dtype)
    finally:
        torch.set_default_dtype(before)


def parts_of_shape(name: str, dtype: torch.dtype) -> dict[str, Any]:
    torch.manual_seed(0)
    folder = ASSETS / "single_file" / name
    tokenizer = build_clip_tokenizer(*load_vocabulary_and_merges(ASSETS / "tokenizer"), 77)
    parts: dict[str, Any] = {}
    for place in sorted(path for path in folder.iterdir() if path.name != "scheduler"):
        config = read_json_object(place / "config.json")
        if place.name.startswith("text_encoder"):
            kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
            parts[place.name] = kinds[place.name](CLIPTextConfig.from_dict(config))
            parts[place.name.replace("text_encoder", "tokenizer")] = tokenizer
        else:
            parts[place.name] = getattr(diffusers, config["_class_name"]).from_config(config)
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.to(dtype).eval()
    config = read_json_object(folder / "scheduler" / "scheduler_config.json")
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    return parts | {"scheduler": scheduler}


def picture(pipe: Any, options: argparse.Namespace) -> torch.Tensor:
    method: dict[str, Any] = {}
    if options.guidance_method and isinstance(pipe, TextToImagePipeline):
        method = {"guidance": parse_guidance(options.guidance_method, options.guidance)}
    images: torch.Tensor = pipe(
        PROMPT,
        **method,
        height=options.size,
        width=options.size,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        num_images_per_prompt=options.num,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images
    if images.is_cuda:
        torch.cuda.synchronize()
    return images


def measure_times(
    pipes: dict[str, Any], options: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """Seconds of each turn, by the clock and of this process alone; who goes first alternates."""
    clocks = {"wall": time.perf_counter, "cpu": time.process_time}
    seconds: dict[str, dict[str, list[float]]] = {
        clock: {name: [] for name in pipes} for clock in clocks
    }
    for turn in range(options.warm_up + options.rounds):
        for name in list(pipes)[:: 1 if turn % 2 else -1]:
            starts = {clock: read() for clock, read in clocks.items()}
            picture(pipes[name], options)
            if turn >= options.warm_up:
                for clock, read in clocks.items():
                    seconds[clock][name].append(read() - starts[clock])
    return seconds


def compare(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, their ratio, and how far the ratio of a single round strays."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rounds = [a / b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)]
    low, _, high = statistics.quantiles(rounds, n=4)
    halves = seconds["theirs"][::2], seconds["theirs"][1::2]
    return {
        "median_seconds": medians,
        "fastest_seconds": {name: min(times) for name, times in seconds.items()},
        "ratio_of_medians": medians["ours"] / medians["theirs"],
        "ratio_of_rounds_quartiles": [low, high],
        "ratio_theirs_to_itself": statistics.median(halves[0]) / statistics.median(halves[1]),
    }


def measure_memory(name: str, options: argparse.Namespace) -> float:
    """Peak MiB of a fresh process that makes one picture with one of the pipelines."""
    arguments = [sys.executable, __file__, "--memory-of", name]
    for key in ("model", "steps", "guidance", "num", "dtype", "device", "threads"):
        arguments += [f"--{key}", str(getattr(options, key))]
    if options.guidance_method:
        arguments += ["--guidance-method", options.guidance_method]
    if options.size:
        arguments += ["--size", str(options.size)]
    here = {"PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))}
    answer = subprocess.run(
        arguments, capture_output=True, text=True, check=True, env=os.environ | here
    )
    return float(answer.stdout.split()[-1])


def peak_of(name: str, options: argparse.Namespace) -> float:
    from benchmarks.memory import own_peak

    pipe = pipeline_pair(options)[name]
    picture(pipe, options)
    if options.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return own_peak()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--guidance-method", help="of ours only, such as cfg:stop=0.5")
    parser.add_argument("--num", type=int, default=1, help="pictures at a time")
    parser.add_argument("--size", type=int, help="height and width; the model's own by default")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warm-up", type=int, default=2, help="rounds that are not counted")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    settle(options.threads)
    if options.memory_of:
        print(peak_of(options.memory_of, options))
        return

    pipes = pipeline_pair(options)
    equal = torch.equal(picture(pipes["ours"], options), picture(pipes["theirs"], options))
    times = {clock: compare(s) for clock, s in measure_times(pipes, options).items()}
    names = list(pipes)
    pipes.clear()  # a large model would not fit beside the next one
    memory = {name: measure_memory(name, options) for name in names}
    asked = {key: value for key, value in vars(options).items() if key not in ("out", "memory_of")}
    asked["model"] = Path(options.model).name
    result: dict[str, Any] = {
        "asked": asked,
        "same_picture": equal,
        **times,
        "peak_mib": memory,
        "memory_ratio": memory["ours"] / memory["theirs"],
    }
    if options.out:
        write_result(options.out, result | {"machine": collect_environment_info()})

    print(f"{'':18}{'ours':>9}{'theirs':>9}{'ratio':>8}   rounds' middle half   theirs/itself")
    for clock, row in times.items():
        ours, theirs = row["median_seconds"]["ours"], row["median_seconds"]["theirs"]
        low, high = row["ratio_of_rounds_quartiles"]
        print(
            f"{clock + ' seconds':18}{ours:9.3f}{theirs:9.3f}{row['ratio_of_medians']:8.3f}"
            f"   {low:.3f} to {high:.3f}        {row['ratio_theirs_to_itself']:.3f}"
        )
    print(
        f"{'peak MiB':18}{memory['ours']:9.0f}{memory['theirs']:9.0f}{result['memory_ratio']:8.3f}"
    )
    print(f"pictures {'equal bit for bit' if equal else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
