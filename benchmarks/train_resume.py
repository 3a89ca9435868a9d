"""What stopping and going on changes: the difference to a run that was never stopped."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from benchmarks.train_folder import SHAPES
from benchmarks.train_runs import SIDES, Method, Run, Setting, measure

SHAPE, PICTURES, STEPS, STOP = "toy", 64, 20, 10
"""Half way, in the middle of the second epoch."""
PAIRS = (("lora_A", "lora_B"), ("lora.down", "lora.up"))
"""A LoRA's two matrices, as our checkpoints (and peft) and as diffusers' script call them."""

Change = dict[str, Tensor]


def compare_resumes(setting: Setting, methods: Sequence[Method]) -> dict[str, Any]:
    """Of each side, the difference relative to what the training changed.

    `again` is what the same run comes to a second time, without stopping: 0 where it is determined.
    """
    small = replace(setting, folder=setting.folder / "resume", shape=SHAPES[SHAPE])
    small.prepare(PICTURES)
    asked = {"shape": SHAPE, "pictures": PICTURES, "steps": STEPS, "stopped_at": STOP}
    figures = {
        method: {side: compare_resume(side, method, small) for side in SIDES} for method in methods
    }
    return {"asked": small.asked() | asked, "figures": figures}


def compare_resume(side: str, method: Method, setting: Setting) -> dict[str, float]:
    def run(name: str, steps: int, *, resume: bool = False) -> Run:
        out = setting.folder / f"resume-{method}-{side}-{name}"
        one = Run(side, method, steps, out, checkpoint_every=STOP)
        taken = measure(one, setting, resume=resume)["steps"]
        if resume and taken > STEPS - STOP:
            raise SystemExit(f"{method}  {side} did not go on from step {STOP}: it began anew.")
        return one

    straight = change(run("straight", STEPS), setting)
    again = change(run("again", STEPS), setting)
    run("stopped", STOP)
    resumed = change(run("stopped", STEPS, resume=True), setting)
    figures = {
        "difference": distance(resumed, straight) / norm(straight),
        "again": distance(again, straight) / norm(straight),
    }
    print(f"{method}  {side}, stopped at {STOP} of {STEPS} steps: {figures}", flush=True)
    return figures


def change(run: Run, setting: Setting) -> Change:
    """What the run changed, a layer at a time: weights themselves, or what a LoRA adds to them.

    A LoRA's two matrices are not compared one by one: what is drawn hangs on their product alone.
    """
    if run.side != "theirs":
        path = run.out / "checkpoints" / f"step-{run.steps:08d}" / "weights.safetensors"
    elif run.method == "full":
        path = run.out / "unet"
    else:
        path = run.out / "pytorch_lora_weights.safetensors"
    weights = {name.removeprefix("unet."): value for name, value in tensors(path).items()}
    if run.method == "full":
        before = tensors(setting.model / "unet")
        assert weights.keys() == before.keys()
        return {name: value.double() - before[name] for name, value in weights.items()}
    pairs = {
        name: name.replace(down, up)
        for down, up in PAIRS
        for name in weights
        if f".{down}." in name
    }
    if strange := weights.keys() - pairs.keys() - set(pairs.values()):
        known = " and ".join("/".join(pair) for pair in PAIRS)
        raise SystemExit(f"{min(strange)} in {path} is none of a LoRA's matrices ({known}).")
    return {
        down.partition(".lora")[0]: weights[up].double() @ weights[down].double()
        for down, up in pairs.items()
    }


def tensors(path: Path) -> dict[str, Tensor]:
    """Those of a file, or of all files in a folder."""
    found: Change = {}
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}
    return found


def norm(change: Change) -> float:
    return math.sqrt(sum(value.square().sum().item() for value in change.values()))


def distance(one: Change, other: Change) -> float:
    return norm({name: value - other[name] for name, value in one.items()})
