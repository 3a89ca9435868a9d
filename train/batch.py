"""From a data set to the batches of a run: every one a pure function of the step."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from train.data.sample import Sample, Samples
from train.order import Order, slots_of


@dataclass(frozen=True, slots=True)
class Batch:
    """One accumulation part of the global batch of one step.

    slots : place of each row in the global batch
    pixels_BCHW : (B, 3, H, W) float32 in [-1, 1]
    marks_B2HW : (B, 2, H, W) uint8, numbers of the kind and the colour of every pixel, or None
    """

    step: int
    slots: list[int]
    names: list[str]
    captions: list[str]
    pixels_BCHW: Tensor
    marks_B2HW: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        marks_B2HW = None if self.marks_B2HW is None else self.marks_B2HW.to(device)
        pixels_BCHW = self.pixels_BCHW.to(device, non_blocking=True)
        return replace(self, pixels_BCHW=pixels_BCHW, marks_B2HW=marks_B2HW)


class Place(NamedTuple):
    step: int
    slot: int
    sample: int


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of each global batch this process reads, and in how many parts."""

    batch_size: int
    rank: int = 0
    ranks: int = 1
    parts: int = 1


def batches(
    samples: Samples, order: Order, share: Share, steps: range, workers: int = 0
) -> Iterator[Batch]:
    """The batches of `steps`, `share.parts` for each step, read ahead by `workers` processes."""
    loader = DataLoader(
        _Places(samples),
        batch_sampler=_places(order, share, steps),
        num_workers=workers,
        collate_fn=collate,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_leave_signals_to_the_run,
    )
    return iter(loader)


def collate(rows: list[tuple[Place, Sample]]) -> Batch:
    places = [place for place, _ in rows]
    samples = [sample for _, sample in rows]
    pixels_BHWC = torch.from_numpy(np.stack([sample.pixels for sample in samples]))
    marks = [sample.marks for sample in samples if sample.marks is not None]
    return Batch(
        step=places[0].step,
        slots=[place.slot for place in places],
        names=[sample.name for sample in samples],
        captions=[sample.caption for sample in samples],
        pixels_BCHW=pixels_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1,
        marks_B2HW=torch.from_numpy(np.stack(marks)) if marks else None,
    )


class _Places(torch.utils.data.Dataset[tuple[Place, Sample]]):
    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, place: Place) -> tuple[Place, Sample]:
        return place, self.samples[place.sample]


def _leave_signals_to_the_run(_worker: int) -> None:
    # A terminal or a launcher signals every process at once; the run still wants its last batch.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _places(order: Order, share: Share, steps: range) -> Iterator[list[Place]]:
    size, ranks, parts = share.batch_size, share.ranks, share.parts
    for step in steps:
        for part in range(parts):
            slots = slots_of(share.rank, part, batch_size=size, ranks=ranks, parts=parts)
            yield [Place(step, slot, order.index(step * size + slot)) for slot in slots]
