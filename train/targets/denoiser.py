"""Training a denoiser, and the text encoder with it.

B batch rows, C channels, H W size of latents, T D text tokens and width.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from t2i.conditioning.conditioning import Conditioning
from t2i.denoiser.build import Components
from t2i.denoiser.families import sd, sdxl
from t2i.denoiser.families.sd import scale_latents
from t2i.pictures import sheet
from t2i.text.encoder import TextEncoder, TwoClip, text_encoder
from train.batch import Batch
from train.export import ExportConfig, Notes, export, pipeline
from train.objective import Objective, ObjectiveConfig, quantiles
from train.places import Places
from train.randomness import generator
from train.samples import SamplesConfig, draw_prompts
from train.targets.autoencoder import middle
from train.targets.target import Target


class DenoiserConfig(BaseModel):
    """Train the denoiser, and the text encoder with it, on latents of a finished autoencoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    """Weight of the loss of Places, with which "left" and "above" are learned far sooner."""


class Denoiser(Target):
    """Denoising of latents under text."""

    def __init__(
        self,
        components: Components,
        config: DenoiserConfig,
        objective: ObjectiveConfig,
        seed: int,
        batch_size: int,
    ) -> None:
        super().__init__(seed, batch_size)
        self.config, self.components = config, components
        self.objective = Objective(objective)
        self.unet = components.unet.requires_grad_(True)
        self.text_encoder = components.text_encoder.requires_grad_(config.train_text_encoder)
        self.vae = components.vae.requires_grad_(False).eval()
        self.text_encoder_2 = components.text_encoder_2
        first = text_encoder(components.tokenizer, self.text_encoder)
        self.encoder: TextEncoder = first
        if self.text_encoder_2 is not None:
            self.text_encoder_2.requires_grad_(config.train_text_encoder)
            assert components.tokenizer_2 is not None
            second = text_encoder(components.tokenizer_2, self.text_encoder_2)
            self.encoder = TwoClip(first, second)
        if config.train_text_encoder:
            self._freeze_unread()
        self.places = Places(self.unet) if config.place_weight > 0 else None
        if config.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
            if config.train_text_encoder:
                self.text_encoder.gradient_checkpointing_enable()

    def forward(self, batch: Batch) -> Tensor:
        # what the picture and the text are
        latents_BCHW = self._latents(batch)
        with torch.set_grad_enabled(self.config.train_text_encoder and torch.is_grad_enabled()):
            told = self._tell(batch)

        # where on the schedule each row stands
        quantile_B = quantiles(
            self.objective.config, self.seed, batch.step, batch.slots, self.batch_size
        )
        level = self.objective.level(quantile_B.to(latents_BCHW.device))
        noise_BCHW = self.noise(latents_BCHW, batch, "noise")

        # what the denoiser makes of it
        noisy_BCHW = self.objective.noisy(latents_BCHW, noise_BCHW, level)
        target_BCHW = self.objective.target(latents_BCHW, noise_BCHW, level)
        output_BCHW = sd.denoise(self.unet, noisy_BCHW, level.timestep_B, told)
        loss_B = self.objective.losses(output_BCHW, target_BCHW, level)
        if self.places is not None:
            loss_B = loss_B + self.config.place_weight * self.places.losses()
        return loss_B

    @torch.no_grad()
    def draw(self, batch: Batch, config: SamplesConfig) -> Image.Image:
        return sheet(
            draw_prompts(pipeline(self.components, self.objective.config), config),
            list(config.prompts),
            config.columns,
        )

    def export(self, folder: Path, batch: Batch, config: ExportConfig, notes: Notes) -> None:
        export(self.components, self.objective.config, folder, config, notes)

    @torch.no_grad()
    def _latents(self, batch: Batch) -> Tensor:
        encoded = self.vae.encode(batch.pixels_BCHW)
        latents_BCHW = middle(encoded)
        if isinstance(self.vae, AutoencoderKL):
            noise_BCHW = self.noise(latents_BCHW, batch, "posterior")
            latents_BCHW = latents_BCHW + encoded.latent_dist.std * noise_BCHW
        return scale_latents(self.components.vae, latents_BCHW.float())

    def _tell(self, batch: Batch) -> Conditioning:
        """What the pipelines would tell the denoiser of these captions."""
        told = self.encoder.encode(self._captions(batch), chunks=1)
        if not sdxl.is_told_sizes(self.unet):
            return Conditioning(told.text_BTD, mask_BT=told.mask_BT)
        pooled_BD = sdxl.checked(told.pooled_BD)
        height, width = batch.pixels_BCHW.shape[2:]
        sizes = sdxl.Sizes((height, width), target=(height, width))
        ids_B6 = sdxl.time_ids(self.unet, sizes, pooled_BD)
        extra = {"text_embeds": pooled_BD, "time_ids": ids_B6}
        return Conditioning(told.text_BTD, extra=extra, mask_BT=told.mask_BT)

    def _freeze_unread(self) -> None:
        """Leave what the denoiser is told nothing of untrained: it would never get a gradient.

        Several processes wait for the gradient of every weight that is trained. Of SDXL's first
        encoder the layer before the last is read, so that its last one and the norm behind it stay.
        """
        encoders = [self.text_encoder, *filter(None, [self.text_encoder_2])]
        training = [encoder.training for encoder in encoders]
        for encoder in encoders:
            encoder.eval()  # dropout would draw from the generator of the run
        with torch.enable_grad():
            told = self.encoder.encode([""], chunks=1)
        for encoder, was in zip(encoders, training, strict=True):
            encoder.train(was)
        outputs = [told.text_BTD]
        if sdxl.is_told_sizes(self.unet):
            outputs.append(sdxl.checked(told.pooled_BD))
        read = leaves_of(outputs)
        for encoder in encoders:
            for weight in encoder.parameters():
                weight.requires_grad_(weight in read)

    def _captions(self, batch: Batch) -> list[str]:
        dropped = [
            torch.rand((), generator=generator(self.seed, batch.step, slot, "dropout")).item()
            < self.config.caption_dropout
            for slot in batch.slots
        ]
        return ["" if drop else text for drop, text in zip(dropped, batch.captions, strict=True)]


def leaves_of(outputs: Iterable[Tensor]) -> set[Tensor]:
    """The leaves, such as parameters, that a gradient of the outputs reaches."""
    leaves: set[Tensor] = set()
    seen: set[object] = set()
    nodes = [output.grad_fn for output in outputs]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            leaves.add(leaf)
        nodes += [following for following, _ in node.next_functions]
    return leaves
