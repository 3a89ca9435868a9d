"""Micro-batches of a run, read from a data set: each one a pure function of the step.

B batch rows, C channels, H W size of pictures, h w of latents, K masks of a row.
"""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from t2i.data.training_dataset import TrainingDataset
from t2i.data.training_example import OriginalSizeAndCrop, TrainingExample
from t2i.run_folder import STOP_SIGNALS
from train.batches.batch_order import BatchOrder, ProcessShare, SlotAssignment

WORKER_START_METHOD = "spawn"
"""How processes that read ahead are started: none of them inherits threads or a CUDA context."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One micro-batch of training examples: the rows of a step's global batch that a process
    computes at once.

    slots : index of each row in the global batch
    pixels_BCHW : (B, 3, H, W) float32 in [-1, 1]; (B, 0, H, W) where there are moments
    marks_B2HW : (B, 2, H, W) uint8, class numbers of kind and colour of every pixel, or None
    loss_mask_B1HW : (B, 1, H, W) float32 in [0, 1], weight of the loss at each pixel, or None
    weights_B : (B,) float32, weight of each row's loss
    moments_BCHW : (B, 2C, h, w) float32, mean and standard deviation of latents, or None;
        (B, C, h, w) of an autoencoder without a posterior
    losers_BCHW, loser_moments_BCHW : `pixels_BCHW` and `moments_BCHW` of the dispreferred
        pictures of pairs, or None
    hints_BCHW : (B, 3, H, W) float32 in [0, 1], the pictures that a control reads, or None
    masks_BKHW : (B, K, H, W) bool, masks of the objects that captions name, or None
    spans : for each row, the character spans of its caption that name them, at most K
    sizes_and_crops : original size and crop of each row's picture, where they are known
    """

    step: int
    slots: list[int]
    names: list[str]
    captions: list[str]
    pixels_BCHW: Tensor
    marks_B2HW: Tensor | None = None
    loss_mask_B1HW: Tensor | None = None
    weights_B: Tensor | None = None
    moments_BCHW: Tensor | None = None
    losers_BCHW: Tensor | None = None
    loser_moments_BCHW: Tensor | None = None
    hints_BCHW: Tensor | None = None
    masks_BKHW: Tensor | None = None
    spans: list[tuple[tuple[int, int], ...]] = field(default_factory=list)
    sizes_and_crops: list[OriginalSizeAndCrop | None] = field(default_factory=list)

    def to(self, device: torch.device) -> "MicroBatch":
        """Return the micro-batch with its tensors on `device`."""
        tensors = {
            name: value.to(device, non_blocking=True)
            for name in TENSOR_FIELDS
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **tensors)


TENSOR_FIELDS = (
    "pixels_BCHW",
    "marks_B2HW",
    "loss_mask_B1HW",
    "weights_B",
    "moments_BCHW",
    "losers_BCHW",
    "loser_moments_BCHW",
    "hints_BCHW",
    "masks_BKHW",
)


def iterate_micro_batches_of_steps(
    dataset: TrainingDataset, order: BatchOrder, share: ProcessShare, steps: range, workers: int = 0
) -> Iterator[MicroBatch]:
    """Iterate over this process's micro-batches of `steps`, which `workers` processes read
    ahead.
    """
    loader = DataLoader(
        _SlotAssignmentDataset(dataset),
        batch_sampler=(part for step in steps for part in share.list_micro_batches(order, step)),
        num_workers=workers,
        collate_fn=collate_examples,
        multiprocessing_context=WORKER_START_METHOD if workers else None,
        worker_init_fn=_ignore_signals,
    )
    return iter(loader)


def collate_examples(rows: list[tuple[SlotAssignment, TrainingExample]]) -> MicroBatch:
    """Stack training examples of one step into a `MicroBatch`."""
    assignments = [assignment for assignment, _ in rows]
    examples = [example for _, example in rows]
    losers_BHWC = _stacked([example.loser for example in examples])
    hints_BHWC = _stacked([example.hint for example in examples])
    loss_mask_BHW = _loss_masks(examples)
    return MicroBatch(
        step=assignments[0].step,
        slots=[assignment.slot for assignment in assignments],
        names=[example.name for example in examples],
        captions=[example.caption for example in examples],
        pixels_BCHW=pixels_to_floats(
            torch.from_numpy(np.stack([example.pixels for example in examples]))
        ),
        marks_B2HW=_stacked([example.label_maps for example in examples]),
        loss_mask_B1HW=None if loss_mask_BHW is None else loss_mask_BHW[:, None].float() / 255,
        weights_B=torch.tensor([example.weight for example in examples]),
        moments_BCHW=_stacked([example.moments for example in examples]),
        losers_BCHW=None if losers_BHWC is None else pixels_to_floats(losers_BHWC),
        loser_moments_BCHW=_stacked([example.loser_moments for example in examples]),
        hints_BCHW=None if hints_BHWC is None else hints_BHWC.permute(0, 3, 1, 2).float() / 255,
        masks_BKHW=_stack_object_masks(examples),
        spans=[example.spans for example in examples],
        sizes_and_crops=[example.size_and_crop for example in examples],
    )


def pixels_to_floats(pixels_BHWC: Tensor) -> Tensor:
    """Convert pictures in bytes (B, H, W, 3) to model input: (B, 3, H, W) float32 in [-1, 1]."""
    return pixels_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1


def _stacked(arrays: Sequence[NDArray[Any] | None]) -> Tensor | None:
    """Stack arrays into one tensor; None unless all rows have one."""
    there = [array for array in arrays if array is not None]
    return torch.from_numpy(np.stack(there)) if len(there) == len(arrays) else None


def _loss_masks(examples: Sequence[TrainingExample]) -> Tensor | None:
    """Stack loss masks (B, H, W) uint8, full ones for examples without; None if all are."""
    shape = next((s.loss_mask.shape for s in examples if s.loss_mask is not None), None)
    if shape is None:
        return None
    full = np.full(shape, 255, dtype=np.uint8)
    return _stacked([full if s.loss_mask is None else s.loss_mask for s in examples])


def _stack_object_masks(examples: Sequence[TrainingExample]) -> Tensor | None:
    """Stack object masks (B, K, H, W) bool; rows with fewer than K get empty ones."""
    most = max(len(example.spans) for example in examples)
    if not most:
        return None
    masks_BKHW = np.zeros((len(examples), most, *examples[0].pixels.shape[:2]), dtype=np.bool_)
    for row, example in enumerate(examples):
        masks_BKHW[row, : len(example.spans)] = example.masks
    return torch.from_numpy(masks_BKHW)


class _SlotAssignmentDataset(torch.utils.data.Dataset[tuple[SlotAssignment, TrainingExample]]):
    def __init__(self, dataset: TrainingDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, assignment: SlotAssignment) -> tuple[SlotAssignment, TrainingExample]:
        return assignment, self.dataset.read_example(assignment.example_index, assignment.visit)


def _ignore_signals(_worker: int) -> None:
    # A terminal or a launcher signals every process at once; the run still needs its last batch.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
