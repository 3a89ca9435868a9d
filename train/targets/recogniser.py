"""Training the recogniser to label every place of a picture.

B batch rows, K labels, H W size of the pictures, h w half of it.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from t2i.atomic_folders import atomic_folder
from t2i.pictures import picture_grid
from t2i.scenes.recognised_objects import OWN, Seen
from t2i.scenes.recogniser import Labels, Recogniser
from train.batches.batch import Batch
from train.export import ExportConfig, Notes
from train.reporting.sample_sheets import SamplesConfig, pictures_of
from train.targets.target import Target

COLOUR_WEIGHT = 0.5


class RecogniserConfig(BaseModel):
    """Train a recogniser of the objects of `data`, which must label its pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["recogniser"] = "recogniser"
    channels: tuple[int, ...] = Field((32, 96, 160), min_length=1)
    """Of its levels from 4 x 4 pixels a place on, each half as fine as the one before."""


class RecogniserTarget(Target):
    """Cross-entropy of the label of each place, background and objects weighing the same."""

    def __init__(
        self, labels: Labels, size: int, config: RecogniserConfig, seed: int, batch_size: int
    ) -> None:
        super().__init__(seed, batch_size)
        self.recogniser = Recogniser(labels, size, config.channels)
        self.labels = labels

    def forward(self, batch: Batch) -> Tensor:
        assert batch.marks_B2HW is not None
        maps = self.recogniser(batch.pixels_BCHW)
        kind_Bhw, colour_Bhw = batch.marks_B2HW[:, :, ::2, ::2].long().unbind(1)
        losses_Bhw = functional.cross_entropy(
            at_size(maps.kinds_BKhw, kind_Bhw), kind_Bhw, reduction="none"
        )
        colours_Bhw = functional.cross_entropy(
            at_size(maps.colours_BKhw, colour_Bhw), colour_Bhw, reduction="none"
        )
        thing_Bhw, named_Bhw = kind_Bhw <= self.labels.something, kind_Bhw < self.labels.something
        return (
            mean_where(losses_Bhw, ~thing_Bhw)
            + mean_where(losses_Bhw, thing_Bhw)
            + COLOUR_WEIGHT * mean_where(colours_Bhw, named_Bhw)
        )

    def draw(self, batch: Batch, config: SamplesConfig) -> Image.Image:
        """Each picture with what was recognised in it."""
        pictures = pictures_of(batch.pixels_BCHW)
        seen = self.recogniser.look(pictures)
        labels = [f"{told(one)} ({said})" for one, said in zip(seen, batch.captions, strict=True)]
        both = [marked(*one) for one in zip(pictures, seen, strict=True)]
        return picture_grid(both, labels, config.columns)

    def export(self, folder: Path, batch: Batch, config: ExportConfig, notes: Notes) -> None:
        with atomic_folder(folder) as new:
            self.recogniser.save(new, {"trained": notes["trained"]})


def at_size(logits_BKhw: Tensor, like_Bhw: Tensor) -> Tensor:
    size = like_Bhw.shape[-2:]
    return functional.interpolate(logits_BKhw.float(), size, mode="bilinear", align_corners=False)


def mean_where(values_Bhw: Tensor, where_Bhw: Tensor) -> Tensor:
    """Mean of each row over the places that count, (B,); 0 where there is none."""
    counts_Bhw = where_Bhw.to(values_Bhw.dtype)
    return (values_Bhw * counts_Bhw).sum((1, 2)) / counts_Bhw.sum((1, 2)).clamp(min=1)


def told(seen: Seen) -> str:
    """What was recognised, in words."""
    things = [
        found.name if found.colour == OWN else f"{found.colour} {found.name}"
        for found in seen.objects.values()
    ]
    return ", ".join([*things, f"{seen.background} background"])


def marked(picture: Image.Image, seen: Seen) -> Image.Image:
    """The picture beside itself with everything but the recognised objects made pale."""
    pixels = np.asarray(picture)
    found = [one.mask for one in seen.objects.values()]
    shown = np.any(found, axis=0) if found else np.zeros(pixels.shape[:2], dtype=np.bool_)
    pale = np.where(shown[..., None], pixels, 200 + pixels // 8).astype(np.uint8)
    return Image.fromarray(np.concatenate([pixels, pale], axis=1))
