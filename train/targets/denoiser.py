"""Target: a denoiser trained from scratch, with its text encoder if wanted.

B batch rows.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import Tensor

from t2i.denoiser.build import ModelComponents
from train.batches.micro_batch import MicroBatch
from train.objective.attention_supervision import AttentionSupervisionConfig
from train.objective.mid_block_position_loss import MidBlockPositionLoss
from train.objective.objective import ObjectiveConfig
from train.targets.denoising import BaseDenoisingTarget


class ScratchDenoiserTargetConfig(AttentionSupervisionConfig):
    """Configuration of the target that trains a denoiser from scratch, with its text encoder if
    wanted.
    """

    kind: Literal["denoiser"] = "denoiser"
    vae: Path | None = None
    """Folder of the finished autoencoder; the model's own when left out."""
    unet: Path | None = None
    """Folder of a trained UNet to start from; fresh weights when left out."""
    text_encoder: Path | None = None
    """Folder of a trained text encoder to start from; fresh weights when left out."""
    train_text_encoder: bool = True
    """Train the text encoder too."""
    gradient_checkpointing: bool = False
    caption_dropout: float = Field(0.1, ge=0, le=1)
    """Share of the captions replaced by the empty one, for classifier-free guidance."""
    place_weight: float = Field(0.0, ge=0)
    """Weight of MidBlockPositionLoss, with which "left" and "above" are learned far sooner."""


class ScratchDenoiserTarget(BaseDenoisingTarget):
    """Target that trains the whole UNet and, unless configured otherwise, the text encoders."""

    def __init__(
        self,
        components: ModelComponents,
        config: ScratchDenoiserTargetConfig,
        objective: ObjectiveConfig,
        seed: int,
        batch_size: int,
    ) -> None:
        super().__init__(components, objective, seed, batch_size, config.caption_dropout, config)
        self.config = config
        self.unet.requires_grad_(True)
        for encoder in filter(None, (self.text_encoder, self.text_encoder_2)):
            encoder.requires_grad_(config.train_text_encoder)
        self.set_up_encoder_and_checkpointing(config.gradient_checkpointing)
        self.places = MidBlockPositionLoss(self.unet) if config.place_weight > 0 else None

    def forward(self, batch: MicroBatch) -> Tensor:
        """Return the denoising loss of each row, (B,), plus the position loss if enabled."""
        loss_B = super().forward(batch)
        if self.places is not None:
            loss_B = loss_B + self.config.place_weight * self.places.compute_losses()
        return loss_B
