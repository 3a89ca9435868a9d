"""A step whose loss or gradient is no number: what is known of it, for who looks into it.

RUN/not-a-number/step-00000012.json    losses, noise levels, gradients, names and captions
RUN/not-a-number/step-00000012.png     the pictures that may be the cause
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor

from t2i.atomic_files import write_atomically
from t2i.errors import TrainingError
from t2i.pictures import picture_grid, save_picture
from t2i.scenes.sample import Samples
from train.batches.batch import Batch, batches
from train.batches.order import Order, Share
from train.reporting.sample_sheets import pictures_of
from train.targets.target import Target

FOLDER = "not-a-number"
NAMED = 8
"""Samples that a message names."""
SHOWN = 48
"""Pictures on the sheet."""
SIDE = 256
"""Of each, in pixels."""
Show = Callable[[int], Sequence[Image.Image]]
"""The pictures of a step, 0 being the first, slot by slot."""


class NotANumber(TrainingError):
    """Raised on every process, the weights being those after the step before."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sample of the step; `drawn` is what its loss depended on, such as the timestep."""

    slot: int
    name: str
    caption: str
    loss: float
    drawn: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class BadStep:
    """All of it, from all processes.

    gradient_norms : by group of the optimizer
    broken_gradients : names of the weights whose gradient is no number
    """

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    gradient_norms: Mapping[str, float]
    broken_gradients: Sequence[str]
    rows: Sequence[Row]

    def measured(self) -> str:
        return f"Step {self.step} gave loss {self.loss} and gradient norm {self.grad_norm}"

    def suspects(self) -> list[Row]:
        """The samples whose own loss is no number; where there is none, it may be any."""
        return [row for row in self.rows if not math.isfinite(row.loss)] or [*self.rows]

    def samples(self) -> str:
        suspects = self.suspects()
        named = [
            f"{row.name} ({'any of the batch' if math.isfinite(row.loss) else f'loss {row.loss}'})"
            for row in suspects[:NAMED]
        ]
        more = [f"and {len(suspects) - NAMED} more"] if len(suspects) > NAMED else []
        return f"Samples: {', '.join(named + more)}."

    def write(self, out: Path, show: Show) -> None:
        """Lay it down in the folder of the run. Raises OutputError."""
        path = out / FOLDER / f"step-{self.step:08d}.json"
        text = json.dumps(in_json(asdict(self)), indent=1) + "\n"
        write_atomically(path, lambda part: part.write_text(text, "utf-8"))
        pictures, rows = show(self.step - 1), self.suspects()[:SHOWN]
        labels = [f"{row.name} (loss {row.loss:.4g})" for row in rows]
        page = picture_grid([pictures[row.slot] for row in rows], labels, columns=6)
        save_picture(page, path.with_suffix(".png"))


def rows_of_all(
    accelerator: Accelerator, target: Target, pieces: Sequence[Batch], losses: Tensor
) -> list[Row]:
    """The rows of all processes, in the order of their slots."""
    rows: list[Row] = []
    for batch in pieces:
        drawn = target.drawn_values(batch)
        for number, slot in enumerate(batch.slots):
            own = {name: values[number] for name, values in drawn.items()}
            loss = losses[len(rows)].item()
            rows.append(Row(slot, batch.names[number], batch.captions[number], loss, own))
    if accelerator.num_processes > 1:
        rows = gather_object(rows)
    return sorted(rows, key=lambda row: row.slot)


def pictures_at(samples: Samples, order: Order, step: int) -> list[Image.Image]:
    """What stood at a step, slot by slot, small; `samples` have their pixels."""
    batch = next(batches(samples, order, Share(), range(step, step + 1)))
    pictures = pictures_of(batch.pixels_BCHW)
    for picture in pictures:
        picture.thumbnail((SIDE, SIDE))
    return pictures


def gradient_norms(optimizer: torch.optim.Optimizer, scale: float) -> dict[str, float]:
    """By the name of the group; of gradients that are `scale` times too large."""
    return {
        group["name"]: float(
            torch.nn.utils.get_total_norm([p.grad for p in group["params"] if p.grad is not None])
            / scale
        )
        for group in optimizer.param_groups
    }


def broken_gradients(target: Target) -> list[str]:
    return [
        name
        for name, weight in target.weights().items()
        if weight.grad is not None and not weight.grad.isfinite().all()
    ]


def in_json(tree: Any) -> Any:
    """The tree with "nan" and "inf", which JSON has no numbers for, as words."""
    if isinstance(tree, Mapping):
        return {name: in_json(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [in_json(value) for value in tree]
    if isinstance(tree, float) and not math.isfinite(tree):
        return str(tree)
    return tree
