"""One run of one side of `benchmarks/train.py`, in a process of its own.

python -m benchmarks.train_side STARTED NOTE WATCH t2i train CONFIG ...
python -m benchmarks.train_side STARTED NOTE WATCH SCRIPT.py --pretrained_model_name_or_path ...

The command runs as it is, to its end; what is measured goes to the file NOTE. Both sides are timed
by one clock, which torch itself rings after every step of an optimizer; STARTED is when whoever
started the process did so. WATCH = frozen times the frozen encoders too, which costs a little.
"""

import atexit
import builtins
import itertools
import json
import runpy
import statistics
import sys
import time
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.memory import own_peak

WARM_UP = 2
"""Steps that no rate is taken from: memory is laid out in the first, moments in the second."""


class Clock:
    """Seconds by the wall and of this process, from its start to the end of each step.

    first : when the denoiser was called for the first time
    frozen : seconds of this process in the frozen encoders, and the step's number before
    """

    def __init__(self, started: float, note: Path) -> None:
        self.started, self.note = started, note
        self.first: tuple[float, float] | None = None
        self.done: list[tuple[float, float]] = []
        self.frozen: list[tuple[int, float]] = []
        self.peak = 0.0
        self._unset = register_module_forward_pre_hook(self._begin)
        register_optimizer_step_post_hook(self._step)

    def now(self) -> tuple[float, float]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.time() - self.started, time.process_time()

    def _begin(self, module: torch.nn.Module, _inputs: object) -> None:
        if type(module).__name__ == "UNet2DConditionModel":
            self.first = self.now()
            self._unset.remove()

    def _step(self, *_: object) -> None:
        self.done.append(self.now())
        self.peak = peak()

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def watched(*arguments: Any, **named: Any) -> Any:
            before = self.now()[1]
            result = call(*arguments, **named)
            self.frozen.append((len(self.done), self.now()[1] - before))
            return result

        return watched

    def write(self) -> None:
        """The figures of the run, as JSON."""
        assert self.first is not None
        rung = self.done[WARM_UP - 1 :]
        wall, cpu = (
            [after[i] - before[i] for before, after in itertools.pairwise(rung)] for i in range(2)
        )
        figures = {
            "steps": len(self.done),
            "start_up_s": self.first[0],
            "start_up_cpu_s": self.first[1],
            "step_s": statistics.median(wall),
            "step_cpu_s": statistics.median(cpu),
            "peak_mib": self.peak,
            "peak_to_the_end_mib": peak(),
            "whole_s": self.now()[0],
            "whole_cpu_s": self.now()[1],
        }
        if self.frozen:
            spent = sum(seconds for step, seconds in self.frozen if step >= WARM_UP)
            figures["frozen_share"] = spent / sum(cpu)
        self.note.write_text(json.dumps(figures))


def peak() -> float:
    """MiB at most, of the process or on a GPU of its allocator."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return own_peak()


def watch_frozen(clock: Clock) -> None:
    """Time what encodes pictures and captions."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

    AutoencoderKL.encode = clock.timed(AutoencoderKL.encode)  # type: ignore[method-assign]
    CLIPTextModel.forward = clock.timed(CLIPTextModel.forward)  # type: ignore[method-assign]


def run_script(script: str) -> None:
    """Run a script as `python SCRIPT` would, unmodified.

    Where torchvision is missing the script, and nothing else in the process, is given
    `benchmarks.train_transforms` for it: libraries that look for torchvision must not find it.
    """

    def import_(name: str, *arguments: Any, **named: Any) -> Any:
        if name != "torchvision":
            return builtins.__import__(name, *arguments, **named)
        from benchmarks import train_transforms

        return SimpleNamespace(transforms=train_transforms)

    own: dict[str, Any] = dict(vars(builtins))
    if missing_torchvision():
        own["__import__"] = import_
    runpy.run_path(script, init_globals={"__builtins__": own}, run_name="__main__")


def missing_torchvision() -> bool:
    return find_spec("torchvision") is None


def main() -> None:
    started, note, watch, *command = sys.argv[1:]
    clock = Clock(float(started), Path(note))
    if watch == "frozen":
        watch_frozen(clock)
    atexit.register(clock.write)
    sys.argv = command
    if command[0] == "t2i":
        runpy.run_module("t2i.cli", run_name="__main__", alter_sys=True)
    else:
        run_script(command[0])


if __name__ == "__main__":
    main()
