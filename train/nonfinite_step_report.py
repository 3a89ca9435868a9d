"""Reports of steps whose loss or gradient is not finite.

RUN/not-a-number/step-00000012.json    losses, noise levels, gradients, names and captions
RUN/not-a-number/step-00000012.png     the pictures of the samples that may be the cause
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
from t2i.data.training_dataset import TrainingDataset
from t2i.errors import TrainingError
from t2i.pictures import build_picture_grid, save_picture
from train.batches.batch_order import BatchOrder, ProcessShare
from train.batches.micro_batch import MicroBatch, iterate_micro_batches_of_steps
from train.reporting.sample_sheets import pixels_to_images
from train.targets.target import TrainingTarget

REPORT_FOLDER = "not-a-number"
MAX_NAMED_EXAMPLES = 8
"""Examples that a message names."""
MAX_SHEET_PICTURES = 48
"""Pictures on the sheet."""
THUMBNAIL_SIZE = 256
"""Largest side of a picture on the sheet, in pixels."""
StepPictureLoader = Callable[[int], Sequence[Image.Image]]
"""Loads the pictures of a step, 0 being the first, slot by slot."""


class NonFiniteStepLimitError(TrainingError):
    """Error of a run in which more steps had a loss or gradient of NaN or infinity than may be
    skipped.
    """


@dataclass(frozen=True, slots=True)
class ExampleReport:
    """One training example in the report of a step that is not finite: its name, caption and loss.

    drawn : random numbers of its loss, such as the timestep
    """

    slot: int
    name: str
    caption: str
    loss: float
    drawn: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class NonFiniteStepReport:
    """Report of one step whose loss or gradient is not finite, over all processes.

    gradient_norms : by parameter group of the optimizer
    broken_gradients : names of the weights whose gradient is not finite
    """

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    gradient_norms: Mapping[str, float]
    broken_gradients: Sequence[str]
    rows: Sequence[ExampleReport]

    def format_headline(self) -> str:
        """Return the start of an error message about a step that is not finite: its number, loss
        and gradient norm.
        """
        return f"Step {self.step} gave loss {self.loss} and gradient norm {self.grad_norm}"

    def list_suspect_examples(self) -> list[ExampleReport]:
        """Return the training examples whose own loss is not finite; all of the step if there is
        none.
        """
        return [row for row in self.rows if not math.isfinite(row.loss)] or [*self.rows]

    def describe_suspect_examples(self) -> str:
        """Return a sentence for an error message that names the training examples that may be
        the cause.
        """
        suspects = self.list_suspect_examples()
        named = [
            f"{row.name} ({'any of the batch' if math.isfinite(row.loss) else f'loss {row.loss}'})"
            for row in suspects[:MAX_NAMED_EXAMPLES]
        ]
        more = (
            [f"and {len(suspects) - MAX_NAMED_EXAMPLES} more"]
            if len(suspects) > MAX_NAMED_EXAMPLES
            else []
        )
        return f"Samples: {', '.join(named + more)}."

    def write(self, out: Path, load_pictures: StepPictureLoader) -> None:
        """Write the report into the folder of the run, as JSON and a sheet of pictures.

        Raises OutputError.
        """
        path = out / REPORT_FOLDER / f"step-{self.step:08d}.json"
        text = json.dumps(spell_out_nonfinite_numbers(asdict(self)), indent=1) + "\n"
        write_atomically(path, lambda part: part.write_text(text, "utf-8"))
        pictures, rows = (
            load_pictures(self.step - 1),
            self.list_suspect_examples()[:MAX_SHEET_PICTURES],
        )
        labels = [f"{row.name} (loss {row.loss:.4g})" for row in rows]
        page = build_picture_grid([pictures[row.slot] for row in rows], labels, columns=6)
        save_picture(page, path.with_suffix(".png"))


def gather_example_reports(
    accelerator: Accelerator, target: TrainingTarget, pieces: Sequence[MicroBatch], losses: Tensor
) -> list[ExampleReport]:
    """Gather a report of each training example of a step from all processes, in the order of the
    global batch.
    """
    rows: list[ExampleReport] = []
    for batch in pieces:
        drawn = target.list_random_values_for_report(batch)
        for number, slot in enumerate(batch.slots):
            own = {name: values[number] for name, values in drawn.items()}
            loss = losses[len(rows)].item()
            rows.append(ExampleReport(slot, batch.names[number], batch.captions[number], loss, own))
    if accelerator.num_processes > 1:
        rows = gather_object(rows)
    return sorted(rows, key=lambda row: row.slot)


def load_step_thumbnails(
    samples: TrainingDataset, order: BatchOrder, step: int
) -> list[Image.Image]:
    """Load thumbnails of the pictures of a step's global batch, in its order."""
    batch = next(
        iterate_micro_batches_of_steps(samples, order, ProcessShare(), range(step, step + 1))
    )
    pictures = pixels_to_images(batch.pixels_BCHW)
    for picture in pictures:
        picture.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    return pictures


def compute_gradient_norms(optimizer: torch.optim.Optimizer, scale: float) -> dict[str, float]:
    """Return the gradient norm of each parameter group, divided by the `scale` of the loss."""
    return {
        group["name"]: float(
            torch.nn.utils.get_total_norm([p.grad for p in group["params"] if p.grad is not None])
            / scale
        )
        for group in optimizer.param_groups
    }


def list_nonfinite_gradients(target: TrainingTarget) -> list[str]:
    """List the names of the trained weights whose gradient has NaN or infinity."""
    return [
        name
        for name, weight in target.collect_trained_parameters_by_name().items()
        if weight.grad is not None and not weight.grad.isfinite().all()
    ]


def spell_out_nonfinite_numbers(tree: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by the words "nan" and "inf"."""
    if isinstance(tree, Mapping):
        return {name: spell_out_nonfinite_numbers(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [spell_out_nonfinite_numbers(value) for value in tree]
    if isinstance(tree, float) and not math.isfinite(tree):
        return str(tree)
    return tree
