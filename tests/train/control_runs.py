"""Runs that train a ControlNet or T2I-Adapter in seconds: a tiny base, and pictures with hints."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import ControlNetModel, T2IAdapter
from PIL import Image

from tests.train.runs import accelerated_for
from tests.train.tuning import pictures
from train.batches.micro_batch import MicroBatch
from train.config.load_config import load_run_config
from train.config.run_config import RunConfig
from train.loop import TrainingRun
from train.setup.assembly import assemble_target
from train.targets.control_network import ControlTarget

KINDS = ("controlnet", "t2i-adapter")
NETWORKS: dict[str, Any] = {"controlnet": ControlNetModel, "t2i-adapter": T2IAdapter}
SEGMENTS = ("data.kind=scenes", "data.hint=segments", "data.size=32", "data.length=24")
NEAR = 1e-5

RUN = """
seed = 3
[target]
kind = "{kind}"
base = {base}
hint_dropout = 0.2
[data]
kind = "pictures"
size = 40
crop = "random"
flip = true
bucket_step = 8
seed = 5
held_out = 2
subsets = [{{ folder = {folder}, hints = {hints} }}]
[train]
steps = 6
batch_size = 4
device = "cpu"
log_every = 1
checkpoint_every = 3
[optimizer]
learning_rate = 2e-3
eps = 1e-5
[ema]
decay = 0.9
[samples]
steps = 2
columns = 4
[export]
precision = "fp32"
"""
SCENES = """
seed = 3
[target]
kind = "{kind}"
base = {base}
[data]
kind = "scenes"
size = 32
hint = "segments"
length = 24
[train]
steps = 2
batch_size = 4
device = "cpu"
"""


def write_run(folder: Path, base: Path, kind: str) -> Path:
    """The TOML of a run over tiny pictures, each with its own negative as the hint."""
    mine, hints = pictures(folder / "mine"), folder / "hints"
    hints.mkdir(exist_ok=True)
    for path in mine.glob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(hints / path.name)
    places = {"folder": mine, "hints": hints, "base": base}
    text = RUN.format(kind=kind, **{key: json.dumps(str(path)) for key, path in places.items()})
    (folder / "control.toml").write_text(text)
    return folder / "control.toml"


def run_of(folder: Path, base: Path, kind: str, *overrides: str) -> RunConfig:
    return load_run_config(write_run(folder, base, kind), overrides)


def scenes_of(folder: Path, base: Path, kind: str, *overrides: str) -> RunConfig:
    path = folder / "scenes.toml"
    path.write_text(SCENES.format(kind=kind, base=json.dumps(str(base))))
    return load_run_config(path, overrides)


def target_of(config: RunConfig) -> ControlTarget:
    target = assemble_target(config)[0]
    assert isinstance(target, ControlTarget)
    return target


def batch_of(config: RunConfig, out: Path, rows: int = 4) -> MicroBatch:
    with accelerated_for(config) as accelerator:
        return TrainingRun(config, out, accelerator).load_first_batch(rows)
