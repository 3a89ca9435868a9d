"""Fine-tuning a finished model: its own weights, low-rank adapters, new words, or some of each."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from pipelines.text_to_image import TextToImagePipeline
from t2i.conditioning.conditioning import Conditioning
from t2i.denoiser.build import Components
from t2i.denoiser.schedulers import Scheduler
from t2i.errors import ArgumentError
from train.batches.batch import Batch
from train.export import ExportConfig, Notes
from train.objective.attention_supervision import SupervisionConfig
from train.objective.losses import row_means
from train.objective.objective import ObjectiveConfig
from train.objective.preferences import PreferenceConfig, preference_loss
from train.objective.preservation import PreservationConfig
from train.optim.optimizer import Group
from train.targets.adapters import AdapterPart, attach
from train.targets.denoising import Denoising, Noised
from train.targets.finetune_results import FineTuned, write_results
from train.targets.learned_words import Word, WordsPart, add_words
from train.targets.reference_model import Reference
from train.targets.trained_parts import FullPart, train_in_full

PartConfig = Annotated[FullPart | AdapterPart | WordsPart, Field(discriminator="method")]


class FineTuneConfig(SupervisionConfig, PreservationConfig, PreferenceConfig):
    """Train parts of a finished model."""

    kind: Literal["finetune"] = "finetune"
    base: str = Field("embedded", min_length=1)
    """A model by name, folder, single file or hub id."""
    parts: tuple[PartConfig, ...] = Field(min_length=1)
    """What is trained; each entry has a `method`."""
    gradient_checkpointing: bool = False
    caption_dropout: float = Field(0.1, ge=0, le=1)
    """Share of the captions replaced by the empty one, for classifier-free guidance."""

    @model_validator(mode="after")
    def _prefer_alone(self) -> "FineTuneConfig":
        if self.preference_beta and self.attention_weight:
            raise ValueError(
                "preference_beta learns from pairs, of which the masks are not known: set "
                "attention_weight = 0."
            )
        return self

    @model_validator(mode="after")
    def _preserve_what_is_told(self) -> "FineTuneConfig":
        if not self.preserve_weight:
            return self
        if not self.preserve_words and not self.preserve_captions:
            raise ValueError(
                "preserve_weight is set, but nothing says what is to stay: give preserve_words, as "
                '{ "<my-mug>" = "mug" }, or preserve_captions.'
            )
        return self

    def new_words(self) -> list[Word]:
        """Return the words that are learned, in the order of the parts."""
        parts = [part for part in self.parts if isinstance(part, WordsPart)]
        return [word for part in parts for word in part.words]

    def words(self) -> list[str]:
        """Return the spellings of the words that are learned."""
        return [word.word for word in self.new_words()]


class FineTune(Denoising):
    """A finished model of which parts are trained."""

    def __init__(
        self,
        pipe: TextToImagePipeline,
        config: FineTuneConfig,
        objective: ObjectiveConfig,
        seed: int,
        batch_size: int,
    ) -> None:
        parts = components_of(pipe)
        super().__init__(parts, objective, seed, batch_size, config.caption_dropout, config)
        self.config = config
        self.tokenizers = pipe.tokenizer, pipe.tokenizer_2
        """Without the new words."""
        self._scheduler: Scheduler = pipe.scheduler
        self._groups = self._let_learn(config.parts)
        full = [
            weight
            for _, part, weights in self._groups
            for weight in weights
            if not isinstance(part, AdapterPart)
        ]
        compares = config.preserve_weight > 0 or config.preference_beta > 0
        self._reference = Reference(self.models(), full) if compares else None
        self.settle(config.gradient_checkpointing)

    def losses(self, batch: Batch, noised: Noised) -> Tensor:
        if self.config.preference_beta:
            loss_B = self._preference(batch, noised)
        else:
            loss_B = super().losses(batch, noised)
        if self.config.preserve_weight:
            loss_B = loss_B + self.config.preserve_weight * self._changed(batch, noised)
        return loss_B

    def _preference(self, batch: Batch, noised: Noised) -> Tensor:
        """The loss of preferring each row's picture to the worse one of its pair, (B,)."""
        pixels_BCHW = batch.pixels_BCHW if batch.losers_BCHW is None else batch.losers_BCHW
        worse = replace(batch, pixels_BCHW=pixels_BCHW, moments_BCHW=batch.loser_moments_BCHW)
        both = (noised, self._noised(worse))  # under the same noise, which is the slot's own
        captions = self._captions(batch)
        with torch.set_grad_enabled(bool(self._trained_encoders()) and torch.is_grad_enabled()):
            told = self._tell(batch, captions)
        better_B, worse_B = (self._denoising_errors(batch, one, told) for one in both)
        assert self._reference is not None
        with self._reference.in_place():
            told = self._tell(batch, captions)
            base_better_B, base_worse_B = (self._denoising_errors(batch, one, told) for one in both)
        loss_B = preference_loss(
            better_B - base_better_B, worse_B - base_worse_B, self.config.preference_beta
        )
        return loss_B if batch.weights_B is None else loss_B * batch.weights_B

    def _denoising_errors(self, batch: Batch, noised: Noised, told: Conditioning) -> Tensor:
        output_BCHW = self._denoise(noised, told)
        return self._errors(batch, output_BCHW, noised.target_BCHW, noised.level)

    def _changed(self, batch: Batch, noised: Noised) -> Tensor:
        """How far what is trained has moved the denoiser from the base model under captions that
        are to draw what they drew, (B,); 0 for rows without one."""
        wanted = [
            None if not caption else self.config.preserved(caption, self.seed, batch.step, slot)
            for caption, slot in zip(batch.captions, batch.slots, strict=True)
        ]
        captions = ["" if caption is None else caption for caption in wanted]
        assert self._reference is not None
        with self._reference.in_place():
            base_BCHW = self._denoise(noised, self._tell(batch, captions))
        with torch.set_grad_enabled(bool(self._trained_encoders()) and torch.is_grad_enabled()):
            told = self._tell(batch, captions)
        error_B = row_means((self._denoise(noised, told) - base_BCHW).float().pow(2))
        counts_B = torch.tensor([caption is not None for caption in wanted], device=error_B.device)
        return error_B * counts_B

    def groups(self) -> list[Group]:
        """One for each part, with the learning rate it asks for."""
        return [
            Group(name, [w for w in weights if w.requires_grad], part.learning_rate, decay)
            for name, part, weights in self._groups
            for decay in [part.weight_decay]
        ]

    def scheduler(self) -> Scheduler:
        """The base model's own."""
        return self._scheduler

    def adapters(self) -> list[str]:
        """peft's names of the adapters that are trained."""
        return [name for name, part, _ in self._groups if isinstance(part, AdapterPart)]

    def words(self) -> list[str]:
        return self.config.words()

    def models(self) -> dict[str, nn.Module]:
        """What can be trained, by its name in a pipeline."""
        found = {
            "unet": self.unet,
            "text_encoder": self.text_encoder,
            "text_encoder_2": self.text_encoder_2,
        }
        return {name: model for name, model in found.items() if model is not None}

    def export(self, folder: Path, batch: Batch, config: ExportConfig, notes: Notes) -> None:
        has_full_parts = any(isinstance(part, FullPart) for part in self.config.parts)
        if has_full_parts:
            self.take_up()
        trained = FineTuned(
            components=self.components,
            original_tokenizers=self.tokenizers,
            scheduler=self._scheduler,
            models=self.models(),
            adapters=self.adapters(),
            words=self.config.new_words(),
            has_full_parts=has_full_parts,
            base=self.config.base,
        )
        write_results(trained, folder, config, notes)

    def _let_learn(
        self, parts: Sequence[PartConfig]
    ) -> list[tuple[str, PartConfig, list[nn.Parameter]]]:
        """What each part trains. peft, which freezes all it does not know, comes first."""
        trained: dict[int, list[nn.Parameter]] = {}
        models = self.models()
        for kind in (AdapterPart, FullPart, WordsPart):
            for number, part in enumerate(parts):
                if not isinstance(part, kind):
                    continue
                name, key = f"part{number}", f"target.parts[{number}]"
                if isinstance(part, AdapterPart):
                    trained[number] = attach(part, models, name, key)
                elif isinstance(part, FullPart):
                    trained[number] = train_in_full(part, models, key)
                else:
                    trained[number] = self._learn_words(part, key)
        for weight in (weight for weights in trained.values() for weight in weights):
            weight.requires_grad_(True)
        check_apart(trained)
        return [(f"part{number}", part, trained[number]) for number, part in enumerate(parts)]

    def _learn_words(self, part: WordsPart, key: str) -> list[nn.Parameter]:
        components = self.components
        vectors = add_words(part, components.tokenizer, components.text_encoder, key)
        if components.text_encoder_2 is not None:
            assert components.tokenizer_2 is not None
            second = components.tokenizer_2, components.text_encoder_2
            vectors += add_words(part, *second, key)
        return vectors

    def _every_word(self) -> str:
        return " ".join(self.words())


