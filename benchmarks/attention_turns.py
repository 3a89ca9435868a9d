"""Runs that take turns in one process, so that what else the machine does hits all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def in_turns(
    variants: Mapping[str, Callable[[], Tensor]], rounds: int, warm_up: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Seconds of each turn by each clock, compared with the first variant; and what came out.

    Who goes first alternates.
    """
    seconds: dict[str, dict[str, list[float]]] = {
        clock: {name: [] for name in variants} for clock in CLOCKS
    }
    made: dict[str, Tensor] = {}
    for turn in range(warm_up + rounds):
        for name in list(variants)[:: 1 if turn % 2 else -1]:
            starts = {clock: read() for clock, read in CLOCKS.items()}
            made[name] = variants[name]().cpu()  # waits for a GPU
            for clock, read in CLOCKS.items():
                if turn >= warm_up:
                    seconds[clock][name].append(read() - starts[clock])
    return {clock: compare(times) for clock, times in seconds.items()}, made


def compare(seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    """Medians, each one's ratio to the first, and how far the ratios of single rounds stray."""
    base = next(iter(seconds))
    table: dict[str, Any] = {}
    for name, times in seconds.items():
        ratios = [own / plain for own, plain in zip(times, seconds[base], strict=True)]
        table[name] = {
            "median_seconds": statistics.median(times),
            "ratio_of_medians": statistics.median(times) / statistics.median(seconds[base]),
            "ratio_of_fastest": min(times) / min(seconds[base]),
            "ratio_of_rounds": [min(ratios), statistics.median(ratios), max(ratios)],
            "seconds": times,
        }
    halves = [statistics.median(half) for half in (seconds[base][::2], seconds[base][1::2])]
    return table | {"first_to_itself": halves[0] / halves[1]}
