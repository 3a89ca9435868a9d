"""Time and memory of an editing method relative to the same pictures without it."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from t2i.evaluate.editing.records import CostRecord

MEMORY_STEPS = 4
"""Steps of a run whose memory is watched, as watching takes long; more steps hold no more."""
LEVEL, SILENT = "KINETO_LOG_LEVEL", "99"
"""A level of messages that there is none of."""
DrawFunction = Callable[[int], object]
"""Makes a run of so many steps."""


def measure_relative_cost(
    method: str,
    plain: DrawFunction,
    edited: DrawFunction,
    steps: int,
    rounds: int,
    device: torch.device,
) -> CostRecord:
    """Measure the time and memory of a run with an edit, relative to one without it.

    Both are timed in turns, so that other load on the machine affects both.
    """
    few = min(MEMORY_STEPS, steps)
    extra = measure_peak_bytes(partial(edited, few), device) - measure_peak_bytes(
        partial(plain, few), device
    )
    both = partial(plain, steps), partial(edited, steps)
    times = [time_plain_and_edited(*both, device) for _ in range(rounds)]
    ratios = [round(edited_seconds / seconds, 4) for seconds, edited_seconds in times]
    return CostRecord(method=method, time=ratios, extra_bytes=extra)


def time_plain_and_edited(
    plain: Callable[[], object], edited: Callable[[], object], device: torch.device
) -> tuple[float, float]:
    """Return the seconds of a run without and with an edit; on the CPU processor time."""
    seconds = []
    for draw in (plain, edited):
        clock = time.process_time if device.type == "cpu" else time.perf_counter
        begun = clock()
        draw()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(clock() - begun)
    return seconds[0], seconds[1]


@contextmanager
def silence_profiler() -> Iterator[None]:
    """Silence the messages of torch's profiler on stderr within the block."""
    asked = LEVEL in os.environ
    os.environ.setdefault(LEVEL, SILENT)
    try:
        yield
    finally:
        if not asked:
            del os.environ[LEVEL]


def measure_peak_bytes(draw: Callable[[], object], device: torch.device) -> int:
    """Return the largest number of bytes that torch held at once during a function call."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        draw()
        return int(torch.cuda.max_memory_allocated(device)) - before

    with (
        silence_profiler(),
        torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile,
    ):
        draw()
    held = most = 0
    changes = [
        event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        most = max(most, held)
    return int(most)
