"""Processes of their own, for what a process can do once: its peak memory, or other libraries."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from benchmarks.memory import forget_peak, own_peak

REPO = Path(__file__).resolve().parent.parent
ASKED = ("model", "steps", "guidance", "dtype", "device", "threads")


def child(
    module: str,
    options: argparse.Namespace,
    more: Mapping[str, object],
    libraries: Path | None = None,
) -> dict[str, Any]:
    """What a benchmark answers in its last line, run with further libraries before all others."""
    arguments = [sys.executable, "-m", module]
    for key in ASKED:
        arguments += [f"--{key}", str(getattr(options, key))]
    if options.size:
        arguments += ["--size", str(options.size)]
    for key, value in more.items():
        arguments += [f"--{key}", str(value)]
    paths = [str(path) for path in (libraries, REPO) if path is not None]
    here = {"PYTHONPATH": os.pathsep.join(filter(None, [*paths, os.environ.get("PYTHONPATH")]))}
    if libraries is not None:  # what they cache goes beside them
        here["XDG_CACHE_HOME"] = str(libraries.parent / "cache")
    answer = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | here)
    if answer.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{answer.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def own_memory(run: Callable[[], Tensor], device: str) -> None:
    """Print the peak of this process while it runs, and what of it the run has added."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
        run()
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        forget_peak()
        before = psutil.Process().memory_info().rss / 2**20
        run()
        peak = own_peak()
    print(json.dumps({"peak_mib": peak, "loaded_mib": before, "run_mib": peak - before}))
