"""A model of known prediction in float64, for inversions without a network."""

from dataclasses import dataclass, field

import torch

from pipelines.inversion.noise_levels import NoiseLevels

SHAPE = (1, 4, 3, 3)


def model(latents, target, timestep):
    """A smooth prediction that depends on latents, prompt (0: source, 1: target) and timestep."""
    shift = 0.3 if target else 0.0
    return torch.tanh(0.2 * latents + shift + 0.001 * timestep) + 0.1 * latents


@dataclass
class ToyRun:
    """A InversionRunProtocol around `model`: what a pipeline's loop does, in five lines."""

    levels: NoiseLevels
    pipeline_scheduler: object
    clean_1CHW: torch.Tensor = field(
        default_factory=lambda: torch.randn(
            SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64
        )
    )
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(1))
    passes: int = 0

    def sample_latents(self, scheduler, latents_1CHW, *, guided, target=0):
        scheduler.set_timesteps(len(scheduler.timesteps), torch.device("cpu"))
        for timestep in scheduler.timesteps:
            prediction = model(latents_1CHW, target, float(timestep))
            latents_1CHW = scheduler.step(prediction, timestep, latents_1CHW)[0]
            self.passes += 1
        return latents_1CHW
