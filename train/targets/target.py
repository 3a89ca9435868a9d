"""Base class of the training targets: modules whose forward pass returns one loss per row.

B batch rows.
"""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from t2i.randomness import derive_generator
from train.batches.micro_batch import MicroBatch
from train.export import ExportConfig, ModelNotes
from train.optim.optimizer import ParameterGroup
from train.reporting.sample_sheets import SamplesConfig


class TrainingTarget(nn.Module, ABC):
    """Base class of the training targets, modules that compute their own loss; trained
    parameters are those with `requires_grad`.

    seed, batch_size : of the run, from which each row of the global batch has noise of its own
    """

    rows_apart = True
    """True if the loss of a row does not depend on the other rows of its batch."""

    def __init__(self, seed: int, batch_size: int) -> None:
        super().__init__()
        self.seed, self.batch_size = seed, batch_size

    @abstractmethod
    def forward(self, batch: MicroBatch) -> Tensor:
        """Compute the target's loss on a batch and return it for each row, (B,) float32."""

    def list_random_values_for_report(self, _batch: MicroBatch) -> dict[str, list[float]]:
        """List the random numbers that went into the loss of each row, such as its timestep, by
        name; for reports.
        """
        return {}

    @property
    def device(self) -> torch.device:
        """Device that the parameters of the training target are on."""
        return next(self.parameters()).device

    @abstractmethod
    def draw_sample_sheet(self, batch: MicroBatch, config: SamplesConfig) -> Image.Image:
        """Make the sample sheet of a step: what the target produces from a batch or the config's
        prompts.
        """

    @abstractmethod
    def export(
        self, folder: Path, batch: MicroBatch, config: ExportConfig, notes: ModelNotes
    ) -> None:
        """Write the trained model as a folder that diffusers reads, complete or not at all."""

    def release_encoder_weights(self) -> None:
        """Free the weights of encoders that only sample sheets and export need; does nothing unless
        a subclass has such.
        """

    def collect_trained_parameters_by_name(self) -> dict[str, nn.Parameter]:
        """Return the parameters of the target that are trained, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def build_parameter_groups(self) -> list[ParameterGroup]:
        """Return the trained parameters in groups with one learning rate and weight decay each."""
        return [ParameterGroup("all", [*self.collect_trained_parameters_by_name().values()])]

    def sample_seeded_noise_per_row(self, like: Tensor, batch: MicroBatch, purpose: str) -> Tensor:
        """Sample standard normal noise of the shape of `like`; each row has a generator seeded by
        the run's seed, the step, its slot in the global batch and the purpose.
        """
        rows = [
            torch.randn(
                like.shape[1:], generator=derive_generator(self.seed, batch.step, slot, purpose)
            )
            for slot in batch.slots
        ]
        return torch.stack(rows).to(like.device, like.dtype)
