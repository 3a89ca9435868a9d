"""A forecast of the trained parameters and the memory of a run, made before it begins.

Weights, gradients, moments and averages are counted. Activations are counted on the meta device
for one row, and grow with the rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from t2i.denoiser.activation_memory import BYTES_USED_PER_BYTE_COUNTED, measure_pass_peak_bytes
from t2i.denoiser.families.sd import pixels_per_latent
from t2i.denoiser.loading.trial_pass import run_unet_on_zeros
from t2i.errors import T2IError
from train.config.run_config import RunConfig, TargetWithBaseConfig
from train.setup.assembly import assemble_target
from train.starter_config.options import needs_download
from train.targets.autoencoder import AutoencoderTarget
from train.targets.caption_matcher import CaptionMatcherTarget
from train.targets.control_network import ControlTarget
from train.targets.denoising import BaseDenoisingTarget
from train.targets.latents import retrieve_latent_mean
from train.targets.recogniser import RecogniserTarget
from train.targets.target import TrainingTarget

STARTING_WEIGHT_KEYS = ("vae", "unet", "text_encoder", "network")
"""Keys of weights to start from, which have the shapes of fresh ones."""
BYTES_PER_WEIGHT = 4
"""Bytes of a trained weight, of its gradient and of its average."""
OPTIMIZER_BYTES_PER_WEIGHT = {
    "adamw": 8,
    "adamw8bit": 2,
    "adafactor": 0,
    "prodigy": 16,
    "schedulefree": 8,
}
"""Bytes of optimizer state per trained weight; adafactor keeps only sums of rows and columns."""
LIBRARY_BYTES_RANGE = (400_000_000, 600_000_000)
"""Least and most bytes of a process that has imported the libraries and trained nothing."""


@dataclass(frozen=True, slots=True)
class MemoryForecast:
    """Forecast of the bytes in memory during a training step, by purpose: weights, gradients,
    moments, averages, activations.
    """

    weights: int
    """All models in memory, trained or not."""
    gradients: int
    moments: int
    averages: int
    activations: int | None
    """Tensors that a step keeps for its gradient; None where they could not be counted."""

    def estimate_range(self) -> tuple[int, int]:
        """Return the lowest and the highest number of bytes that a training process is expected to
        need, from the forecast by purpose and the memory of the libraries.

        Measured on a CPU in float32, in MB, with the range forecast: the embedded model from
        scratch in batches of 16 1,227 (1,037 to 1,587), its LoRA in batches of 4 765 (576 to 868),
        its autoencoder in batches of 16 640 (477 to 744).
        """
        least, most = LIBRARY_BYTES_RANGE
        known = self.weights + self.gradients + self.moments + self.averages
        activations = self.activations or 0
        return least + known + activations, most + known + int(
            BYTES_USED_PER_BYTE_COUNTED * activations
        )


@dataclass(frozen=True, slots=True)
class ParameterAndMemoryForecast:
    """Forecast of a run's trained parameters and memory.

    Unknown numbers are None, with the reason in `missing`.
    """

    trained: tuple[int, ...] | None
    """Parameters of each group of the optimizer: a fine-tune's parts in their order, or all."""
    parameters: int | None
    """Parameters of all models in memory."""
    memory: MemoryForecast | None
    missing: str = ""


def forecast_parameters_and_memory(config: RunConfig) -> ParameterAndMemoryForecast:
    """Forecast trained parameters and memory of a training run; nothing is downloaded or
    written.
    """
    target_config = config.target
    if isinstance(target_config, TargetWithBaseConfig) and needs_download(target_config.base):
        return ParameterAndMemoryForecast(
            None, None, None, f"{target_config.base} is not on this machine; the run downloads it"
        )
    fresh = {
        name: None
        for name in STARTING_WEIGHT_KEYS
        if getattr(target_config, name, None) is not None
    }
    plan = config.model_copy(update={"target": target_config.model_copy(update=fresh)})
    try:
        with torch.random.fork_rng(devices=[]):
            target, _ = assemble_target(plan)
    except T2IError as error:
        return ParameterAndMemoryForecast(None, None, None, str(error))
    trained = tuple(
        sum(p.numel() for p in group.parameters) for group in target.build_parameter_groups()
    )
    parameters = sum(p.numel() for p in target.parameters())
    return ParameterAndMemoryForecast(
        trained, parameters, forecast_memory_and_drop_weights(target, config, sum(trained))
    )


def forecast_memory_and_drop_weights(
    target: TrainingTarget, config: RunConfig, trained: int
) -> MemoryForecast:
    """Forecast the memory of one training process by purpose. The target's model with the most
    activations is moved to the meta device, so that its weights are gone afterwards.
    """
    tensors = [*target.parameters(), *target.buffers()]
    averages = {"decay": 1, "power": len(config.ema.lengths), "none": 0}[config.ema.kind]
    return MemoryForecast(
        weights=sum(tensor.nbytes for tensor in tensors),
        gradients=BYTES_PER_WEIGHT * trained,
        moments=OPTIMIZER_BYTES_PER_WEIGHT[config.optimizer.name] * trained,
        averages=BYTES_PER_WEIGHT * averages * trained,
        activations=forecast_activation_bytes_and_drop_weights(target, config),
    )


def forecast_activation_bytes_and_drop_weights(
    target: TrainingTarget, config: RunConfig
) -> int | None:
    """Forecast the bytes of activations of a micro-batch by a pass of one row on the meta device,
    to which the model is moved, so that its weights are gone; None where the pass fails.
    """
    model, run = select_model_and_build_single_row_pass(target, config)
    model.to("meta").train()
    try:
        row = measure_pass_peak_bytes(model, run, gradients=True)
    except Exception:  # a custom model that such a pass does not fit
        return None
    rows = -(-config.train.batch_size // config.train.accumulation)
    return row * rows // (1 if config.train.precision == "no" else 2)


def select_model_and_build_single_row_pass(
    target: TrainingTarget, config: RunConfig
) -> tuple[Any, Callable[[], object]]:
    """Return the model of a training target that has the most activations, and a function that runs
    a batch of one row through it, to forecast memory.
    """
    size = config.data.size
    if isinstance(target, BaseDenoisingTarget):
        unet: Any = target.unet
        side = size // pixels_per_latent(target.vae)
        trains_text = any(
            weight.requires_grad
            for encoder in (target.text_encoder, target.text_encoder_2)
            if encoder is not None
            for weight in encoder.parameters()
        )
        if isinstance(target, ControlTarget):
            # A control has the activations of the UNet's downward half, which then keeps none.
            unet.requires_grad_(True)
        return unet, lambda: run_unet_on_zeros(unet, {}, side, learned=trains_text)
    if isinstance(target, AutoencoderTarget):
        vae: Any = target.vae
        side = target.config.crop or size
        return vae, lambda: vae.decode(
            retrieve_latent_mean(vae.encode(torch.zeros(1, 3, side, side)))
        )
    assert isinstance(target, RecogniserTarget | CaptionMatcherTarget)
    recogniser: nn.Module = (
        target.recogniser if isinstance(target, RecogniserTarget) else target.agreement.recogniser
    )
    return recogniser, lambda: recogniser(torch.zeros(1, 3, size, size))
