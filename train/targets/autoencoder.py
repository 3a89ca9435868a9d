"""Target: an autoencoder, trained to reconstruct images.

B batch rows, C channels, H W size of pictures or latents.
"""

from pathlib import Path
from typing import Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from t2i.denoiser.build import ModelComponents
from t2i.pictures import build_picture_grid
from t2i.randomness import derive_generator
from train.batches.micro_batch import MicroBatch
from train.export import ExportConfig, ModelNotes, export_vae
from train.reporting.sample_sheets import SamplesConfig, pixels_to_images
from train.targets.latents import retrieve_latent_mean
from train.targets.target import TrainingTarget


class AutoencoderTargetConfig(BaseModel):
    """Configuration of the target that trains an autoencoder to reconstruct pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["autoencoder"] = "autoencoder"
    vae: Path | None = None
    """Folder of a finished autoencoder to start from; fresh weights when left out."""
    train_encoder: bool = True
    """Train the encoder too; without it the latents stay those that a denoiser was trained on."""
    crop: int | None = Field(None, ge=32)
    """Side in pixels of the random square crops to train on; whole pictures when left out.

    The autoencoder is fully convolutional, so that what it learns from crops holds at any size, and
    many small steps train it faster than few large ones.
    """
    latent_noise: float = Field(0.05, ge=0)
    """Standard deviation of noise on the latents of AutoencoderTiny, which has no posterior."""
    latent_weight: float = Field(1e-3, ge=0)
    """Weight of the latents' mean square; with AutoencoderKL, of the KL divergence per latent."""
    gradient_weight: float = Field(1.0, ge=0)
    """Weight of the absolute error of the differences between neighbouring pixels."""


class AutoencoderTarget(TrainingTarget):
    """Target that trains an autoencoder by absolute, squared and edge error and a latent
    penalty.
    """

    def __init__(
        self,
        components: ModelComponents,
        config: AutoencoderTargetConfig,
        seed: int,
        batch_size: int,
    ) -> None:
        super().__init__(seed, batch_size)
        self.config, self.components = config, components
        self.vae = components.vae.requires_grad_(True)
        self.vae.encoder.requires_grad_(config.train_encoder)
        if isinstance(self.vae, AutoencoderKL) and self.vae.quant_conv is not None:
            self.vae.quant_conv.requires_grad_(config.train_encoder)

    def forward(self, batch: MicroBatch) -> Tensor:
        """Encode and decode the pictures of a batch; return for each row, (B,), the weighted sum of
        absolute, squared and edge error and of the latent penalty.
        """
        pixels_BCHW = self._cropped(batch)
        latents_BCHW, penalty_B = self._latents(pixels_BCHW, batch)
        decoded_BCHW = self.vae.decode(latents_BCHW, return_dict=False)[0].float()

        error_BCHW = decoded_BCHW - pixels_BCHW
        edges = (error_BCHW.diff(dim=2).abs(), error_BCHW.diff(dim=3).abs())
        return (
            _row_mean(error_BCHW.abs())
            + _row_mean(error_BCHW.pow(2))
            + self.config.gradient_weight * sum(_row_mean(edge) for edge in edges)
            + self.config.latent_weight * penalty_B
        )

    def _cropped(self, batch: MicroBatch) -> Tensor:
        side = self.config.crop
        if side is None:
            return batch.pixels_BCHW
        height, width = batch.pixels_BCHW.shape[2:]
        rows = []
        for row_CHW, slot in zip(batch.pixels_BCHW, batch.slots, strict=True):
            u, v = torch.rand(
                2, generator=derive_generator(self.seed, batch.step, slot, "crop")
            ).tolist()
            top, left = int(u * (height - side + 1)), int(v * (width - side + 1))
            rows.append(row_CHW[:, top : top + side, left : left + side])
        return torch.stack(rows)

    def _latents(self, pixels_BCHW: Tensor, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(self.config.train_encoder and torch.is_grad_enabled()):
            encoded = self.vae.encode(pixels_BCHW)
        if isinstance(self.vae, AutoencoderKL):
            posterior = encoded.latent_dist
            noise_BCHW = self.sample_seeded_noise_per_row(posterior.mean, batch, "posterior")
            kl_B = posterior.kl() / posterior.mean[0].numel()
            return posterior.mean + posterior.std * noise_BCHW, kl_B
        latents_BCHW = encoded.latents
        noise_BCHW = self.sample_seeded_noise_per_row(latents_BCHW, batch, "posterior")
        penalty_B = _row_mean(latents_BCHW.float().pow(2))
        return latents_BCHW + self.config.latent_noise * noise_BCHW, penalty_B

    @torch.no_grad()
    def draw_sample_sheet(self, batch: MicroBatch, config: SamplesConfig) -> Image.Image:
        """Return a sheet of the pictures, each above its reconstruction without noise."""
        decoded_BCHW = self.vae.decode(retrieve_latent_mean(self.vae.encode(batch.pixels_BCHW)))[
            0
        ].float()
        both = torch.cat([batch.pixels_BCHW, decoded_BCHW], dim=2).clamp(-1, 1)
        labels = [f"{name} (below: decoded)" for name in batch.names]
        return build_picture_grid(pixels_to_images(both), labels, config.columns)

    @torch.no_grad()
    def export(
        self, folder: Path, batch: MicroBatch, config: ExportConfig, notes: ModelNotes
    ) -> None:
        """Write the autoencoder in float32 as a folder that diffusers reads.

        If its encoder was trained, `scaling_factor` becomes the factor that gives the latents of
        `batch` unit variance; otherwise it stays, as a denoiser may depend on it.
        """
        if self.config.train_encoder:
            scale = (
                1 / retrieve_latent_mean(self.vae.encode(batch.pixels_BCHW)).float().std().item()
            )
            self.vae.register_to_config(scaling_factor=scale)  # type: ignore[no-untyped-call]
        export_vae(self.components.vae, folder)


def _row_mean(value_BCHW: Tensor) -> Tensor:
    return value_BCHW.float().flatten(1).mean(1)
