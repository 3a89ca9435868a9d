"""Training to denoise latents under text: the loss that every denoising target shares.

B batch rows, C channels, H W size of latents, T D text tokens and width.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from t2i.conditioning.conditioning import Conditioning
from t2i.denoiser.build import ModelComponents
from t2i.denoiser.families import sd, sdxl
from t2i.denoiser.families.sd import scale_latents
from t2i.denoiser.schedulers import Scheduler
from t2i.randomness import derive_generator
from t2i.text.encoder_interface import EncodedText
from train.batches.micro_batch import MicroBatch
from train.cache.caption_encoding import (
    build_caption_encoder,
    encode_captions,
    find_caption_token_spans,
)
from train.export import ExportConfig, ModelNotes, build_pipeline, build_scheduler, export_model
from train.objective.attention_supervision import (
    AttentionSupervision,
    AttentionSupervisionConfig,
    select_supervised_words,
)
from train.objective.losses import pool_loss_weights
from train.objective.objective import (
    NoiseLevel,
    Objective,
    ObjectiveConfig,
    add_offset_noise,
    perturb_input_noise,
    sample_stratified_quantiles,
)
from train.reporting.sample_sheets import SamplesConfig, draw_sample_sheet, generate_prompt_images
from train.targets.conditioning import build_conditioning_from_encoded_captions, repeat_conditioning
from train.targets.latents import encode_latent_moments
from train.targets.target import TrainingTarget
from train.targets.unused_weights import freeze_unused_weights

if TYPE_CHECKING:
    from pipelines.text_to_image import TextToImagePipeline
    from train.cache.encoders import CacheEncoders


@dataclass(frozen=True, slots=True)
class EncodedValidationPicture:
    """Latents and conditioning of one validation picture, encoded without any random choice.

    conditioning : None if a text encoder is trained, so that it changes with every step
    """

    batch: MicroBatch
    latents_1CHW: Tensor
    conditioning: Conditioning | None


@dataclass(frozen=True, slots=True)
class NoisyLatentsWithTarget:
    """Latents with noise added, their noise level, and the output that the denoiser should have
    for them.
    """

    noisy_BCHW: Tensor
    target_BCHW: Tensor
    level: NoiseLevel


class BaseDenoisingTarget(TrainingTarget):
    """Base of the targets that train a denoiser on latents; subclasses choose what is trained."""

    def __init__(
        self,
        components: ModelComponents,
        objective: ObjectiveConfig,
        seed: int,
        batch_size: int,
        caption_dropout: float,
        supervision: AttentionSupervisionConfig,
    ) -> None:
        super().__init__(seed, batch_size)
        self.supervision = supervision
        self.components, self.caption_dropout = components, caption_dropout
        self.objective = Objective(objective)
        self.cache: CacheEncoders | None = None
        """Cached embeddings, and the encoders whose weights were freed, where there is a cache."""
        self.unet, self.vae = components.unet, components.vae.eval()
        self.text_encoder, self.text_encoder_2 = components.text_encoder, components.text_encoder_2
        for part in filter(None, (self.unet, self.vae, self.text_encoder, self.text_encoder_2)):
            part.requires_grad_(False)

    def set_up_encoder_and_checkpointing(self, gradient_checkpointing: bool) -> None:
        """Build the prompt encoder, and enable gradient checkpointing; called by a subclass once
        `requires_grad` is set.
        """
        self.encoder = build_caption_encoder(self.components)
        if encoders := self._trained_encoders():
            freeze_unused_weights(encoders, self._encode_every_word)
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
            for encoder in self._trained_encoders():
                encoder.gradient_checkpointing_enable({"use_reentrant": False})

    def train(self, mode: bool = True) -> "BaseDenoisingTarget":
        """Set the training mode of trained components only: a frozen T5 must not use dropout."""
        super().train(mode)
        for part in self.children():
            part.train(mode and any(weight.requires_grad for weight in part.parameters()))
        return self

    def forward(self, batch: MicroBatch) -> Tensor:
        """Return the denoising loss of each row, (B,) float32, at a random noise level."""
        return self.compute_losses(batch, self._add_noise(batch))

    def compute_losses(self, batch: MicroBatch, noised: NoisyLatentsWithTarget) -> Tensor:
        """Return the loss of each row, (B,), for given noisy latents of the batch."""
        with torch.set_grad_enabled(bool(self._trained_encoders()) and torch.is_grad_enabled()):
            captions = self._captions(batch)
            conditioning = self._build_conditioning(batch, captions)

        supervision = self._supervision(
            batch, captions, noised.level, conditioning.text_BTD.shape[1]
        )
        with nullcontext() if supervision is None else supervision.supervising_pass(self.unet):
            output_BCHW = self._denoise(noised, conditioning)
        loss_B = self._errors(batch, output_BCHW, noised.target_BCHW, noised.level)
        if supervision is not None:
            loss_B = loss_B + self.supervision.attention_weight * supervision.compute_losses()
        return loss_B if batch.weights_B is None else loss_B * batch.weights_B

    def _add_noise(self, batch: MicroBatch) -> NoisyLatentsWithTarget:
        """Return the latents of the batch, each row at its own noise level."""
        latents_BCHW, level = self._latents(batch), self._noise_level(batch)
        noise_BCHW, on_input_BCHW = self._noises(latents_BCHW, batch)
        noisy_BCHW = self.objective.add_noise(latents_BCHW, on_input_BCHW, level)
        target_BCHW = self.objective.compute_prediction_target(latents_BCHW, noise_BCHW, level)
        return NoisyLatentsWithTarget(noisy_BCHW, target_BCHW, level)

    def _noise_level(self, batch: MicroBatch) -> NoiseLevel:
        """Return the random noise level of each row."""
        return self.objective.noise_level_at_quantile(self._sample_quantiles(batch))

    def _sample_quantiles(self, batch: MicroBatch) -> Tensor:
        config = self.objective.config
        return sample_stratified_quantiles(
            config, self.seed, batch.step, batch.slots, self.batch_size
        ).to(self.device)

    def predict(
        self, latents_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """Return the denoiser's output for noisy latents, (B, C, H, W)."""
        return sd.run_unet(self.unet, latents_BCHW, timestep_B, conditioning)

    def _denoise(self, noised: NoisyLatentsWithTarget, conditioning: Conditioning) -> Tensor:
        return self.predict(noised.noisy_BCHW, noised.level.timestep_B, conditioning)

    def _errors(
        self, batch: MicroBatch, output_BCHW: Tensor, target_BCHW: Tensor, level: NoiseLevel
    ) -> Tensor:
        """Return the weighted error of the denoiser's output in each row, (B,)."""
        weight_B1HW = self._loss_weights(batch, output_BCHW)
        return self.objective.compute_losses(output_BCHW, target_BCHW, level, weight_B1HW)

    def _loss_weights(self, batch: MicroBatch, output_BCHW: Tensor) -> Tensor | None:
        """Return how much each place of the output counts by the loss masks; None without masks."""
        mask_B1YX = batch.loss_mask_B1HW
        return None if mask_B1YX is None else pool_loss_weights(mask_B1YX, *output_BCHW.shape[2:])

    def _supervision(
        self, batch: MicroBatch, captions: Sequence[str], level: NoiseLevel, length: int
    ) -> AttentionSupervision | None:
        """Return the attention supervision of the batch; None if no row is supervised.

        length : T, text tokens of a row
        """
        config = self.supervision
        if not config.attention_weight or batch.masks_BKHW is None:
            return None
        noise_B = level.sigma_B.square() / (level.alpha_B.square() + level.sigma_B.square())
        low, high = config.attention_noise
        tokens = [
            find_caption_token_spans(self.encoder, self.components.tokenizer, caption, spans)
            if caption
            else ()
            for caption, spans in zip(captions, batch.spans, strict=True)
        ]
        wanted_B = (noise_B >= low) & (noise_B <= high)
        words = select_supervised_words(tokens, batch.masks_BKHW, wanted_B, length)
        return None if words is None else AttentionSupervision(config, words, len(captions))

    @torch.no_grad()
    def encode_validation_picture(self, batch: MicroBatch) -> EncodedValidationPicture:
        """Encode latents and conditioning of the one picture of a batch, to measure its
        validation loss.
        """
        latents_1CHW = scale_latents(
            self.components.vae, encode_latent_moments(self.vae, batch, self.device)[0].float()
        )
        conditioning = None
        if not self._trained_encoders():
            conditioning = self._build_conditioning(batch, batch.captions)
        height, width = batch.pixels_BCHW.shape[2:]
        seen = replace(batch, pixels_BCHW=batch.pixels_BCHW.new_zeros(1, 0, height, width))
        return EncodedValidationPicture(seen, latents_1CHW, conditioning)

    @torch.no_grad()
    def compute_validation_errors(
        self, picture: EncodedValidationPicture, noise_BCHW: Tensor, level: NoiseLevel
    ) -> Tensor:
        """Return the denoiser's squared error as velocity, (B,), for one validation picture
        under B noises.

        One measure for every prediction type, see `Objective.compute_velocity_errors`.
        """
        conditioning = picture.conditioning
        if conditioning is None:
            conditioning = self._build_conditioning(picture.batch, picture.batch.captions)
        noisy_BCHW = self.objective.add_noise(picture.latents_1CHW, noise_BCHW, level)
        target_BCHW = self.objective.compute_prediction_target(
            picture.latents_1CHW, noise_BCHW, level
        )
        output_BCHW = self.predict(
            noisy_BCHW, level.timestep_B, repeat_conditioning(conditioning, len(noise_BCHW))
        )
        return self.objective.compute_velocity_errors(output_BCHW, target_BCHW, level)

    def _noises(self, latents_BCHW: Tensor, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Return the noise that the target is made of, and the noise on the input."""
        config = self.objective.config
        noise_BCHW = self.sample_seeded_noise_per_row(latents_BCHW, batch, "noise")
        if config.noise_offset:
            offset_BC11 = self.sample_seeded_noise_per_row(
                latents_BCHW[:, :, :1, :1], batch, "offset"
            )
            noise_BCHW = add_offset_noise(noise_BCHW, offset_BC11, config.noise_offset)
        if not config.input_perturbation:
            return noise_BCHW, noise_BCHW
        extra_BCHW = self.sample_seeded_noise_per_row(latents_BCHW, batch, "perturbation")
        return noise_BCHW, perturb_input_noise(noise_BCHW, extra_BCHW, config.input_perturbation)

    def list_random_values_for_report(self, batch: MicroBatch) -> dict[str, list[float]]:
        """Return the random timestep of each row, for reports of steps that are not finite."""
        return {"timestep": self._noise_level(batch).timestep_B.tolist()}

    @torch.no_grad()
    def draw_sample_sheet(self, batch: MicroBatch, config: SamplesConfig) -> Image.Image:
        """Generate an image for each prompt of the config and return them as one sample sheet."""
        pipe = self.build_pipeline()
        with self._lower_precision():
            drawn = generate_prompt_images(
                pipe, config, config.choose_heat_map_words(self.list_new_word_spellings())
            )
        return draw_sample_sheet(drawn, config.columns)

    def list_new_word_spellings(self) -> list[str]:
        """Return the spellings of the new words that are learned; none unless a subclass learns
        some.
        """
        return []

    def build_pipeline(self) -> "TextToImagePipeline":
        """Return a pipeline of the trained model's components, which shares their weights."""
        self.reload_encoder_weights()
        return build_pipeline(self.components, self.build_scheduler())

    def reload_encoder_weights(self) -> None:
        """Load again the encoder weights that were freed because of the cache, to generate or to
        export.
        """
        if self.cache is not None:
            self.cache.reload_weights(self.device)

    def release_encoder_weights(self) -> None:
        """Free the weights of the encoders that the cache replaces in training."""
        if self.cache is not None:
            self.cache.release_weights()

    def build_scheduler(self) -> Scheduler:
        """Return a diffusers scheduler that samples what the training objective trains."""
        return build_scheduler(self.objective.config)

    def export(
        self, folder: Path, batch: MicroBatch, config: ExportConfig, notes: ModelNotes
    ) -> None:
        """Write the whole pipeline as a folder that diffusers reads."""
        export_model(self.components, self.build_scheduler(), folder, config, notes)

    def _trained_encoders(self) -> list[PreTrainedModel]:
        encoders = filter(None, (self.text_encoder, self.text_encoder_2))
        return [e for e in encoders if any(p.requires_grad for p in e.parameters())]

    @torch.no_grad()
    def _latents(self, batch: MicroBatch) -> Tensor:
        latents_BCHW, std_BCHW = encode_latent_moments(self.vae, batch, self.device)
        if std_BCHW is not None:
            noise_BCHW = self.sample_seeded_noise_per_row(latents_BCHW, batch, "posterior")
            latents_BCHW = latents_BCHW + std_BCHW * noise_BCHW
        return scale_latents(self.components.vae, latents_BCHW.float())

    def _lower_precision(self) -> AbstractContextManager[object]:
        """Return autocast to the type of the frozen weights if that is not float32."""
        kinds = {weight.dtype for weight in self.parameters()} - {torch.float32}
        return torch.autocast(self.device.type, kinds.pop()) if kinds else nullcontext()

    def _build_conditioning(self, batch: MicroBatch, captions: Sequence[str]) -> Conditioning:
        """Return the conditioning that the pipelines would build for the batch and these captions.

        Differentiable where a text encoder is trained.
        """
        return build_conditioning_from_encoded_captions(self.unet, self._encode(captions), batch)

    def _encode(self, captions: Sequence[str]) -> EncodedText:
        if self.cache is not None and self.cache.texts is not None:
            return self.cache.texts.read(captions, self.device)
        return encode_captions(self.components, self.encoder, captions)

    def _encode_every_word(self) -> list[Tensor]:
        """Return the embeddings that the denoiser reads, of a caption with every new word."""
        encoded = self._encode([" ".join(self.list_new_word_spellings())])
        if sdxl.takes_size_conditioning(self.unet):
            return [encoded.text_BTD, sdxl.require_pooled_embedding(encoded.pooled_BD)]
        return [encoded.text_BTD]

    def _captions(self, batch: MicroBatch) -> list[str]:
        dropped = [
            torch.rand(
                (), generator=derive_generator(self.seed, batch.step, slot, "dropout")
            ).item()
            < self.caption_dropout
            for slot in batch.slots
        ]
        return ["" if drop else text for drop, text in zip(dropped, batch.captions, strict=True)]
