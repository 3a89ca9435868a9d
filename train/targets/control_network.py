"""Target: a control of a finished model, a ControlNet or T2I-Adapter, which learns to read hints.

B batch rows, C channels, H W size of latents, Y X size of pictures.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.adapter import T2IAdapter
from diffusers.models.controlnets.controlnet import ControlNetModel
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pipelines.text_to_image import TextToImagePipeline
from t2i.conditioning.conditioning import Conditioning
from t2i.controls.adapter import AdapterFeatures, compute_adapter_features
from t2i.controls.control import Control
from t2i.controls.controlnet import PreparedControlNet
from t2i.denoiser.families import sd
from t2i.denoiser.schedulers import Scheduler
from t2i.randomness import derive_generator
from train.batches.micro_batch import MicroBatch
from train.export import (
    ExportConfig,
    ModelNotes,
    export_control_network,
    extract_components,
)
from train.objective.attention_supervision import AttentionSupervisionConfig
from train.objective.objective import ObjectiveConfig
from train.reporting.sample_sheets import SamplesConfig, draw_sample_sheet, generate_prompt_images
from train.targets.denoising import BaseDenoisingTarget, NoisyLatentsWithTarget
from train.targets.finetune_results import format_base_name
from train.targets.parts.control_lora import (
    ControlLoraConfig,
    merge_lora_into_copy,
    train_lora_and_new_layers,
)

HINT = "hint"
"""Name of the hints in `Conditioning.extra` during training."""


class ControlTargetConfig(BaseModel):
    """Configuration of a target that trains a control of a finished model; nothing of the model
    itself is trained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["controlnet", "t2i-adapter"]
    base: str = Field("embedded", min_length=1)
    """The model that is controlled, by name, folder, single file or hub id."""
    network: Path | None = None
    """Folder or file of a trained control to start from; a fresh one when left out."""
    gradient_checkpointing: bool = False
    caption_dropout: float = Field(0.1, ge=0, le=1)
    """Share of the captions replaced by the empty one, for classifier-free guidance."""
    hint_dropout: float = Field(0.0, ge=0, le=1)
    """Share of the hints replaced by a black one."""


class ControlNetTargetConfig(ControlTargetConfig):
    """Configuration of the target that trains a ControlNet, which begins as a copy of the UNet's
    downward half.
    """

    kind: Literal["controlnet"] = "controlnet"
    cross_attention: bool = True
    """Whether a fresh network reads the prompt, as its model does; without, it has about half the
    weights, for hints that show by themselves what is where."""
    lora: ControlLoraConfig | None = None
    """Train a LoRA on the layers that the UNet has, too, and only the others in full; all of them
    in full when left out."""


class T2IAdapterTargetConfig(ControlTargetConfig):
    """Configuration of the target that trains a T2I-Adapter, which begins with fresh weights."""

    kind: Literal["t2i-adapter"] = "t2i-adapter"


