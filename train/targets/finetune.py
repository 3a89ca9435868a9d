"""Target: a fine-tune of a finished model: its weights, low-rank adapters, new words, or a mix."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipelines.text_to_image import TextToImagePipeline
from t2i.conditioning.conditioning import Conditioning
from t2i.denoiser.schedulers import Scheduler
from t2i.errors import ArgumentError
from train.batches.micro_batch import MicroBatch
from train.export import ExportConfig, ModelNotes, extract_components
from train.objective.attention_supervision import AttentionSupervisionConfig
from train.objective.consistency import ConsistencyConfig
from train.objective.losses import compute_row_means
from train.objective.objective import ObjectiveConfig
from train.objective.preferences import PreferenceConfig, compute_preference_loss
from train.objective.preservation import OutputPreservationConfig
from train.optim.optimizer import ParameterGroup
from train.targets.denoising import BaseDenoisingTarget, NoisyLatentsWithTarget
from train.targets.finetune_results import FineTunedModel, write_fine_tune_files
from train.targets.parts.adapters import AdapterPartConfig, inject_adapter
from train.targets.parts.full_weights import FullWeightsPartConfig, enable_full_training
from train.targets.parts.learned_words import NewWordConfig, NewWordsPartConfig, register_new_words
from train.targets.reference_model import ReferenceModel

PartConfig = Annotated[
    FullWeightsPartConfig | AdapterPartConfig | NewWordsPartConfig, Field(discriminator="method")
]


class FineTuneTargetConfig(
    AttentionSupervisionConfig, ConsistencyConfig, OutputPreservationConfig, PreferenceConfig
):
    """Configuration of a fine-tune: which parts of a finished model are trained, and how."""

    kind: Literal["finetune"] = "finetune"
    base: str = Field("embedded", min_length=1)
    """A model by name, folder, single file or hub id."""
    parts: tuple[PartConfig, ...] = Field(min_length=1)
    """Parts of the model that are trained; each entry has a `method`."""
    gradient_checkpointing: bool = False
    caption_dropout: float = Field(0.1, ge=0, le=1)
    """Share of the captions replaced by the empty one, for classifier-free guidance."""

    @model_validator(mode="after")
    def _refuse_preferences_with_masks(self) -> "FineTuneTargetConfig":
        if self.preference_beta and self.attention_weight:
            raise ValueError(
                "preference_beta learns from pairs, which have no masks: set attention_weight = 0."
            )
        return self

    @model_validator(mode="after")
    def _refuse_consistency_with_other_losses(self) -> "FineTuneTargetConfig":
        for key in ("preference_beta", "attention_weight"):
            if self.consistency_steps and getattr(self, key):
                raise ValueError(
                    f"consistency_steps takes the place of the denoising loss, to which {key} "
                    "belongs: set one of the two to 0."
                )
        return self

    @model_validator(mode="after")
    def _need_captions_to_preserve(self) -> "FineTuneTargetConfig":
        if not self.preserve_weight:
            return self
        if not self.preserve_words and not self.preserve_captions:
            raise ValueError(
                "preserve_weight is set, but not what is preserved: give preserve_words, as "
                '{ "<my-mug>" = "mug" }, or preserve_captions.'
            )
        return self

    def list_new_words(self) -> list[NewWordConfig]:
        """Return the new words that a fine-tune learns, in the order of its parts."""
        parts = [part for part in self.parts if isinstance(part, NewWordsPartConfig)]
        return [word for part in parts for word in part.words]

    def list_new_word_spellings(self) -> list[str]:
        """Return the spellings of the new words that are learned, as "<my-mug>"."""
        return [word.word for word in self.list_new_words()]


class FineTuneTarget(BaseDenoisingTarget):
    """Target that trains some parts of a finished model: weights, adapters or new words."""

    def __init__(
        self,
        pipe: TextToImagePipeline,
        config: FineTuneTargetConfig,
        objective: ObjectiveConfig,
        seed: int,
        batch_size: int,
    ) -> None:
        parts = extract_components(pipe)
        super().__init__(parts, objective, seed, batch_size, config.caption_dropout, config)
        self.config = config
        self.original_tokenizers = pipe.tokenizer, pipe.tokenizer_2
        """Both tokenizers without the new words."""
        self._scheduler: Scheduler = pipe.scheduler
        self._groups = self._enable_training(config.parts)
        full = [
            weight
            for _, part, weights in self._groups
            for weight in weights
            if not isinstance(part, AdapterPartConfig)
        ]
        self._reference = (
            ReferenceModel(self.collect_unet_and_text_encoders(), full)
            if config.preserve_weight or config.preference_beta or config.consistency_steps
            else None
        )
        self.set_up_encoder_and_checkpointing(config.gradient_checkpointing)

    def compute_losses(self, batch: MicroBatch, noised: NoisyLatentsWithTarget) -> Tensor:
        """Return the loss of each row, (B,): of what is learned, plus preservation."""
        loss_B = self.compute_learning_losses(batch, noised)
        if self.config.preserve_weight:
            loss_B = loss_B + self.config.preserve_weight * self._preservation_losses(batch, noised)
        return loss_B

    def compute_learning_losses(self, batch: MicroBatch, noised: NoisyLatentsWithTarget) -> Tensor:
        """Return the loss of each row, (B,), by which the fine-tune learns: denoising, or
        preference to the worse picture of a pair.
        """
        if self.config.preference_beta:
            return self._preference_losses(batch, noised)
        return super().compute_losses(batch, noised)

    def _preference_losses(self, batch: MicroBatch, noised: NoisyLatentsWithTarget) -> Tensor:
        """Return the loss of preferring each picture to the worse one of its pair, (B,)."""
        pixels_BCHW = batch.pixels_BCHW if batch.losers_BCHW is None else batch.losers_BCHW
        worse = replace(batch, pixels_BCHW=pixels_BCHW, moments_BCHW=batch.loser_moments_BCHW)
        both = (noised, self._add_noise(worse))  # under the same noise, which is the slot's own
        captions = self._captions(batch)
        with torch.set_grad_enabled(bool(self._trained_encoders()) and torch.is_grad_enabled()):
            conditioning = self._build_conditioning(batch, captions)
        better_B, worse_B = (self._denoising_errors(batch, one, conditioning) for one in both)
        assert self._reference is not None
        with self._reference.using_base_weights():
            conditioning = self._build_conditioning(batch, captions)
            base_better_B, base_worse_B = (
                self._denoising_errors(batch, one, conditioning) for one in both
            )
        loss_B = compute_preference_loss(
            better_B - base_better_B, worse_B - base_worse_B, self.config.preference_beta
        )
        return loss_B if batch.weights_B is None else loss_B * batch.weights_B

    def _denoising_errors(
        self, batch: MicroBatch, noised: NoisyLatentsWithTarget, conditioning: Conditioning
    ) -> Tensor:
        output_BCHW = self._denoise(noised, conditioning)
        return self._errors(batch, output_BCHW, noised.target_BCHW, noised.level)

    def _preservation_losses(self, batch: MicroBatch, noised: NoisyLatentsWithTarget) -> Tensor:
        """Return the squared difference to the base model under preserved captions, (B,).

        It is 0 for rows without a preserved caption.
        """
        wanted = [
            None
            if not caption
            else self.config.choose_preserved_caption(caption, self.seed, batch.step, slot)
            for caption, slot in zip(batch.captions, batch.slots, strict=True)
        ]
        captions = ["" if caption is None else caption for caption in wanted]
        assert self._reference is not None
        with self._reference.using_base_weights():
            base_BCHW = self._denoise(noised, self._build_conditioning(batch, captions))
        with torch.set_grad_enabled(bool(self._trained_encoders()) and torch.is_grad_enabled()):
            conditioning = self._build_conditioning(batch, captions)
        error_B = compute_row_means(
            (self._denoise(noised, conditioning) - base_BCHW).float().pow(2)
        )
        counts_B = torch.tensor([caption is not None for caption in wanted], device=error_B.device)
        return error_B * counts_B

    def compute_reference_digest(self) -> str | None:
        """Return the SHA-256 of the base weights that the losses compare with and training changes;
        None if no loss needs them.
        """
        return None if self._reference is None else self._reference.compute_digest()

    def build_parameter_groups(self) -> list[ParameterGroup]:
        """Return one optimizer parameter group for each trained part of a fine-tune, with the
        part's learning rate and weight decay.
        """
        return [
            ParameterGroup(name, [w for w in weights if w.requires_grad], part.learning_rate, decay)
            for name, part, weights in self._groups
            for decay in [part.weight_decay]
        ]

    def build_scheduler(self) -> Scheduler:
        """Return the base model's own scheduler, to sample the fine-tuned model with."""
        return self._scheduler

    def list_adapter_names(self) -> list[str]:
        """Return the names under which peft holds the trained adapters."""
        return [name for name, part, _ in self._groups if isinstance(part, AdapterPartConfig)]

    def list_new_word_spellings(self) -> list[str]:
        """Return the spellings of the new words that are learned, as "<my-mug>"."""
        return self.config.list_new_word_spellings()

    def collect_unet_and_text_encoders(self) -> dict[str, nn.Module]:
        """Return the UNet and the text encoders of the base model, those that can be trained, by
        their names in a pipeline.
        """
        found = {
            "unet": self.unet,
            "text_encoder": self.text_encoder,
            "text_encoder_2": self.text_encoder_2,
        }
        return {name: model for name, model in found.items() if model is not None}

    def export(
        self, folder: Path, batch: MicroBatch, config: ExportConfig, notes: ModelNotes
    ) -> None:
        """Write adapters and new words, and the whole model if its own weights were trained."""
        has_full_parts = any(isinstance(part, FullWeightsPartConfig) for part in self.config.parts)
        if has_full_parts:
            self.reload_encoder_weights()
        trained = FineTunedModel(
            components=self.components,
            original_tokenizers=self.original_tokenizers,
            scheduler=self.build_scheduler(),
            models=self.collect_unet_and_text_encoders(),
            adapters=self.list_adapter_names(),
            words=self.config.list_new_words(),
            has_full_parts=has_full_parts,
            base=self.config.base,
        )
        write_fine_tune_files(trained, folder, config, notes)

    def _enable_training(
        self, parts: Sequence[PartConfig]
    ) -> list[tuple[str, PartConfig, list[nn.Parameter]]]:
        """Return name, part and trained weights of each part.

        Adapters come first, as peft freezes all other weights.
        """
        trained: dict[int, list[nn.Parameter]] = {}
        models = self.collect_unet_and_text_encoders()
        for kind in (AdapterPartConfig, FullWeightsPartConfig, NewWordsPartConfig):
            for number, part in enumerate(parts):
                if not isinstance(part, kind):
                    continue
                name, key = f"part{number}", f"target.parts[{number}]"
                if isinstance(part, AdapterPartConfig):
                    trained[number] = inject_adapter(part, models, name, key)
                elif isinstance(part, FullWeightsPartConfig):
                    trained[number] = enable_full_training(part, models, key)
                else:
                    trained[number] = self._add_words(part, key)
        for weight in (weight for weights in trained.values() for weight in weights):
            weight.requires_grad_(True)
        check_parts_disjoint(trained)
        return [(f"part{number}", part, trained[number]) for number, part in enumerate(parts)]

    def _add_words(self, part: NewWordsPartConfig, key: str) -> list[nn.Parameter]:
        components = self.components
        vectors = register_new_words(part, components.tokenizer, components.text_encoder, key)
        if components.text_encoder_2 is not None:
            assert components.tokenizer_2 is not None
            second = components.tokenizer_2, components.text_encoder_2
            vectors += register_new_words(part, *second, key)
        return vectors


def check_parts_disjoint(trained: dict[int, list[nn.Parameter]]) -> None:
    """Raise ArgumentError if two parts of a fine-tune would train the same weight."""
    owner: dict[int, int] = {}
    for number, weights in trained.items():
        for weight in weights:
            if owner.setdefault(id(weight), number) != number:
                raise ArgumentError(
                    f"target.parts[{owner[id(weight)]}] and target.parts[{number}] both train "
                    "the same weights: let the patterns of each match other modules."
                )
