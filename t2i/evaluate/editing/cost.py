"""Time and memory of an editing method relative to the same pictures without it."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from t2i.evaluate.editing.records import RelativeCostRecord

MEMORY_STEPS = 4
"""Steps of the run whose peak memory is measured: profiling is slow, and more steps use no more."""
LOG_LEVEL_VARIABLE, SILENT_LEVEL = "KINETO_LOG_LEVEL", "99"
"""Environment variable of the profiler's log level, and a level above that of any message."""
GenerateInSteps = Callable[[int], object]
"""Function that generates pictures in the number of sampling steps that it is given."""


def measure_relative_cost(
    method: str,
    plain: GenerateInSteps,
    edited: GenerateInSteps,
    steps: int,
    rounds: int,
    device: torch.device,
) -> RelativeCostRecord:
    """Measure the time ratios and the extra peak bytes of a run with an edit to one without it.

    Both are timed in turns, once in each round, so that other load on the machine affects both.
    """
    few = min(MEMORY_STEPS, steps)
    extra = measure_peak_bytes(partial(edited, few), device) - measure_peak_bytes(
        partial(plain, few), device
    )
    both = partial(plain, steps), partial(edited, steps)
    times = [time_run_without_and_with_edit(*both, device) for _ in range(rounds)]
    ratios = [round(edited_seconds / seconds, 4) for seconds, edited_seconds in times]
    return RelativeCostRecord(method=method, time=ratios, extra_bytes=extra)


def time_run_without_and_with_edit(
    plain: Callable[[], object], edited: Callable[[], object], device: torch.device
) -> tuple[float, float]:
    """Return the seconds of a run without an edit and of one with it; on a CPU, processor time."""
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
def silencing_profiler() -> Iterator[None]:
    """Silence the messages of torch's profiler on stderr within the block."""
    asked = LOG_LEVEL_VARIABLE in os.environ
    os.environ.setdefault(LOG_LEVEL_VARIABLE, SILENT_LEVEL)
    try:
        yield
    finally:
        if not asked:
            del os.environ[LOG_LEVEL_VARIABLE]


def measure_peak_bytes(draw: Callable[[], object], device: torch.device) -> int:
    """Return the largest number of bytes that torch held at once during a function call."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        draw()
        return int(torch.cuda.max_memory_allocated(device)) - before

    with (
        silencing_profiler(),
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
