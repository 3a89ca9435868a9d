"""What is trained. A target is a module whose forward turns a batch into one loss per row.

B batch rows.
"""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from t2i.randomness import derive_generator
from train.batches.batch import Batch
from train.export import ExportConfig, Notes
from train.optim.optimizer import Group
from train.reporting.sample_sheets import SamplesConfig


class Target(nn.Module, ABC):
    """Base of the targets: modules, those that are trained having `requires_grad`.

    It knows its seed and the size of the global batch, so that noise can be a row's own.
    """

    rows_apart = True
    """Whether the loss of a row is the same whatever rows are computed with it."""

    def __init__(self, seed: int, batch_size: int) -> None:
        super().__init__()
        self.seed, self.batch_size = seed, batch_size

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """One loss per row, (B,) float32."""

    def drawn(self, _batch: Batch) -> dict[str, list[float]]:
        """What forward draws for each row, by name, for whoever looks into a bad step."""
        return {}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @abstractmethod
    def draw(self, batch: Batch, config: SamplesConfig) -> Image.Image:
        """A sheet of what the target makes now, of a batch or of the config's prompts."""

    @abstractmethod
    def export(self, folder: Path, batch: Batch, config: ExportConfig, notes: Notes) -> None:
        """Write what was trained as a folder that diffusers reads, complete or not at all."""

    def let_go(self) -> None:
        """Free what only drawing and exporting have needed."""

    def weights(self) -> dict[str, nn.Parameter]:
        """The trained parameters, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def groups(self) -> list[Group]:
        """The trained parameters, by what is stepped alike."""
        return [Group("all", [*self.weights().values()])]

    def noise(self, like: Tensor, batch: Batch, purpose: str) -> Tensor:
        """Standard normal noise of the shape of `like`, row by row from the row's own slot."""
        rows = [
            torch.randn(
                like.shape[1:], generator=derive_generator(self.seed, batch.step, slot, purpose)
            )
            for slot in batch.slots
        ]
        return torch.stack(rows).to(like.device, like.dtype)
