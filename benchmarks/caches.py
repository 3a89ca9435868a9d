"""What caches of a run save and change: the time of a run without decoding, and its latents.

python -m benchmarks.caches [--model embedded] [--out benchmarks/results/caches.json]
python -m benchmarks.caches --model sd1 --steps 50 --cache deep:every=3 --cache cross+cfg:stop=0.4

All runs are in one process, with one model and one noise, and take turns: a ratio is that of a run
and the plain one of the same turn, and `plain again` is how far two equal runs lie apart. Choices
joined by "+" are used together; what is no cache is a guidance method, as T-GATE drops guidance
after its gate. `--model sd1`, `sd2` and `sdxl` have the published sizes with random weights: of
these the latents say nothing.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.generate import pipeline_pair
from benchmarks.machine import collect_environment_info, settle, write_result
from t2i.conditioning.guidance_registry import parse_guidance
from t2i.denoiser.caches.registry import CACHES, parse_cache

PROMPT = "a red apple to the left of a cat"
GUIDANCE = 5.0
PLAIN, AGAIN = "plain", "plain again"
CHOSEN = (
    *("deep:every=2", "deep:every=3", "deep:every=3,schedule=power", "deep:every=5"),
    *("deep:every=3,branch=1", "cross:after=0.4", "cross:after=0.4+cfg:stop=0.4"),
)


def build_arguments(choice: str) -> dict[str, Any]:
    """The arguments of a call that a choice stands for."""
    if choice in (PLAIN, AGAIN):
        return {"guidance_scale": GUIDANCE}
    parts = choice.split("+")
    caches = [part for part in parts if part.partition(":")[0] in CACHES]
    others = [part for part in parts if part not in caches]
    arguments: dict[str, Any] = {"cache": [parse_cache(part) for part in caches]}
    if others:
        return arguments | {"guidance": parse_guidance("+".join(others), GUIDANCE)}
    return arguments | {"guidance_scale": GUIDANCE}


def draw(pipe: Any, choice: str, options: argparse.Namespace) -> Tensor:
    """Latents, (B, C, H, W)."""
    latents: Tensor = pipe(
        PROMPT,
        num_inference_steps=options.steps,
        num_images_per_prompt=options.num,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        height=options.size,
        width=options.size,
        **build_arguments(choice),
    ).images
    return latents.float().cpu()


def measure(pipe: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each choice as shares of the plain run's, and how far its latents lie from it."""
    choices = [PLAIN, AGAIN, *(options.cache or CHOSEN)]
    clock = time.perf_counter if options.device == "cuda" else time.process_time
    first = {choice: draw(pipe, choice, options) for choice in choices}  # these warm up, too
    seconds: dict[str, list[float]] = {choice: [] for choice in choices}
    for turn in range(options.rounds):
        for choice in choices[:: 1 if turn % 2 else -1]:
            start = clock()
            draw(pipe, choice, options)
            seconds[choice].append(clock() - start)
    table: dict[str, Any] = {}
    for choice in choices:
        ratios = [a / b for a, b in zip(seconds[choice], seconds[PLAIN], strict=True)]
        change = (first[choice] - first[PLAIN]).norm() / first[PLAIN].norm()
        table[choice] = {
            "median_seconds": statistics.median(seconds[choice]),
            "ratio": statistics.median(ratios),
            "ratio_of_rounds": [min(ratios), max(ratios)],
            "relative_change_of_latents": float(change),
        }
    return table


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--cache", action="append", metavar="CACHE[+CACHE|METHOD]")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, help="pixels of a side; by default the model's")
    parser.add_argument("--num", type=int, default=1, help="pictures at a time")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    settle(options.threads)
    table = measure(pipeline_pair(options)["ours"], options)
    print(f"{'choice':34}{'time/plain':>11}{'latents change by':>19}   rounds")
    for choice, row in table.items():
        low, high = row["ratio_of_rounds"]
        print(
            f"{choice:34}{row['ratio']:11.3f}{row['relative_change_of_latents']:19.2%}"
            f"   {low:.3f} to {high:.3f}"
        )
    if options.out:
        asked = {key: value for key, value in vars(options).items() if key != "out"}
        asked["cache"] = list(options.cache or CHOSEN)
        write_result(
            options.out, {"asked": asked, "choices": table, "machine": collect_environment_info()}
        )


if __name__ == "__main__":
    main()
