"""What a user may switch on, against the plain pipeline: time of a picture, and how it changes.

python -m benchmarks.modes [--model embedded] [--out benchmarks/results/modes.json]
python -m benchmarks.modes --mode compile --mode channels_last

All modes live in one process, each with a model of its own, and take turns. `compile` is left out
unless it is asked for: it needs a compiler and minutes before the first picture.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.machine import collect_environment_info, settle, write_result
from pipelines.text_to_image import TextToImagePipeline
from t2i.conditioning.guidance_registry import parse_guidance

PROMPT = "a red apple to the left of a cat"
GUIDANCE = 5.0


def channels_last(pipe: Any) -> None:
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)


def bfloat16(pipe: Any) -> None:
    pipe.to(torch.bfloat16)


def attention_slices(pipe: Any) -> None:
    pipe.enable_attention_slicing(1)


def vae_slices(pipe: Any) -> None:
    pipe.vae.enable_slicing()


def compiled(pipe: Any) -> None:
    pipe.unet.compile()


def nothing(pipe: Any) -> None:
    pass


SWITCHES: dict[str, Callable[[Any], None]] = {
    "plain": nothing,
    "plain again": nothing,
    "channels_last": channels_last,
    "bfloat16": bfloat16,
    "attention_slices": attention_slices,
    "vae_slices": vae_slices,
    "math_kernel": nothing,
    "interval": nothing,
    "compile": compiled,
}
"""`plain again` tells how noisy the machine is."""


def draw(pipe: Any, mode: str, options: argparse.Namespace) -> Tensor:
    call: dict[str, Any] = {"guidance_scale": GUIDANCE}
    if mode == "interval":
        call = {"guidance": parse_guidance("cfg:stop=0.5", GUIDANCE)}
    kernel = sdpa_kernel(SDPBackend.MATH) if mode == "math_kernel" else nullcontext()
    with kernel:
        pixels: Tensor = pipe(
            PROMPT,
            **call,
            num_inference_steps=options.steps,
            num_images_per_prompt=options.num,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images
    return pixels.float()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--mode", action="append", choices=list(SWITCHES)[1:])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--num", type=int, default=1, help="pictures at a time")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    settle(options.threads)
    chosen = options.mode or [mode for mode in SWITCHES if mode not in ("plain", "compile")]
    modes = ["plain", *(mode for mode in chosen if mode != "plain")]
    clock = time.perf_counter if options.device == "cuda" else time.process_time

    pipes: dict[str, Any] = {}
    first: dict[str, Tensor] = {}
    first_seconds: dict[str, float] = {}
    for mode in modes:
        pipes[mode] = TextToImagePipeline.from_pretrained(options.model).to(options.device)
        pipes[mode].set_progress_bar_config(disable=True)
        SWITCHES[mode](pipes[mode])
        start = clock()
        first[mode] = draw(pipes[mode], mode, options).cpu()
        first_seconds[mode] = clock() - start

    seconds: dict[str, list[float]] = {mode: [] for mode in modes}
    for turn in range(options.rounds):
        for mode in modes[:: 1 if turn % 2 else -1]:
            start = clock()
            draw(pipes[mode], mode, options).cpu()
            seconds[mode].append(clock() - start)

    table: dict[str, Any] = {}
    print(f"{'mode':18}{'time/plain':>11}{'first s':>9}{'pixels change by':>18}   rounds")
    for mode in modes:
        ratios = [a / b for a, b in zip(seconds[mode], seconds["plain"], strict=True)]
        medians = [statistics.median(seconds[name]) for name in (mode, "plain")]
        table[mode] = {
            "median_seconds": medians[0],
            "ratio_of_medians": medians[0] / medians[1],
            "ratio_of_rounds": [min(ratios), statistics.median(ratios), max(ratios)],
            "first_picture_seconds": first_seconds[mode],
            "largest_change_of_a_pixel": (first[mode] - first["plain"]).abs().max().item(),
        }
        row = table[mode]
        print(
            f"{mode:18}{row['ratio_of_medians']:11.3f}{row['first_picture_seconds']:9.2f}"
            f"{row['largest_change_of_a_pixel']:18.1e}   {min(ratios):.3f} to {max(ratios):.3f}"
        )
    if options.out:
        asked = {key: value for key, value in vars(options).items() if key not in ("out", "mode")}
        write_result(
            options.out, {"asked": asked, "modes": table, "machine": collect_environment_info()}
        )


if __name__ == "__main__":
    main()
