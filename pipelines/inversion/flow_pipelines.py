"""Latents, timesteps and guidance of diffusers' pipelines of flow models, for edits of pictures.

B batch rows (here: images), C channels, H W latent size, L positions of packed latents.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor, nn

from pipelines.inversion.noise_levels import NoiseLevels, is_flow_matching, read_noise_levels
from t2i.denoiser.timesteps import check_num_steps
from t2i.errors import ArgumentError


class FlowPipelineAdapter(ABC):
    """Base class of adapters by which FlowEdit (Kulikov et al. 2024,
    https://arxiv.org/abs/2412.08629) runs in one of diffusers' flow pipelines, with the settings
    published for it.

    skip : share of the run that is left out at its noisy begin
    guidance_scale, source_guidance_scale : of the targets and of the source
    max_shift : default of the largest shift of timesteps
    """

    num_inference_steps: ClassVar[int]
    skip: ClassVar[float]
    guidance_scale: ClassVar[float]
    source_guidance_scale: ClassVar[float]
    max_shift: ClassVar[float]

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    @abstractmethod
    def pack_latents(self, latents_1CHW: Tensor) -> Tensor:
        """Return latents (1, C, H, W) in the shape in which the flow pipeline steps them, such as
        Flux's packed one.
        """

    @abstractmethod
    def build_unshifted_timesteps_arguments(self, num_steps: int) -> dict[str, Any]:
        """Return the arguments that the flow pipeline gives its scheduler's `set_timesteps` in a
        run of this many steps, without the shift.
        """

    @abstractmethod
    def applying_source_guidance_scale(self, scale: float, source_scale: float) -> Any:
        """Return a context manager within which the first row of the batch, the source, has the
        guidance scale `source_scale`; the others have `scale`.
        """

    def choose_guidance_scales(
        self, scale: float | None, source_scale: float | None
    ) -> tuple[float, float]:
        """Return the guidance scales of targets and source: those given, else the published ones;
        that of the source is at most that of the targets unless it is given.
        """
        chosen = self.guidance_scale if scale is None else scale
        if source_scale is None:
            return chosen, min(self.source_guidance_scale, chosen)
        return chosen, source_scale

    def build_pipeline_noise_levels(self, num_steps: int, latents_1CHW: Tensor) -> NoiseLevels:
        """Return the noise levels of the pipeline's own run of this many steps, which are shifted
        for large images if the scheduler's config says so.
        """
        check_num_steps(num_steps)
        scheduler: Any = copy.deepcopy(self.pipe.scheduler)
        if not is_flow_matching(scheduler):
            raise ArgumentError(
                f"Got a pipeline with {type(scheduler).__name__}, expected a scheduler of flow "
                "matching, such as the model's own FlowMatchEulerDiscreteScheduler."
            )
        config, (height, width) = scheduler.config, latents_1CHW.shape[-2:]
        arguments = self.build_unshifted_timesteps_arguments(num_steps)
        if config.get("use_dynamic_shifting"):
            arguments["mu"] = calculate_shift(
                (height // 2) * (width // 2),  # both models read 2 x 2 latents as one position
                config.get("base_image_seq_len", 256),
                config.get("max_image_seq_len", 4096),
                config.get("base_shift", 0.5),
                config.get("max_shift", self.max_shift),
            )
        scheduler.set_timesteps(**arguments)
        return read_noise_levels(scheduler)


class StableDiffusion3Adapter(FlowPipelineAdapter):
    """Adapter by which FlowEdit runs in diffusers' StableDiffusion3Pipeline."""

    num_inference_steps = 50
    skip = 0.34
    guidance_scale = 13.5
    source_guidance_scale = 3.5
    max_shift = 1.16

    def pack_latents(self, latents_1CHW: Tensor) -> Tensor:
        """Return the latents (1, C, H, W) unchanged: Stable Diffusion 3 reads them unpacked."""
        return latents_1CHW

    def build_unshifted_timesteps_arguments(self, num_steps: int) -> dict[str, Any]:
        """Return the arguments of the scheduler's `set_timesteps`: the number of steps."""
        return {"num_inference_steps": num_steps}

    @contextmanager
    def applying_source_guidance_scale(self, scale: float, source_scale: float) -> Iterator[None]:
        """Guide the first row of the batch by `source_scale` within the block.

        The pipeline computes u + scale (c - u) for every row: for that row c is replaced by
        u + source_scale / scale (c - u).
        """
        if scale == source_scale:
            yield
            return
        if scale <= 1:
            raise ArgumentError(
                f"Got guidance_scale={scale} and source_guidance_scale={source_scale}: without "
                "guidance of the targets, above 1, the source has none either."
            )

        def guide(_module: nn.Module, _args: object, kwargs: Any, output: Any) -> Any:
            prediction_BCHW = output[0]
            if kwargs.get("skip_layers") is not None:  # a pass of the branch "cond" alone
                return output
            uncond, cond = prediction_BCHW.chunk(2)
            source = uncond[:1] + source_scale / scale * (cond[:1] - uncond[:1])
            return (torch.cat([uncond, source, cond[1:]]), *output[1:])

        hook = self.pipe.transformer.register_forward_hook(guide, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()


class FluxAdapter(FlowPipelineAdapter):
    """Adapter by which FlowEdit runs in diffusers' FluxPipeline, whose guidance scale is an input
    of the model.
    """

    num_inference_steps = 28
    skip = 0.15
    guidance_scale = 5.5
    source_guidance_scale = 1.5
    max_shift = 1.15

    def pack_latents(self, latents_1CHW: Tensor) -> Tensor:
        """Return the latents packed to one position for 2 x 2 of them, (1, L, 4 C)."""
        packed: Tensor = self.pipe._pack_latents(latents_1CHW, *latents_1CHW.shape)
        return packed

    def build_unshifted_timesteps_arguments(self, num_steps: int) -> dict[str, Any]:
        """Return the arguments of the scheduler's `set_timesteps`: the sigmas that the pipeline
        asks for, or the number of steps.
        """
        if self.pipe.scheduler.config.get("use_flow_sigmas"):
            return {"num_inference_steps": num_steps}
        return {"sigmas": np.linspace(1.0, 1 / num_steps, num_steps)}

    def choose_guidance_scales(
        self, scale: float | None, source_scale: float | None
    ) -> tuple[float, float]:
        """Return the guidance scales of targets and source; ArgumentError for a model without that
        input, such as FLUX.1-schnell, if they are given.
        """
        given = scale is not None or source_scale is not None
        if given and not self.pipe.transformer.config.guidance_embeds:
            raise ArgumentError(
                "Got a guidance scale for a Flux model that does not read one, such as "
                "FLUX.1-schnell: leave it out."
            )
        return super().choose_guidance_scales(scale, source_scale)

    @contextmanager
    def applying_source_guidance_scale(self, scale: float, source_scale: float) -> Iterator[None]:
        """Context manager that gives the model `source_scale` for the first row of the batch, if
        the model reads guidance scales.
        """

        def guide(_module: nn.Module, args: Any, kwargs: Any) -> Any:
            if kwargs.get("guidance") is not None:
                guidance_B = kwargs["guidance"].clone()
                guidance_B[0] = source_scale
                kwargs = kwargs | {"guidance": guidance_B}
            return args, kwargs

        hook = self.pipe.transformer.register_forward_pre_hook(guide, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()


ADAPTER_BY_PIPELINE_CLASS: dict[type, type[FlowPipelineAdapter]] = {
    StableDiffusion3Pipeline: StableDiffusion3Adapter,
    FluxPipeline: FluxAdapter,
}
"""Class of diffusers' pipelines -> its adapter."""


def get_flow_pipeline_adapter(pipe: object) -> FlowPipelineAdapter:
    """Return the FlowPipelineAdapter for one of diffusers' flow pipelines; ArgumentError for a
    pipeline that has none.
    """
    for kind, adapter in ADAPTER_BY_PIPELINE_CLASS.items():
        if isinstance(pipe, kind):
            return adapter(pipe)
    raise ArgumentError(
        f"Got a {type(pipe).__name__}, expected a StableDiffusion3Pipeline or a FluxPipeline. "
        "Pictures are inverted for Stable Diffusion 1, 2 and XL by PromptEditPipeline.invert."
    )
