"""How many scenes a second one core composes.

python -m benchmarks.scenes [--size 128] [--scenes 3000] [--out benchmarks/results/scenes.json]
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

from benchmarks.machine import collect_environment_info, write_result
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig

ROUNDS = 5


def rate(config: SceneDatasetConfig, scenes: int) -> dict[str, float]:
    """Scenes a second: median, slowest and fastest of the rounds, sprites decoded beforehand."""
    data = SceneDataset(config)
    for index in range(scenes):
        data.read(index)
    rates = []
    for turn in range(ROUNDS):
        start = time.perf_counter()
        for index in range(turn * scenes // ROUNDS, (turn + 1) * scenes // ROUNDS):
            data.read(scenes + index)
        rates.append(scenes / ROUNDS / (time.perf_counter() - start))
    return {"median": statistics.median(rates), "slowest": min(rates), "fastest": max(rates)}


def first_scene(config: SceneDatasetConfig) -> float:
    """Seconds from nothing to the first scene: reading the lists, decoding its sprites."""
    start = time.perf_counter()
    SceneDataset(config).read(0)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--scenes", type=int, default=3000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    core = SceneDatasetConfig(size=options.size)
    everything = SceneDatasetConfig(size=options.size, vocabulary="all")
    result = {
        "size": options.size,
        "scenes": options.scenes,
        "first_scene_seconds": first_scene(core),
        "scenes_per_second": {
            "core": rate(core, options.scenes),
            "all": rate(everything, options.scenes),
        },
        "machine": collect_environment_info(),
    }
    print(json.dumps(result, indent=1))
    if options.out is not None:
        write_result(options.out, result)


if __name__ == "__main__":
    main()
