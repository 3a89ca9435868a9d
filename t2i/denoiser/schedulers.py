"""Schedulers of diffusers by sampler name, on a model's own noise schedule."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import diffusers
import torch
from torch import Tensor

from t2i.denoiser.sampler_name import normalize_sampler_name
from t2i.errors import ArgumentError, format_library_error, suggest_choice


class Scheduler(Protocol):
    """The interface of a diffusers scheduler that the sampling loop uses."""

    config: Any
    order: int
    timesteps: Tensor

    def set_timesteps(self, num_inference_steps: int, device: torch.device) -> None:
        """Set the timesteps of a run of `num_inference_steps` steps."""

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, *, return_dict: bool
    ) -> Any:
        """Compute the sample at the next timestep from the denoiser's output."""


class SamplerSpec(NamedTuple):
    """Specification of a named sampler: the name of a scheduler class of diffusers, and its
    settings.
    """

    class_name: str
    settings: Mapping[str, object] = {}


def build_scheduler(name: str, config: Mapping[str, object]) -> Scheduler:
    """Build the sampler `name` on the noise schedule of another scheduler's `config`.

    >>> pipe.scheduler = build_scheduler("dpm++ 2m", pipe.scheduler.config)
    """
    sampler = find_sampler(name)
    kind = getattr(diffusers, sampler.class_name)
    check_sampler_fits_noise_schedule(name, sampler, config)

    settings = dict(sampler.settings)
    if "clip_sample" in inspect.signature(kind.__init__).parameters:
        settings["clip_sample"] = False  # Latents, unlike pixels, leave -1..1.
    try:
        built: Scheduler = kind.from_config(dict(config), **settings)
    except ImportError as error:
        package = "torchsde" if sampler.class_name == "DPMSolverSDEScheduler" else "scipy"
        raise ArgumentError(
            f"The sampler {name!r} needs {package}, which is not installed: pip install {package}"
        ) from error
    except Exception as error:  # The config may be anybody's, of any of diffusers' schedulers.
        raise ArgumentError(
            f"The sampler {name!r} cannot be built on this model's noise schedule "
            f"({format_library_error(error)}): leave out the sampler to use the model's own."
        ) from error
    return built


def find_sampler(name: str) -> SamplerSpec:
    """Return the scheduler class and settings of a sampler name. Raises ArgumentError if the name
    is not in SAMPLERS.
    """
    sampler = SAMPLERS.get(normalize_sampler_name(name))
    if sampler is None:
        raise ArgumentError(
            f"Unknown sampler {name!r}. {suggest_choice(normalize_sampler_name(name), SAMPLERS)}"
        )
    return sampler


def scale_initial_noise(scheduler: Scheduler, noise_BCHW: Tensor) -> Tensor:
    """Scale noise to the initial latents of a run; flow schedulers leave it unscaled."""
    latents_BCHW: Tensor = noise_BCHW * getattr(scheduler, "init_noise_sigma", 1.0)
    return latents_BCHW


def scale_model_input(scheduler: Scheduler, latents_BCHW: Tensor, timestep: Tensor) -> Tensor:
    """Scale latents to the denoiser's input at a step; flow schedulers leave them unscaled."""
    scale = getattr(scheduler, "scale_model_input", None)
    scaled_BCHW: Tensor = latents_BCHW if scale is None else scale(latents_BCHW, timestep)
    return scaled_BCHW


def rebuild_scheduler_with_settings(scheduler: Scheduler, **settings: object) -> Scheduler:
    """Build a new scheduler of the same class and config, with some settings changed."""
    kind: Any = type(scheduler)
    built: Scheduler = kind.from_config(scheduler.config, **settings)
    return built


def check_sampler_fits_noise_schedule(
    name: str, sampler: SamplerSpec, config: Mapping[str, object]
) -> None:
    """Raise ArgumentError for a sampler that cannot run on a model's noise schedule."""
    if str(config.get("_class_name", "")).startswith("FlowMatch"):
        raise ArgumentError(
            f"The sampler {name!r} needs a model with a diffusion noise schedule, but this model's "
            f"is {config['_class_name']}: leave out the sampler to use the model's own."
        )
    if config.get("rescale_betas_zero_snr") and sampler.class_name not in ZERO_SNR_SCHEDULERS:
        able = [
            n
            for n, s in (SAMPLERS_WITHOUT_SIGMAS | SAMPLERS_WITH_SIGMAS).items()
            if s.class_name in ZERO_SNR_SCHEDULERS
        ]
        raise ArgumentError(
            f"The sampler {name!r} divides by the last step's signal, which is zero in this model "
            f"(zero-terminal SNR). Choose one of: {', '.join(sorted(able))}."
        )


SAMPLERS_WITHOUT_SIGMAS: dict[str, SamplerSpec] = {
    "ddim": SamplerSpec("DDIMScheduler"),
    "ddpm": SamplerSpec("DDPMScheduler"),
    "pndm": SamplerSpec("PNDMScheduler", {"skip_prk_steps": True}),
    "plms": SamplerSpec("PNDMScheduler", {"skip_prk_steps": True}),
    "euler a": SamplerSpec("EulerAncestralDiscreteScheduler"),
    "dpm2 a": SamplerSpec("KDPM2AncestralDiscreteScheduler"),
    "lcm": SamplerSpec("LCMScheduler"),
    "tcd": SamplerSpec("TCDScheduler"),
}

SAMPLERS_WITH_SIGMAS: dict[str, SamplerSpec] = {
    "euler": SamplerSpec("EulerDiscreteScheduler"),
    "heun": SamplerSpec("HeunDiscreteScheduler"),
    "lms": SamplerSpec("LMSDiscreteScheduler"),
    "dpm2": SamplerSpec("KDPM2DiscreteScheduler"),
    "dpm++ 2s": SamplerSpec("DPMSolverSinglestepScheduler"),
    "dpm++ 2m": SamplerSpec("DPMSolverMultistepScheduler"),
    "dpm++ 2m sde": SamplerSpec(
        "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}
    ),
    "dpm++ 3m": SamplerSpec("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "dpm++ 3m sde": SamplerSpec(
        "DPMSolverMultistepScheduler", {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"}
    ),
    "dpm++ sde": SamplerSpec("DPMSolverSDEScheduler"),
    "deis": SamplerSpec("DEISMultistepScheduler"),
    "unipc": SamplerSpec("UniPCMultistepScheduler"),
}
"""These also come with another spacing of the noise levels: "euler karras"."""

SAMPLERS: dict[str, SamplerSpec] = (
    SAMPLERS_WITHOUT_SIGMAS
    | SAMPLERS_WITH_SIGMAS
    | {
        f"{name} {spacing}": SamplerSpec(
            sampler.class_name, {**sampler.settings, f"use_{spacing}_sigmas": True}
        )
        for name, sampler in SAMPLERS_WITH_SIGMAS.items()
        for spacing in ("karras", "exponential")
    }
)

ZERO_SNR_SCHEDULERS = {
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
}
"""Schedulers of diffusers that can start from pure noise."""
