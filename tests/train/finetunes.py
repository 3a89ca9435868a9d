"""Fine-tunes of a few seconds: a tiny finished model and a handful of pictures."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from train.batches.batch_order import BatchOrder, ProcessShare
from train.batches.micro_batch import MicroBatch, iterate_micro_batches_of_steps
from train.config.load_config import load_run_config
from train.config.run_config import RunConfig
from train.data.registry import build_dataset
from train.setup.assembly import assemble_target
from train.targets.target import TrainingTarget

SHAPES = ((32, 32), (32, 32), (48, 24), (24, 48), (40, 40), (50, 24))
"""Width and height of each picture; with `size = 32` and steps of 8 that is four buckets."""

RUN = """
seed = 5
[target]
kind = "finetune"
base = {base}
[data]
kind = "pictures"
folder = {pictures}
size = 32
bucket_step = 8
crop = "random"
flip = true
[train]
steps = 4
batch_size = 2
device = "cpu"
log_every = 1
checkpoint_every = 4
[optimizer]
learning_rate = 1e-3
# Above the rounding of the gradients, which Adam would blow up to whole steps.
eps = 1e-5
[ema]
decay = 0.5
"""

PARTS = {
    "full": '[[target.parts]]\nmethod = "full"\n',
    "cross-attention": """
[[target.parts]]
method = "full"
modules = ["attn2.to_k", "attn2.to_v"]
""",
    "lora": '[[target.parts]]\nmethod = "lora"\nrank = 4\nalpha = 2\n',
    "dora": '[[target.parts]]\nmethod = "lora"\nrank = 2\ndora = true\n',
    "rslora": '[[target.parts]]\nmethod = "lora"\nrank = 4\nalpha = 2\nrslora = true\n',
    "loha": '[[target.parts]]\nmethod = "loha"\nrank = 2\n',
    "lokr": '[[target.parts]]\nmethod = "lokr"\nrank = 2\n',
    "words": """
[[target.parts]]
method = "words"
words = [{ word = "<mug>", vectors = 2, initial = "red apple" }, { word = "<pot>" }]
learning_rate = 1e-2
""",
    "text encoder": '[[target.parts]]\nmethod = "lora"\nof = "text_encoder"\nrank = 2\n',
}
PARTS["pivotal"] = PARTS["words"] + PARTS["lora"] + PARTS["text encoder"]


def write_pictures(folder: Path, caption: str = "a <mug> left of the cat") -> Path:
    """Pictures of SHAPES, each a colour of its own with noise, and a text file beside each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for number, (width, height) in enumerate(SHAPES):
        pixels = rng.integers(0, 60, (height, width, 3)) + rng.integers(0, 190, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"{caption} {'red ' * number}".strip())
    return folder


def finetune_toml(folder: Path, base: Path, *parts: str) -> Path:
    """The TOML of a run over fresh pictures; `parts` are keys of PARTS, or tables."""
    pictures = write_pictures(folder / "pictures")
    run = RUN.format(base=json.dumps(str(base)), pictures=json.dumps(str(pictures)))
    path = folder / "run.toml"
    path.write_text(run + "\n".join(PARTS.get(part, part) for part in parts))
    return path


def finetune_run(folder: Path, base: Path, parts: tuple[str, ...], *overrides: str) -> RunConfig:
    return load_run_config(finetune_toml(folder, base, *parts), overrides)


def target_of(config: RunConfig, rows: int = 2) -> tuple[TrainingTarget, MicroBatch]:
    """The target of a run in training mode, and its first batch."""
    data = build_dataset(config.data)
    batch = next(
        iterate_micro_batches_of_steps(
            data, BatchOrder(data.group_indices_by_shape(), rows, 1), ProcessShare(), range(1)
        )
    )
    target: TrainingTarget = assemble_target(config)[0].train()
    return target, batch


def moved(target: TrainingTarget, seed: int = 2) -> TrainingTarget:
    """What is trained, somewhere else."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in sorted(target.collect_trained_parameters_by_name().items()):
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return target