def check_apart(trained: dict[int, list[nn.Parameter]]) -> None:
    """Raise ArgumentError where two parts would train the same weight."""
    owner: dict[int, int] = {}
    for number, weights in trained.items():
        for weight in weights:
            if owner.setdefault(id(weight), number) != number:
                raise ArgumentError(
                    f"target.parts[{owner[id(weight)]}] and target.parts[{number}] both train "
                    "the same weights: let the patterns of each match other modules."
                )


def components_of(pipe: TextToImagePipeline) -> Components:
    """The parts, with tokenizers of their own, so that those of `pipe` learn no words."""
    return Components(
        vae=pipe.vae,
        unet=pipe.unet,
        text_encoder=pipe.text_encoder,
        tokenizer=deepcopy(pipe.tokenizer),
        text_encoder_2=pipe.text_encoder_2,
        tokenizer_2=deepcopy(pipe.tokenizer_2),
    )


def objective_of(config: ObjectiveConfig, scheduler: Any) -> ObjectiveConfig:
    """The objective, what it leaves open taken from the base model's own schedule.

    Raises ArgumentError for a schedule that no objective describes.
    """
    told = dict(scheduler.config)
    if "Flow" in type(scheduler).__name__:
        own: dict[str, Any] = {"prediction": "flow"}
    elif told.get("trained_betas") is not None:
        raise ArgumentError(
            "The base model's schedule has betas of its own (trained_betas), which no objective "
            "describes."
        )
    else:
        own = {
            "prediction": told.get("prediction_type", "epsilon"),
            "beta_schedule": told.get("beta_schedule", "linear"),
            "beta_start": told.get("beta_start", 0.0001),
            "beta_end": told.get("beta_end", 0.02),
            "zero_terminal_snr": bool(told.get("rescale_betas_zero_snr", False)),
        }
    given = config.model_dump(include=config.model_fields_set)
    try:
        return ObjectiveConfig(**{**own, **given})
    except ValidationError as error:
        raise ArgumentError(
            f"The base model's schedule and [objective] do not go together: "
            f"{error.errors()[0]['msg']}."
        ) from error


def store_frozen(target: Denoising, kind: torch.dtype) -> None:
    """Hold what is not trained in the type that is computed in, for the sake of memory."""
    precise = target.vae.config.get("force_upcast", False)
    kept = {id(weight) for weight in target.vae.parameters() if precise}
    for weight in target.parameters():
        if not weight.requires_grad and id(weight) not in kept:
            weight.data = weight.data.to(kind)
