"""What holds for a whole process: read, compared, and put back as it was.

The fixture of every test and the tests of what a run leaves behind look at the same settings.
"""

import gc
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import huggingface_hub.utils as hub
import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image, ImageFile
from torch import distributed
from torch.nn import functional
from torch.nn.modules import module as hooks

Values = dict[str, Any]
SPEAKERS = (None, "accelerate", "diffusers", "huggingface_hub", "PIL", "torch", "transformers")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Without SIGALRM, which pytest-timeout holds and lets go when a test fails."""
IMPORTED = "modules that are imported"
CHANGING = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR")
"""Nobody's doing: what pytest sets for each test, and torch when inductor is first imported."""

freezes = 0
"""Calls of `gc.freeze` since the last `gc.unfreeze`: to count the frozen objects takes 60 ms."""


@dataclass(frozen=True, slots=True)
class Setting:
    read: Callable[[], Any]
    write: Callable[[Any], object] | None = None
    """None for what can only be looked at."""


def attribute(owner: object, name: str) -> Setting:
    return Setting(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def shared(kind: Any) -> Setting:
    def write(state: Mapping[str, Any]) -> None:
        kind._shared_state.clear()
        kind._shared_state.update(state)

    return Setting(lambda: dict(kind._shared_state), write)


def level(name: str | None) -> Setting:
    logger = logging.getLogger(name)
    return Setting(lambda: logger.level, logger.setLevel)


def handler(number: signal.Signals) -> Setting:
    return Setting(lambda: signal.getsignal(number), lambda value: signal.signal(number, value))


def variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in CHANGING}


def set_variables(values: Mapping[str, str]) -> None:
    for name in variables().keys() - values.keys():
        del os.environ[name]
    os.environ.update(values)


def set_bars(disabled: bool) -> None:
    (hub.disable_progress_bars if disabled else hub.enable_progress_bars)()


def bars(library: str) -> Setting:
    """Of a library that may not have been imported yet."""

    def speech() -> Any:
        return sys.modules.get(f"{library}.utils.logging")

    def write(wanted: bool | None) -> None:
        if wanted is not None:
            speech()._tqdm_active = wanted

    return Setting(lambda: getattr(speech(), "_tqdm_active", None), write)


def recompile_limit() -> int | None:
    dynamo: Any = sys.modules.get("torch._dynamo.config")
    return None if dynamo is None else dynamo.recompile_limit


def set_recompile_limit(limit: int | None) -> None:
    if limit is not None:
        sys.modules["torch._dynamo.config"].recompile_limit = limit  # type: ignore[attr-defined]


def threads() -> list[str]:
    """Those that keep the process from ending; workers of a pool end when the pool is forgotten."""
    return sorted(
        thread.name
        for thread in threading.enumerate()
        if not thread.daemon and not thread.name.startswith("ThreadPoolExecutor")
    )


def watch_freezing() -> None:
    """Let `freezes` count from now on."""
    freeze, unfreeze = gc.freeze, gc.unfreeze

    def counted_freeze() -> None:
        global freezes
        freezes += 1
        freeze()

    def counted_unfreeze() -> None:
        global freezes
        freezes = 0
        unfreeze()

    gc.freeze, gc.unfreeze = counted_freeze, counted_unfreeze


def freeze_imports() -> None:
    """Exempt what exists from garbage collection, and nothing that is garbage by now.

    The imports make half a million objects that stay. Searching them, each time a run drops its
    encoders, took a fifth of the processor time of training's tests.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def set_filters(filters: list[Any]) -> None:
    warnings.filters[:] = filters  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


SETTINGS = {
    "Accelerate's processes": shared(PartialState),
    "Accelerate's precision": shared(AcceleratorState),
    "Accelerate's accumulation": shared(GradientState),
    "a process group": Setting(
        distributed.is_initialized,
        lambda standing: standing or distributed.destroy_process_group(),
    ),
    "torch's default dtype": Setting(torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": Setting(torch.get_default_device),
    "torch's threads": Setting(torch.get_num_threads, torch.set_num_threads),
    "torch's deterministic algorithms": Setting(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms
    ),
    "torch's precision of products": Setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    ),
    "torch's gradients": Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's autocast": Setting(lambda: torch.is_autocast_enabled("cpu")),
    "cudnn.benchmark": attribute(torch.backends.cudnn, "benchmark"),
    "cudnn.deterministic": attribute(torch.backends.cudnn, "deterministic"),
    "torch's recompile limit": Setting(recompile_limit, set_recompile_limit),
    "torch's attention": attribute(functional, "scaled_dot_product_attention"),
    "torch's hooks of every module": Setting(
        lambda: {
            name: len(found)
            for name, found in vars(hooks).items()
            if name.startswith("_global_") and isinstance(found, dict)
        }
    ),
    "the environment": Setting(variables, set_variables),
    "the working folder": Setting(os.getcwd, os.chdir),
    **{f"the log level of {name or 'everything'}": level(name) for name in SPEAKERS},
    "logging.disable": attribute(logging.root.manager, "disable"),
    "bars of huggingface_hub": Setting(hub.are_progress_bars_disabled, set_bars),
    "bars of diffusers": bars("diffusers"),
    "bars of transformers": bars("transformers"),
    "warnings.filters": Setting(lambda: list(warnings.filters), set_filters),
    "warnings.showwarning": attribute(warnings, "showwarning"),
    **{f"the handler of {number.name}": handler(number) for number in SIGNALS},
    "thresholds of garbage": Setting(gc.get_threshold, lambda found: gc.set_threshold(*found)),
    "whether garbage is searched": Setting(
        gc.isenabled, lambda wanted: gc.enable() if wanted else gc.disable()
    ),
    "freezes of objects": Setting(lambda: freezes, lambda _: freeze_imports()),
    "Pillow's largest picture": attribute(Image, "MAX_IMAGE_PIXELS"),
    "Pillow's cut pictures": attribute(ImageFile, "LOAD_TRUNCATED_IMAGES"),
    "numpy's errors": Setting(np.geterr, lambda found: np.seterr(**found)),
    "the depth of recursion": Setting(sys.getrecursionlimit, sys.setrecursionlimit),
    "sys.excepthook": attribute(sys, "excepthook"),
    "our finders of modules": Setting(
        lambda: [found for found in sys.meta_path if type(found).__module__.startswith("t2i")]
    ),
    "threads that keep the process": Setting(threads),
}


def settings() -> Values:
    found = {name: setting.read() for name, setting in SETTINGS.items()}
    return found | {IMPORTED: len(sys.modules)}


def changes(before: Values, after: Values) -> list[str]:
    """What is not as before, in words.

    What a library sets when it is first imported is no change.
    """
    told = []
    imported = after[IMPORTED] > before[IMPORTED]
    for name, value in before.items():
        now = after[name]
        if name == IMPORTED:
            continue
        if name == "warnings.filters" and imported:
            now = [one for one in now if one in value]  # libraries add their own
        if name.startswith("the log level") and imported and value == logging.NOTSET:
            continue  # nor had the library set it
        if value == now or (value is None and name.startswith(("bars", "torch's recompile"))):
            continue
        if isinstance(value, dict):
            keys = [key for key in {**value, **now} if value.get(key) != now.get(key)]
            told += [f"{name}: {key}: {value.get(key)!r} -> {now.get(key)!r}" for key in keys]
        else:
            told.append(f"{name}: {value!r} -> {now!r}")
    return told


def paste_edit(before: Values) -> None:
    for name, setting in SETTINGS.items():
        value = before[name]
        if setting.write is not None and setting.read() != value:
            setting.write(value)
