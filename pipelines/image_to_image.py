"""Image and prompt to images: `ImageToImagePipeline`.

B batch rows (here: images), C channels, H W latent size, Y X image size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipelines.base.pipeline import OutputOrTuple, Pipeline
from pipelines.images import input_images as images
from pipelines.images.denoising_range import (
    check_denoising_fractions,
    select_image_to_image_timesteps,
)
from pipelines.loop import GeneratorOrList
from pipelines.run.call_arguments import CallArguments, Prompts, RunStart
from pipelines.run.step_callbacks import StepEndCallback
from t2i.conditioning.run_state import Guidance
from t2i.controls.control import Control
from t2i.denoiser.caches.cache import Cache
from t2i.denoiser.families.sdxl import Size


class ImageToImagePipeline(Pipeline):
    """Pipeline that changes an image towards a prompt (image to image), the more the higher
    `strength` is.

    >>> pipe = ImageToImagePipeline.from_pretrained("embedded")
    >>> image = PIL.Image.open("apple.png")
    >>> pipe("a green apple", image=image, strength=0.6).images[0].save("green.png")
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompts | None = None,
        image: images.Images | None = None,
        strength: float = 0.8,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
        guidance_scale: float | None = None,
        negative_prompt: Prompts | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: GeneratorOrList | None = None,
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
        aesthetic_score: float = 6.0,
        negative_aesthetic_score: float = 2.5,
        denoising_start: float | None = None,
        denoising_end: float | None = None,
        controls: Sequence[Control] = (),
        cache: Sequence[Cache] | None = None,
    ) -> OutputOrTuple:
        """Change `image`, one or one per prompt; arguments mean what they mean in diffusers.

        The image keeps its size, rounded down to what the autoencoder can read; at `strength` 1
        only its size is kept. With `denoising_start` the image is the output of another pipeline
        at that fraction of the run (output_type="latent"), and strength is ignored.
        """
        check_denoising_fractions(denoising_start, denoising_end)

        def start(text_BTD: Tensor, num_inference_steps: int) -> RunStart:
            pixels_BCYX = images.preprocess_images(
                self.image_processor, "image", images.to_opaque_rgb(image)
            )
            timestep_range = select_image_to_image_timesteps(
                self.scheduler, num_inference_steps, strength, denoising_start, denoising_end
            )
            clean_BCHW = images.encode_images(
                self.vae, pixels_BCYX, text_BTD.shape[0], generator, like=text_BTD
            )
            latents_BCHW = clean_BCHW
            if denoising_start is None:
                noise_BCHW = images.sample_noise_like(clean_BCHW, generator)
                first_B = timestep_range.timesteps[:1].repeat(text_BTD.shape[0])
                latents_BCHW = self.scheduler.add_noise(clean_BCHW, noise_BCHW, first_B)
            return RunStart(latents_BCHW, *timestep_range)

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
            aesthetic_score=aesthetic_score,
            negative_aesthetic_score=negative_aesthetic_score,
        )
        return self.generate(call, start)
