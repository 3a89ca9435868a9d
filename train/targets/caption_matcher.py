"""Training the agreement of captions and pictures.

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
from t2i.pictures import picture_grid
from t2i.scenes.caption_matcher import Agreement
from t2i.scenes.recogniser import CONFIG, WEIGHTS, Recogniser
from train.batches.batch import Batch
from train.export import ExportConfig, Notes
from train.reporting.sample_sheets import SamplesConfig, pictures_of
from train.targets.target import Target

OPPOSITES = {"left": "right", "above": "below", "over": "under", "top": "bottom"}
OPPOSITES |= {word: opposite for opposite, word in OPPOSITES.items()}


class AgreementConfig(BaseModel):
    """Learn which captions fit which pictures, over a recogniser that stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["agreement"] = "agreement"
    recogniser: Path
    """Folder of the finished recogniser."""
    width: int = Field(128, ge=8, multiple_of=4)
    """Of the text's layers and of the embeddings."""
    layers: int = Field(2, ge=1)


class AgreementTarget(Target):
    """Each picture is to know its caption among all of the batch and its own turned round.

    The others are those that one process reads at once, so that processes and accumulation make
    the task easier: keep the batch in one part.
    """

    rows_apart = False

    def __init__(self, config: AgreementConfig, seed: int, batch_size: int) -> None:
        super().__init__(seed, batch_size)
        self.config = config
        recogniser = Recogniser.load(config.recogniser)
        self.agreement = Agreement(recogniser, config.width, config.layers)

    def forward(self, batch: Batch) -> Tensor:
        pictures_BD = self.agreement.pictures(batch.pixels_BCHW)
        wrong = [turned_round(caption) for caption in batch.captions]
        told_BD, wrong_BD = self.agreement.captions([*batch.captions, *wrong]).chunk(2)

        scale = self.agreement.log_scale.exp()
        each_BB = scale * pictures_BD @ told_BD.T
        own_B = torch.arange(len(wrong), device=each_BB.device)
        wrong_B1 = scale * (pictures_BD * wrong_BD).sum(-1, keepdim=True)
        # Captions that say no place have no wrong form.
        said_B = [a != b for a, b in zip(wrong, batch.captions, strict=True)]
        wrong_B1 = wrong_B1.masked_fill(~torch.tensor(said_B, device=own_B.device)[:, None], -100)
        to_text_B = functional.cross_entropy(
            torch.cat([each_BB, wrong_B1], 1), own_B, reduction="none"
        )
        to_picture_B = functional.cross_entropy(each_BB.T, own_B, reduction="none")
        return (to_text_B + to_picture_B) / 2

    @torch.no_grad()
    def draw(self, batch: Batch, config: SamplesConfig) -> Image.Image:
        """Each picture with the caption of the batch that fits it best."""
        pictures = pictures_of(batch.pixels_BCHW)
        told_BD = self.agreement.captions(batch.captions)
        best = (self.agreement.pictures(batch.pixels_BCHW) @ told_BD.T).argmax(1).tolist()
        labels = [
            ("" if own == chosen else "WRONG: ") + batch.captions[chosen]
            for own, chosen in enumerate(best)
        ]
        return picture_grid(pictures, labels, config.columns)

    def export(self, folder: Path, batch: Batch, config: ExportConfig, notes: Notes) -> None:
        """Its recogniser goes with it."""
        with atomic_folder(folder) as new:
            for name in (CONFIG, WEIGHTS):
                shutil.copy(self.config.recogniser / name, new / name)
            self.agreement.save(new, {"trained": notes["trained"]})


def turned_round(caption: str) -> str:
    """The caption with each place said the other way: it fits the picture no more."""
    return re.sub(r"\w+", lambda word: OPPOSITES.get(word[0], word[0]), caption)
