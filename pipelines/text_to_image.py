"""Prompts to images: `TextToImagePipeline`, called as diffusers' pipelines are.

B batch rows (here: images), T text tokens, D text width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipelines.base.pipeline import OutputOrTuple, Pipeline
from pipelines.images.denoising_range import (
    TimestepRange,
    check_denoising_fractions,
    truncate_at_denoising_end,
)
from pipelines.images.input_images import prepare_unscaled_starting_noise
from pipelines.loop import GeneratorOrList
from pipelines.run.call_arguments import CallArguments, Prompts, RunStart
from pipelines.run.step_callbacks import StepEndCallback
from t2i.conditioning.run_state import Guidance
from t2i.controls.control import Control
from t2i.denoiser.caches.cache import Cache
from t2i.denoiser.families.sdxl import Size
from t2i.denoiser.schedulers import scale_initial_noise


class TextToImagePipeline(Pipeline):
    """Pipeline that generates images of a prompt with Stable Diffusion 1, 2 or XL, or the
    embedded model.

    >>> pipe = TextToImagePipeline.from_pretrained("embedded")
    >>> seed = torch.Generator().manual_seed(7)
    >>> pipe("a red apple to the left of a cat", generator=seed).images[0].save("apple.png")
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompts | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
        guidance_scale: float | None = None,
        negative_prompt: Prompts | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: GeneratorOrList | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        ip_adapter_image: Any = None,
        ip_adapter_image_embeds: Sequence[Tensor] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: Mapping[str, object] | None = None,
        guidance_rescale: float = 0.0,
        clip_skip: int | None = None,
        callback_on_step_end: StepEndCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        guidance: Guidance | None = None,
        prompt_2: Prompts | None = None,
        negative_prompt_2: Prompts | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        original_size: Size | None = None,
        crops_coords_top_left: Size = (0, 0),
        target_size: Size | None = None,
        negative_original_size: Size | None = None,
        negative_crops_coords_top_left: Size = (0, 0),
        negative_target_size: Size | None = None,
        denoising_end: float | None = None,
        controls: Sequence[Control] = (),
        cache: Sequence[Cache] | None = None,
    ) -> OutputOrTuple:
        """Generate `num_images_per_prompt` images of each prompt, with the arguments of diffusers.

        Beyond diffusers: a prompt may be a `Prompt`; `guidance` is any of t2i.conditioning and
        replaces `guidance_scale`; `generator` may be a list, one per image; a single negative
        prompt serves all prompts; the size defaults to that of `latents`.
        """
        check_denoising_fractions(None, denoising_end)

        def start(text_BTD: Tensor, num_inference_steps: int) -> RunStart:
            noise_BCHW = prepare_unscaled_starting_noise(
                self, text_BTD, height, width, generator, latents
            )
            latents_BCHW = scale_initial_noise(self.scheduler, noise_BCHW)
            whole = TimestepRange(self.scheduler.timesteps, num_inference_steps)
            return RunStart(
                latents_BCHW, *truncate_at_denoising_end(self.scheduler, whole, denoising_end)
            )

        call = CallArguments(
            prompt=prompt,
            negative_prompt=negative_prompt,
            num_inference_steps=self.steps_or_default(num_inference_steps),
            timesteps=timesteps,
            sigmas=sigmas,
            guidance_scale=self.guidance_scale_or_default(guidance_scale),
            guidance_rescale=guidance_rescale,
            guidance=guidance,
            num_images_per_prompt=num_images_per_prompt,
            eta=eta,
            generator=generator,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            ip_adapter_image=ip_adapter_image,
            ip_adapter_image_embeds=ip_adapter_image_embeds,
            output_type=output_type,
            return_dict=return_dict,
            cross_attention_kwargs=cross_attention_kwargs,
            clip_skip=clip_skip,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            controls=controls,
            cache=cache,
            prompt_2=prompt_2,
            negative_prompt_2=negative_prompt_2,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
            original_size=original_size,
            crops_coords_top_left=crops_coords_top_left,
            target_size=target_size,
            negative_original_size=negative_original_size,
            negative_crops_coords_top_left=negative_crops_coords_top_left,
            negative_target_size=negative_target_size,
        )
        return self.generate(call, start)
