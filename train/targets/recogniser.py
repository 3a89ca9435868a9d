"""Target: the recogniser, which labels every pixel of a picture.

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
from t2i.pictures import build_picture_grid
from t2i.scenes.recognised_objects import OWN_COLOUR, Recognition
from t2i.scenes.recogniser import Recogniser, RecogniserLabels
from train.batches.micro_batch import MicroBatch
from train.export import ExportConfig, ModelNotes
from train.reporting.sample_sheets import SamplesConfig, pixels_to_images
from train.targets.target import TrainingTarget

COLOUR_LOSS_WEIGHT = 0.5


class RecogniserTargetConfig(BaseModel):
    """Configuration of the target that trains a recogniser on the labelled pixels of `data`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["recogniser"] = "recogniser"
    channels: tuple[int, ...] = Field((32, 96, 160), min_length=1)
    """Channels of its levels, from one position per 4 x 4 pixels on, each level half as fine."""


class RecogniserTarget(TrainingTarget):
    """Target that trains the recogniser by the cross-entropy of the label of each position.

    Background and objects are weighted equally.
    """

    def __init__(
        self,
        labels: RecogniserLabels,
        size: int,
        config: RecogniserTargetConfig,
        seed: int,
        batch_size: int,
    ) -> None:
        super().__init__(seed, batch_size)
        self.recogniser = Recogniser(labels, size, config.channels)
        self.labels = labels

    def forward(self, batch: MicroBatch) -> Tensor:
        """Run the recogniser on a batch and return for each row, (B,), the cross-entropy of its
        pixels' object kinds (its mean over the background plus its mean over the objects), plus
        half that of the objects' colours.
        """
        assert batch.marks_B2HW is not None
        maps = self.recogniser(batch.pixels_BCHW)
        kind_Bhw, colour_Bhw = batch.marks_B2HW[:, :, ::2, ::2].long().unbind(1)
        losses_Bhw = functional.cross_entropy(
            resize_logits(maps.class_logits_BKhw, kind_Bhw), kind_Bhw, reduction="none"
        )
        colours_Bhw = functional.cross_entropy(
            resize_logits(maps.colour_logits_BKhw, colour_Bhw), colour_Bhw, reduction="none"
        )
        thing_Bhw, named_Bhw = (
            kind_Bhw <= self.labels.unknown_index,
            kind_Bhw < self.labels.unknown_index,
        )
        return (
            compute_masked_means(losses_Bhw, ~thing_Bhw)
            + compute_masked_means(losses_Bhw, thing_Bhw)
            + COLOUR_LOSS_WEIGHT * compute_masked_means(colours_Bhw, named_Bhw)
        )

    def draw_sample_sheet(self, batch: MicroBatch, config: SamplesConfig) -> Image.Image:
        """Return a sheet of the pictures, each with the recognised objects and its caption."""
        pictures = pixels_to_images(batch.pixels_BCHW)
        seen = self.recogniser.recognise(pictures)
        labels = [
            f"{format_recognised_objects(one)} ({caption})"
            for one, caption in zip(seen, batch.captions, strict=True)
        ]
        both = [draw_beside_highlighted_objects(*one) for one in zip(pictures, seen, strict=True)]
        return build_picture_grid(both, labels, config.columns)

    def export(
        self, folder: Path, batch: MicroBatch, config: ExportConfig, notes: ModelNotes
    ) -> None:
        """Export the trained recogniser as a folder."""
        with atomic_folder(folder) as new:
            self.recogniser.save(new, {"trained": notes["trained"]})


def resize_logits(logits_BKhw: Tensor, like_Bhw: Tensor) -> Tensor:
    """Resize logits to the size of `like_Bhw`, in float32."""
    size = like_Bhw.shape[-2:]
    return functional.interpolate(logits_BKhw.float(), size, mode="bilinear", align_corners=False)


def compute_masked_means(values_Bhw: Tensor, where_Bhw: Tensor) -> Tensor:
    """Return the mean of each row over the masked positions, (B,); 0 if there is none."""
    counts_Bhw = where_Bhw.to(values_Bhw.dtype)
    return (values_Bhw * counts_Bhw).sum((1, 2)) / counts_Bhw.sum((1, 2)).clamp(min=1)


def format_recognised_objects(seen: Recognition) -> str:
    """Format the names of the recognised objects and of the background as text."""
    things = [
        found.name if found.colour == OWN_COLOUR else f"{found.colour} {found.name}"
        for found in seen.objects.values()
    ]
    return ", ".join([*things, f"{seen.background} background"])


def draw_beside_highlighted_objects(picture: Image.Image, seen: Recognition) -> Image.Image:
    """Return the picture beside a copy in which all but the recognised objects is pale."""
    pixels = np.asarray(picture)
    found = [one.mask for one in seen.objects.values()]
    shown = np.any(found, axis=0) if found else np.zeros(pixels.shape[:2], dtype=np.bool_)
    pale = np.where(shown[..., None], pixels, 200 + pixels // 8).astype(np.uint8)
    return Image.fromarray(np.concatenate([pixels, pale], axis=1))
