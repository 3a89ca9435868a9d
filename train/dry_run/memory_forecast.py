"""What a run will train and what memory that takes, told before it begins.

Weights, gradients, moments and averages are counted. What a step keeps for its gradient is counted
on the model without memory, for one row, and grows with the rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from t2i.denoiser.activation_memory import FACTOR, peak_of
from t2i.denoiser.families.sd import pixels_per_latent
from t2i.denoiser.loading.trial_pass import pass_of
from t2i.errors import T2IError
from train.config.run_config import RunConfig
from train.init.init import is_unseen
from train.setup.assembly import assemble
from train.targets.autoencoder import AutoencoderTarget
from train.targets.caption_matcher import AgreementTarget
from train.targets.denoising import DenoisingTarget
from train.targets.finetune import FineTuneConfig
from train.targets.latents import latent_mean
from train.targets.recogniser import RecogniserTarget
from train.targets.target import Target

STARTS = ("vae", "unet", "text_encoder")
"""Folders of weights to start from: what is there has the shape of the fresh ones."""
OF_A_WEIGHT = 4
"""Bytes of a trained weight, and so of its gradient and of its average."""
MOMENTS = {"adamw": 8, "adamw8bit": 2, "adafactor": 0, "prodigy": 16, "schedulefree": 8}
"""Bytes that the optimizers keep for each trained weight; adafactor keeps sums of rows and columns,
which are next to nothing."""
LIBRARIES = (400_000_000, 600_000_000)
"""Bytes of a process that has imported all that trains and has trained nothing."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes while a step is made."""

    weights: int
    """Of everything in memory, trained or not."""
    gradients: int
    moments: int
    averages: int
    activations: int | None
    """What a step keeps for its gradient; None where it could not be counted."""

    def span(self) -> tuple[int, int]:
        """Of the process: from the tensors that must be there to the room they were seen to take.

        Measured on a CPU in float32, in MB, against the span told: the embedded model from nothing
        in batches of 16 1,227 (1,037 to 1,587), its LoRA in batches of 4 765 (576 to 868), its
        autoencoder in batches of 16 640 (477 to 744).
        """
        least, most = LIBRARIES
        known = self.weights + self.gradients + self.moments + self.averages
        activations = self.activations or 0
        return least + known + activations, most + known + int(FACTOR * activations)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of a run; None is what cannot be told, and `missing` says why."""

    trained: tuple[int, ...] | None
    """Numbers of each group of the optimizer: a fine-tune's parts in their order, or all."""
    parameters: int | None
    """Of all models in memory."""
    memory: Memory | None
    missing: str = ""


def forecast(config: RunConfig) -> Forecast:
    """Build what is trained as the run would, and count; nothing is downloaded or written."""
    target_config = config.target
    if isinstance(target_config, FineTuneConfig) and is_unseen(target_config.base):
        return Forecast(
            None, None, None, f"{target_config.base} is not on this machine; the run gets it"
        )
    fresh = {name: None for name in STARTS if getattr(target_config, name, None) is not None}
    plan = config.model_copy(update={"target": target_config.model_copy(update=fresh)})
    try:
        with torch.random.fork_rng(devices=[]):
            target, _ = assemble(plan)
    except T2IError as error:
        return Forecast(None, None, None, str(error))
    trained = tuple(sum(p.numel() for p in group.parameters) for group in target.groups())
    parameters = sum(p.numel() for p in target.parameters())
    return Forecast(trained, parameters, memory_of(target, config, sum(trained)))


def memory_of(target: Target, config: RunConfig, trained: int) -> Memory:
    """Of one process that makes the whole batch. The target is without memory afterwards."""
    held = [*target.parameters(), *target.buffers()]
    averages = {"decay": 1, "power": len(config.ema.lengths), "none": 0}[config.ema.kind]
    return Memory(
        weights=sum(tensor.nbytes for tensor in held),
        gradients=OF_A_WEIGHT * trained,
        moments=MOMENTS[config.optimizer.name] * trained,
        averages=OF_A_WEIGHT * averages * trained,
        activations=activations_of(target, config),
    )


def activations_of(target: Target, config: RunConfig) -> int | None:
    """Bytes that a step keeps for its gradient, in the rows that are computed at once."""
    model, run = pass_for(target, config)
    model.to("meta").train()
    try:
        row = peak_of(model, run, gradients=True)
    except Exception:  # a model of somebody's own that such a pass does not suit
        return None
    rows = -(-config.train.batch_size // config.train.accumulation)
    return row * rows // (1 if config.train.precision == "no" else 2)


def pass_for(target: Target, config: RunConfig) -> tuple[Any, Callable[[], object]]:
    """The part that keeps the most, and a pass of one row through it."""
    size = config.data.size
    if isinstance(target, DenoisingTarget):
        unet: Any = target.unet
        side = size // pixels_per_latent(target.vae)
        told = any(
            weight.requires_grad
            for encoder in (target.text_encoder, target.text_encoder_2)
            if encoder is not None
            for weight in encoder.parameters()
        )
        return unet, lambda: pass_of(unet, {}, side, learned=told)
    if isinstance(target, AutoencoderTarget):
        vae: Any = target.vae
        side = target.config.crop or size
        return vae, lambda: vae.decode(latent_mean(vae.encode(torch.zeros(1, 3, side, side))))
    assert isinstance(target, RecogniserTarget | AgreementTarget)
    seer: nn.Module = (
        target.recogniser if isinstance(target, RecogniserTarget) else target.agreement.recogniser
    )
    return seer, lambda: seer(torch.zeros(1, 3, size, size))