class ControlTarget(BaseDenoisingTarget, ABC):
    """Base of the targets that train a ControlNet or T2I-Adapter beside a frozen model."""

    def __init__(
        self,
        pipe: TextToImagePipeline,
        network: Any,
        config: ControlTargetConfig,
        objective: ObjectiveConfig,
        seed: int,
        batch_size: int,
    ) -> None:
        super().__init__(
            extract_components(pipe),
            objective,
            seed,
            batch_size,
            config.caption_dropout,
            AttentionSupervisionConfig(),
        )
        self.config = config
        self._scheduler: Scheduler = pipe.scheduler
        self.network = network
        self.enable_training()
        self.set_up_encoder_and_checkpointing(config.gradient_checkpointing)
        if config.gradient_checkpointing and network._supports_gradient_checkpointing:
            network.enable_gradient_checkpointing()

    def enable_training(self) -> None:
        """Enable training of the weights of the control that this target trains: all of them."""
        self.network.requires_grad_(True)

    def compute_losses(self, batch: MicroBatch, noised: NoisyLatentsWithTarget) -> Tensor:
        """Return the denoising loss of each row, (B,), under its hint, or a black one where the
        hint is dropped out.
        """
        return super().compute_losses(self._drop_hints(batch), noised)

    def predict(
        self, latents_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """Return the output of the base UNet for noisy latents, (B, C, H, W), with what the trained
        control adds.
        """
        hint_BCYX = conditioning.extra[HINT]
        prepared = self.prepare_control_with_hint(Control(self.network, hint_BCYX), hint_BCYX)
        residuals = prepared.compute_extra_conditioning(latents_BCHW, timestep_B, conditioning)
        controlled = replace(conditioning, extra={**conditioning.extra, **residuals})
        return sd.run_unet(self.unet, latents_BCHW, timestep_B, controlled)

    @abstractmethod
    def prepare_control_with_hint(
        self, control: Control, hint_BCYX: Tensor
    ) -> PreparedControlNet | AdapterFeatures:
        """Return the control prepared with a hint, so that it can compute what it adds to the UNet;
        abstract, as ControlNet and T2I-Adapter differ.
        """

    def build_scheduler(self) -> Scheduler:
        """Return the base model's own scheduler, to sample the controlled model with."""
        return self._scheduler

    @torch.no_grad()
    def draw_sample_sheet(self, batch: MicroBatch, config: SamplesConfig) -> Image.Image:
        """Generate an image for each prompt and hint of the config, or for the captions and hints
        of the batch, and return them as one sheet, each beside its hint.
        """
        hints: list[Any] = [*config.hints]
        size: tuple[int, int] | None = None
        if not config.prompts:
            assert batch.hints_BCHW is not None
            config = config.model_copy(update={"prompts": tuple(batch.captions)})
            height, width = batch.hints_BCHW.shape[2:]
            hints, size = [*batch.hints_BCHW.cpu()], (height, width)
        pipe = self.build_pipeline()
        with self._lower_precision():
            drawn = generate_prompt_images(
                pipe,
                config,
                () if config.heat_maps is False else config.words,
                lambda places: [Control(self.network, [hints[place] for place in places])],
                size,
            )
        return draw_sample_sheet(drawn, config.columns)

    def export(
        self, folder: Path, batch: MicroBatch, config: ExportConfig, notes: ModelNotes
    ) -> None:
        """Write the network of the control as a folder that diffusers reads."""
        facts = notes | {"base": format_base_name(self.config.base)}
        export_control_network(merge_lora_into_copy(self.network), folder, config, facts)

    def _build_conditioning(self, batch: MicroBatch, captions: Any) -> Conditioning:
        conditioning = super()._build_conditioning(batch, captions)
        assert batch.hints_BCHW is not None
        hints_BCYX = batch.hints_BCHW.to(self.device)
        return replace(conditioning, extra={**conditioning.extra, HINT: hints_BCYX})

    def _drop_hints(self, batch: MicroBatch) -> MicroBatch:
        """Return the batch with black hints in the rows whose hint is dropped out."""
        if not self.config.hint_dropout:
            return batch
        assert batch.hints_BCHW is not None
        drawn_B = torch.cat(
            [
                torch.rand(1, generator=derive_generator(self.seed, batch.step, slot, "no hint"))
                for slot in batch.slots
            ]
        )
        kept_B = (drawn_B >= self.config.hint_dropout).to(batch.hints_BCHW)
        return replace(batch, hints_BCHW=batch.hints_BCHW * kept_B[:, None, None, None])


class ControlNetTarget(ControlTarget):
    """Target that trains a ControlNet (Zhang et al., 2023, arXiv 2302.05543)."""

    network: ControlNetModel
    config: ControlNetTargetConfig

    def enable_training(self) -> None:
        """Enable training of all weights, or of a LoRA and the layers that the UNet does not
        have.
        """
        if self.config.lora is None:
            super().enable_training()
        else:
            train_lora_and_new_layers(self.network, self.config.lora, self.seed)

    def prepare_control_with_hint(self, control: Control, hint_BCYX: Tensor) -> PreparedControlNet:
        """Return the ControlNet with its hint, which it reads at each pass."""
        return PreparedControlNet(control, 0, hint_BCYX)


class T2IAdapterTarget(ControlTarget):
    """Target that trains a T2I-Adapter (Mou et al., 2023, arXiv 2302.08453)."""

    network: T2IAdapter

    def prepare_control_with_hint(self, control: Control, hint_BCYX: Tensor) -> AdapterFeatures:
        """Return the adapter with its features of the hint, which are the same at each pass."""
        return compute_adapter_features(control, 0, hint_BCYX, None, len(hint_BCYX))
