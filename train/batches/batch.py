"""From a data set to the batches of a run: every one a pure function of the step."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from t2i.run_folder import SIGNALS
from t2i.scenes.sample import Framing, Sample, Samples
from train.batches.order import Order, Place, Share


@dataclass(frozen=True, slots=True)
class Batch:
    """One accumulation part of the global batch of one step.

    slots : place of each row in the global batch
    pixels_BCHW : (B, 3, H, W) float32 in [-1, 1]; (B, 0, H, W) where there are moments
    marks_B2HW : (B, 2, H, W) uint8, numbers of the kind and the colour of every pixel, or None
    counted_B1HW : (B, 1, H, W) float32 in [0, 1], how much the loss counts there, or None
    weights_B : (B,) float32, of each row's loss
    losers_BCHW, loser_moments_BCHW : as `pixels_BCHW` and `moments_BCHW`, of the worse ones of
        pairs, or None
    masks_BKHW : (B, K, H, W) bool, where the things are that captions name, or None
    spans : of each row the letters of its caption that name them, at most K
    moments_BCHW : (B, 2C, h, w) float32, mean and standard deviation of latents, or None;
        (B, C, h, w) of an autoencoder that knows no deviation
    """

    step: int
    slots: list[int]
    names: list[str]
    captions: list[str]
    pixels_BCHW: Tensor
    marks_B2HW: Tensor | None = None
    counted_B1HW: Tensor | None = None
    weights_B: Tensor | None = None
    moments_BCHW: Tensor | None = None
    losers_BCHW: Tensor | None = None
    loser_moments_BCHW: Tensor | None = None
    masks_BKHW: Tensor | None = None
    spans: list[tuple[tuple[int, int], ...]] = field(default_factory=list)
    framings: list[Framing | None] = field(default_factory=list)

    def to(self, device: torch.device) -> "Batch":
        tensors = {
            name: value.to(device, non_blocking=True)
            for name in TENSORS
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **tensors)


TENSORS = (
    "pixels_BCHW",
    "marks_B2HW",
    "counted_B1HW",
    "weights_B",
    "moments_BCHW",
    "losers_BCHW",
    "loser_moments_BCHW",
    "masks_BKHW",
)


def batches(
    samples: Samples, order: Order, share: Share, steps: range, workers: int = 0
) -> Iterator[Batch]:
    """The batches of `steps`, `share.parts` for each step, read ahead by `workers` processes."""
    loader = DataLoader(
        _Places(samples),
        batch_sampler=(part for step in steps for part in share.places(order, step)),
        num_workers=workers,
        collate_fn=collate,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_leave_signals_to_the_run,
    )
    return iter(loader)


def collate(rows: list[tuple[Place, Sample]]) -> Batch:
    places = [place for place, _ in rows]
    samples = [sample for _, sample in rows]
    losers_BHWC = _stacked([sample.loser for sample in samples])
    counted_BHW = _counted(samples)
    return Batch(
        step=places[0].step,
        slots=[place.slot for place in places],
        names=[sample.name for sample in samples],
        captions=[sample.caption for sample in samples],
        pixels_BCHW=as_floats(torch.from_numpy(np.stack([sample.pixels for sample in samples]))),
        marks_B2HW=_stacked([sample.label_maps for sample in samples]),
        counted_B1HW=None if counted_BHW is None else counted_BHW[:, None].float() / 255,
        weights_B=torch.tensor([sample.weight for sample in samples]),
        moments_BCHW=_stacked([sample.moments for sample in samples]),
        losers_BCHW=None if losers_BHWC is None else as_floats(losers_BHWC),
        loser_moments_BCHW=_stacked([sample.loser_moments for sample in samples]),
        masks_BKHW=_masks(samples),
        spans=[sample.spans for sample in samples],
        framings=[sample.framing for sample in samples],
    )


def as_floats(pixels_BHWC: Tensor) -> Tensor:
    """Bytes (B, H, W, 3) as a model reads them, (B, 3, H, W) in [-1, 1]."""
    return pixels_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1


def _stacked(arrays: Sequence[NDArray[Any] | None]) -> Tensor | None:
    """The arrays one behind the other; None unless all rows have one."""
    there = [array for array in arrays if array is not None]
    return torch.from_numpy(np.stack(there)) if len(there) == len(arrays) else None


def _counted(samples: Sequence[Sample]) -> Tensor | None:
    """Loss masks (B, H, W) uint8, full where a sample has none; None where no sample has one."""
    shape = next((s.loss_mask.shape for s in samples if s.loss_mask is not None), None)
    if shape is None:
        return None
    full = np.full(shape, 255, dtype=np.uint8)
    return _stacked([full if s.loss_mask is None else s.loss_mask for s in samples])


def _masks(samples: Sequence[Sample]) -> Tensor | None:
    """Masks of what the captions name, (B, K, H, W) bool; rows that name fewer have empty ones."""
    most = max(len(sample.spans) for sample in samples)
    if not most:
        return None
    masks_BKHW = np.zeros((len(samples), most, *samples[0].pixels.shape[:2]), dtype=np.bool_)
    for row, sample in enumerate(samples):
        masks_BKHW[row, : len(sample.spans)] = sample.masks
    return torch.from_numpy(masks_BKHW)


class _Places(torch.utils.data.Dataset[tuple[Place, Sample]]):
    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, place: Place) -> tuple[Place, Sample]:
        return place, self.samples.read(place.sample, place.visit)


def _leave_signals_to_the_run(_worker: int) -> None:
    # A terminal or a launcher signals every process at once; the run still wants its last batch.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
