"""The denoising of latents under text, whatever of it is trained.

B batch rows, C channels, H W size of latents, T D text tokens and width.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from t2i.conditioning.conditioning import Conditioning
from t2i.denoiser.build import Components
from t2i.denoiser.families import sd, sdxl
from t2i.denoiser.families.sd import scale_latents
from t2i.denoiser.schedulers import Scheduler
from t2i.randomness import derive_generator
from t2i.scenes.sample import Framing
from t2i.text.encoder_interface import EncodedText
from t2i.text.word_spans import Span, token_spans_of_ranges
from train.batches.batch import Batch
from train.cache.caption_encoding import encoder_of, read, spelled
from train.export import ExportConfig, Notes, export, pipeline, sampler
from train.objective.attention_supervision import Supervision, SupervisionConfig, supervised
from train.objective.losses import counted
from train.objective.objective import (
    Level,
    Objective,
    ObjectiveConfig,
    offset_noise,
    perturbed,
    quantiles,
)
from train.reporting.sample_sheets import SamplesConfig, draw_prompts, page
from train.targets.autoencoder import middle
from train.targets.target import Target

if TYPE_CHECKING:
    from pipelines.text_to_image import TextToImagePipeline
    from train.cache.encoders import Encoders


@dataclass(frozen=True, slots=True)
class Still:
    """A picture and its caption, nothing of them drawn.

    told : what the denoiser is told of the caption, or None where that is learned
    """

    batch: Batch
    latents_1CHW: Tensor
    told: Conditioning | None


@dataclass(frozen=True, slots=True)
class Noised:
    """Latents under noise, and what the denoiser is to make of them."""

    noisy_BCHW: Tensor
    target_BCHW: Tensor
    level: Level


class Denoising(Target):
    """A denoiser, its autoencoder and text encoders, of which a subclass lets some be trained."""

    def __init__(
        self,
        components: Components,
        objective: ObjectiveConfig,
        seed: int,
        batch_size: int,
        caption_dropout: float,
        supervision: SupervisionConfig,
    ) -> None:
        super().__init__(seed, batch_size)
        self.supervision = supervision
        self.components, self.caption_dropout = components, caption_dropout
        self.objective = Objective(objective)
        self.cache: Encoders | None = None
        """What reads the captions, and has the weights of the encoders, where these were let go."""
        self.unet, self.vae = components.unet, components.vae.eval()
        self.text_encoder, self.text_encoder_2 = components.text_encoder, components.text_encoder_2
        for part in filter(None, (self.unet, self.vae, self.text_encoder, self.text_encoder_2)):
            part.requires_grad_(False)

    def settle(self, gradient_checkpointing: bool) -> None:
        """Once it is known what is trained."""
        self.encoder = encoder_of(self.components)
        self._freeze_unread()
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
            for encoder in self._trained_encoders():
                encoder.gradient_checkpointing_enable({"use_reentrant": False})

    def train(self, mode: bool = True) -> "Denoising":
        """What is not trained stays as it is used: a frozen T5 must not drop out."""
        super().train(mode)
        for part in self.children():
            part.train(mode and any(weight.requires_grad for weight in part.parameters()))
        return self

    def forward(self, batch: Batch) -> Tensor:
        return self.losses(batch, self._noised(batch))

    def losses(self, batch: Batch, noised: Noised) -> Tensor:
        """One loss per row, (B,)."""
        with torch.set_grad_enabled(bool(self._trained_encoders()) and torch.is_grad_enabled()):
            captions = self._captions(batch)
            told = self._tell(batch, captions)

        supervision = self._supervise(batch, captions, noised.level, told.text_BTD.shape[1])
        with nullcontext() if supervision is None else supervision.reading(self.unet):
            output_BCHW = self._denoise(noised, told)
        loss_B = self._errors(batch, output_BCHW, noised.target_BCHW, noised.level)
        if supervision is not None:
            loss_B = loss_B + self.supervision.attention_weight * supervision.losses()
        return loss_B if batch.weights_B is None else loss_B * batch.weights_B

    def _noised(self, batch: Batch) -> Noised:
        """The latents of the batch, each row at its own level of noise."""
        latents_BCHW = self._latents(batch)
        quantile_B = quantiles(
            self.objective.config, self.seed, batch.step, batch.slots, self.batch_size
        )
        level = self.objective.level(quantile_B.to(latents_BCHW.device))
        noise_BCHW, on_input_BCHW = self._noises(latents_BCHW, batch)
        noisy_BCHW = self.objective.noisy(latents_BCHW, on_input_BCHW, level)
        target_BCHW = self.objective.target(latents_BCHW, noise_BCHW, level)
        return Noised(noisy_BCHW, target_BCHW, level)

    def _denoise(self, noised: Noised, told: Conditioning) -> Tensor:
        return sd.denoise(self.unet, noised.noisy_BCHW, noised.level.timestep_B, told)

    def _errors(
        self, batch: Batch, output_BCHW: Tensor, target_BCHW: Tensor, level: Level
    ) -> Tensor:
        """How far the denoiser's output is from its target where the loss counts, (B,)."""
        weight_B1HW = batch.counted_B1HW
        if weight_B1HW is not None:
            weight_B1HW = counted(weight_B1HW, *output_BCHW.shape[2:])
        return self.objective.losses(output_BCHW, target_BCHW, level, weight_B1HW)

    def _supervise(
        self, batch: Batch, captions: Sequence[str], level: Level, length: int
    ) -> Supervision | None:
        """Who reads the maps of the words that have masks; None where no row is supervised.

        length : T, text tokens of a row
        """
        config = self.supervision
        if not config.attention_weight or batch.masks_BKHW is None:
            return None
        noise_B = level.sigma_B.square() / (level.alpha_B.square() + level.sigma_B.square())
        low, high = config.attention_noise
        tokens = [
            self._places(caption, spans) if caption else ()
            for caption, spans in zip(captions, batch.spans, strict=True)
        ]
        wanted_B = (noise_B >= low) & (noise_B <= high)
        words = supervised(tokens, batch.masks_BKHW, wanted_B, length)
        return None if words is None else Supervision(config, words, len(captions))

    def _places(self, caption: str, spans: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
        """The places along T of stretches of a caption, learned words spelled out."""
        tokenizer = self.components.tokenizer
        stretches = [
            (len(spelled(caption[:start], tokenizer)), len(spelled(caption[:end], tokenizer)))
            for start, end in spans
        ]
        return token_spans_of_ranges(self.encoder, spelled(caption, tokenizer), stretches)

    @torch.no_grad()
    def still(self, batch: Batch) -> Still:
        """What a validation reads of the one picture of a batch, again and again."""
        latents_1CHW = scale_latents(self.components.vae, self._posterior(batch)[0].float())
        told = None if self._trained_encoders() else self._tell(batch, batch.captions)
        height, width = batch.pixels_BCHW.shape[2:]
        seen = replace(batch, pixels_BCHW=batch.pixels_BCHW.new_zeros(1, 0, height, width))
        return Still(seen, latents_1CHW, told)

    @torch.no_grad()
    def velocity_errors(self, still: Still, noise_BCHW: Tensor, level: Level) -> Tensor:
        """The squared error of the velocity, (B,), for one picture under several noises.

        The same measure for every prediction, see `Objective.velocity_errors`.
        """
        told = still.told or self._tell(still.batch, still.batch.captions)
        noisy_BCHW = self.objective.noisy(still.latents_1CHW, noise_BCHW, level)
        target_BCHW = self.objective.target(still.latents_1CHW, noise_BCHW, level)
        output_BCHW = sd.denoise(
            self.unet, noisy_BCHW, level.timestep_B, repeated(told, len(noise_BCHW))
        )
        return self.objective.velocity_errors(output_BCHW, target_BCHW, level)

    def _noises(self, latents_BCHW: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The noise that is to be found, and the one on the input."""
        config = self.objective.config
        noise_BCHW = self.noise(latents_BCHW, batch, "noise")
        if config.noise_offset:
            offset_BC11 = self.noise(latents_BCHW[:, :, :1, :1], batch, "offset")
            noise_BCHW = offset_noise(noise_BCHW, offset_BC11, config.noise_offset)
        if not config.input_perturbation:
            return noise_BCHW, noise_BCHW
        extra_BCHW = self.noise(latents_BCHW, batch, "perturbation")
        return noise_BCHW, perturbed(noise_BCHW, extra_BCHW, config.input_perturbation)

    def drawn(self, batch: Batch) -> dict[str, list[float]]:
        quantile_B = quantiles(
            self.objective.config, self.seed, batch.step, batch.slots, self.batch_size
        )
        return {"timestep": self.objective.level(quantile_B).timestep_B.tolist()}

    @torch.no_grad()
    def draw(self, batch: Batch, config: SamplesConfig) -> Image.Image:
        pipe = self.pipeline()
        with self._lower_precision():
            drawn = draw_prompts(pipe, config, config.looked_for(self.words()))
        return page(drawn, config.columns)

    def words(self) -> list[str]:
        """New words that it learns."""
        return []

    def pipeline(self) -> "TextToImagePipeline":
        """The parts at work, sharing their weights."""
        self.take_up()
        return pipeline(self.components, self.scheduler())

    def take_up(self) -> None:
        """Load again what the cache stands for in training, to draw with it or to export it."""
        if self.cache is not None:
            self.cache.take_up(self.device)

    def let_go(self) -> None:
        if self.cache is not None:
            self.cache.let_go()

    def scheduler(self) -> Scheduler:
        """One that samples what is trained."""
        return sampler(self.objective.config)

    def export(self, folder: Path, batch: Batch, config: ExportConfig, notes: Notes) -> None:
        export(self.components, self.scheduler(), folder, config, notes)

    def _trained_encoders(self) -> list[PreTrainedModel]:
        encoders = filter(None, (self.text_encoder, self.text_encoder_2))
        return [e for e in encoders if any(p.requires_grad for p in e.parameters())]

    @torch.no_grad()
    def _latents(self, batch: Batch) -> Tensor:
        latents_BCHW, std_BCHW = self._posterior(batch)
        if std_BCHW is not None:
            noise_BCHW = self.noise(latents_BCHW, batch, "posterior")
            latents_BCHW = latents_BCHW + std_BCHW * noise_BCHW
        return scale_latents(self.components.vae, latents_BCHW.float())

    def _posterior(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """What the autoencoder makes of the pictures: the middle, and how far it may be from it."""
        has_posterior = isinstance(self.vae, AutoencoderKL)
        if batch.moments_BCHW is not None:
            moments = batch.moments_BCHW.chunk(1 + has_posterior, dim=1)
            return moments[0], moments[1] if has_posterior else None
        with self._vae_precision():
            encoded = self.vae.encode(batch.pixels_BCHW)
        std = encoded.latent_dist.std if has_posterior else None
        return middle(encoded), std

    def _lower_precision(self) -> AbstractContextManager[object]:
        """Autocast where what is trained is in float32 and the rest in less."""
        kinds = {weight.dtype for weight in self.parameters()} - {torch.float32}
        return torch.autocast(self.device.type, kinds.pop()) if kinds else nullcontext()

    def _vae_precision(self) -> AbstractContextManager[object]:
        """In float32 where the autoencoder, as SDXL's, says that less is not enough."""
        upcast = self.vae.config.get("force_upcast", False)
        return torch.autocast(self.device.type, enabled=False) if upcast else nullcontext()

    def _tell(self, batch: Batch, captions: Sequence[str]) -> Conditioning:
        """What the pipelines would tell the denoiser of the batch under these captions."""
        told = self._read(captions)
        if not sdxl.is_told_sizes(self.unet):
            return Conditioning(told.text_BTD, mask_BT=told.mask_BT)
        pooled_BD = sdxl.checked(told.pooled_BD)
        height, width = batch.pixels_BCHW.shape[2:]
        whole = Framing(original=(height, width), corner=(0, 0))
        sizes = [
            sdxl.Sizes(framing.original, framing.corner, target=(height, width))
            for framing in (framing or whole for framing in batch.framings)
        ]
        rows = [
            sdxl.time_ids(self.unet, size, pooled_BD[i : i + 1]) for i, size in enumerate(sizes)
        ]
        extra = {"text_embeds": pooled_BD, "time_ids": torch.cat(rows)}
        return Conditioning(told.text_BTD, extra=extra, mask_BT=told.mask_BT)

    def _read(self, captions: Sequence[str]) -> EncodedText:
        if self.cache is not None and self.cache.texts is not None:
            return self.cache.texts.read(captions, self.device)
        return read(self.components, self.encoder, captions)

    def _freeze_unread(self) -> None:
        """Leave what the denoiser is told nothing of untrained: it would never get a gradient.

        Several processes wait for the gradient of every weight that is trained. Of SDXL's first
        encoder the layer before the last is read, so that its last one and the norm behind it stay.
        """
        encoders = self._trained_encoders()
        if not encoders:
            return
        training = [encoder.training for encoder in encoders]
        for encoder in encoders:
            encoder.eval()  # dropout would draw from the generator of the run
        with torch.enable_grad():
            told = self._read([self._every_word()])
        for encoder, was in zip(encoders, training, strict=True):
            encoder.train(was)
        outputs = [told.text_BTD]
        if sdxl.is_told_sizes(self.unet):
            outputs.append(sdxl.checked(told.pooled_BD))
        reached = leaves_of(outputs)
        for encoder in encoders:
            for weight in encoder.parameters():
                weight.requires_grad_(weight.requires_grad and weight in reached)

    def _every_word(self) -> str:
        """A caption that every trained weight has its part in."""
        return ""

    def _captions(self, batch: Batch) -> list[str]:
        dropped = [
            torch.rand(
                (), generator=derive_generator(self.seed, batch.step, slot, "dropout")
            ).item()
            < self.caption_dropout
            for slot in batch.slots
        ]
        return ["" if drop else text for drop, text in zip(dropped, batch.captions, strict=True)]


def repeated(told: Conditioning, rows: int) -> Conditioning:
    """The same to so many rows."""
    return Conditioning(
        told.text_BTD.repeat_interleave(rows, 0),
        extra={name: value.repeat_interleave(rows, 0) for name, value in told.extra.items()},
        mask_BT=None if told.mask_BT is None else told.mask_BT.repeat_interleave(rows, 0),
    )


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
