"""Target: the caption matcher, which scores how well a caption fits a picture.

B batch rows.
"""

import re
import shutil
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from t2i.atomic_folders import atomic_folder
from t2i.pictures import build_picture_grid
from t2i.scenes.caption_matcher import CaptionMatcher
from t2i.scenes.recogniser import CONFIG_FILE, WEIGHTS_FILE, Recogniser
from train.batches.micro_batch import MicroBatch
from train.export import ExportConfig, ModelNotes
from train.reporting.sample_sheets import SamplesConfig, pixels_to_images
from train.targets.target import TrainingTarget

OPPOSITE_POSITION_WORDS = {"left": "right", "above": "below", "over": "under", "top": "bottom"}
OPPOSITE_POSITION_WORDS |= {word: opposite for opposite, word in OPPOSITE_POSITION_WORDS.items()}


class CaptionMatcherTargetConfig(BaseModel):
    """Configuration of the target that trains a caption matcher on top of a frozen recogniser."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["agreement"] = "agreement"
    recogniser: Path
    """Folder of the finished recogniser."""
    width: int = Field(128, ge=8, multiple_of=4)
    """Width of the text layers and of the embeddings."""
    layers: int = Field(2, ge=1)


class CaptionMatcherTarget(TrainingTarget):
    """Target that trains the caption matcher by a contrastive loss over the captions of the batch.

    A further negative is its own caption with every position word reversed. The negatives are those
    of one micro-batch, so that several processes and gradient accumulation make the task easier.
    """

    rows_apart = False

    def __init__(self, config: CaptionMatcherTargetConfig, seed: int, batch_size: int) -> None:
        super().__init__(seed, batch_size)
        self.config = config
        recogniser = Recogniser.load(config.recogniser)
        self.agreement = CaptionMatcher(recogniser, config.width, config.layers)

    def forward(self, batch: MicroBatch) -> Tensor:
        """Compute the contrastive loss of the caption matcher and return it for each row, (B,): the
        mean of the cross-entropies from picture to text and from text to picture.
        """
        pictures_BD = self.agreement.embed_pictures(batch.pixels_BCHW)
        wrong = [swap_position_words(caption) for caption in batch.captions]
        text_BD, wrong_BD = self.agreement.embed_captions([*batch.captions, *wrong]).chunk(2)

        scale = self.agreement.log_scale.exp()
        each_BB = scale * pictures_BD @ text_BD.T
        own_B = torch.arange(len(wrong), device=each_BB.device)
        wrong_B1 = scale * (pictures_BD * wrong_BD).sum(-1, keepdim=True)
        # Captions without a position word have no wrong form.
        has_wrong_B = [a != b for a, b in zip(wrong, batch.captions, strict=True)]
        wrong_B1 = wrong_B1.masked_fill(
            ~torch.tensor(has_wrong_B, device=own_B.device)[:, None], -100
        )
        to_text_B = functional.cross_entropy(
            torch.cat([each_BB, wrong_B1], 1), own_B, reduction="none"
        )
        to_picture_B = functional.cross_entropy(each_BB.T, own_B, reduction="none")
        return (to_text_B + to_picture_B) / 2

    @torch.no_grad()
    def draw_sample_sheet(self, batch: MicroBatch, config: SamplesConfig) -> Image.Image:
        """Return a sheet of the pictures, each with the best-fitting caption of the batch."""
        pictures = pixels_to_images(batch.pixels_BCHW)
        text_BD = self.agreement.embed_captions(batch.captions)
        best = (self.agreement.embed_pictures(batch.pixels_BCHW) @ text_BD.T).argmax(1).tolist()
        labels = [
            ("" if own == chosen else "WRONG: ") + batch.captions[chosen]
            for own, chosen in enumerate(best)
        ]
        return build_picture_grid(pictures, labels, config.columns)

    def export(
        self, folder: Path, batch: MicroBatch, config: ExportConfig, notes: ModelNotes
    ) -> None:
        """Write the caption matcher and a copy of its recogniser."""
        with atomic_folder(folder) as new:
            for name in (CONFIG_FILE, WEIGHTS_FILE):
                shutil.copy(self.config.recogniser / name, new / name)
            self.agreement.save(new, {"trained": notes["trained"]})


def swap_position_words(caption: str) -> str:
    """Return the caption with each position word replaced by its opposite, as "left" by "right"."""
    return re.sub(r"\w+", lambda word: OPPOSITE_POSITION_WORDS.get(word[0], word[0]), caption)
