"""Image, mask and prompt to images: `InpaintPipeline`."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from pipelines.base.pipeline import OutputOrTuple, Pipeline
from pipelines.images import input_images
from pipelines.images.denoising_range import check_denoising_fractions
from pipelines.images.inpaint_start import (
    InpaintInputs,
    build_inpaint_start,
    check_padding_mask_crop,
)
from pipelines.loop import GeneratorOrList
from pipelines.run.call_arguments import CallArguments, Prompts
from pipelines.run.step_callbacks import StepEndCallback
from t2i.conditioning.run_state import Guidance
from t2i.controls.control import Control
from t2i.denoiser.caches.cache import Cache
from t2i.denoiser.families import sd
from t2i.denoiser.families.sdxl import Size
from t2i.errors import ArgumentError


class InpaintPipeline(Pipeline):
    """Pipeline that redraws the white part of a mask and keeps the rest of the image.

    Works with any model: one for inpainting (nine channels) reads the mask and the image around it;
    with every other one the rest is restored after each step.

    >>> pipe = InpaintPipeline.from_pretrained("embedded")
    >>> image, mask = PIL.Image.open("scene.png"), PIL.Image.open("mask.png")
    >>> pipe("a green apple", image=image, mask_image=mask).images[0].save("green.png")
    """

    sdxl_guidance = 7.5

    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompts | None = None,
        image: input_images.Images | None = None,
        mask_image: input_images.Images | None = None,
        masked_image_latents: Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        padding_mask_crop: int | None = None,
        strength: float = 1.0,
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
        aesthetic_score: float = 6.0,
        negative_aesthetic_score: float = 2.5,
        denoising_start: float | None = None,
        denoising_end: float | None = None,
        controls: Sequence[Control] = (),
        cache: Sequence[Cache] | None = None,
    ) -> OutputOrTuple:
        """Redraw the white part of `mask_image`; arguments mean what they mean in diffusers.

        image, mask_image : one, or one per prompt; resized to `height` x `width`. A transparent
            part of a Pillow mask is read as black; diffusers reads the colour below it, often
            white. Opaque masks are read as by diffusers, bit for bit, but for 16 bits of gray,
            which become 8.
        strength : 1 starts from noise, less from the image under that much noise
        padding_mask_crop : pixels around the mask; only that part of the image is drawn, at the
            full size, and pasted back into the image
        denoising_start : the image is the output of another pipeline at that fraction of the run
            (output_type="latent"); strength is ignored
        denoising_start, denoising_end : a model that is not made for inpainting restores the image
            as given after its last step, whatever the fraction, as in diffusers: around the mask it
            is clean before the run ends, or keeps the noise that the other pipeline left
        """
        check_denoising_fractions(denoising_start, denoising_end)
        if denoising_start is not None and latents is not None:
            raise ArgumentError(
                "Got both denoising_start and latents: with denoising_start the run starts from "
                "the image. Give the output of another pipeline as image, and no latents."
            )
        input_images.check_image_types("image", image)
        input_images.check_image_types("mask_image", mask_image)
        mask_image = input_images.convert_pil_and_bool_masks(mask_image)
        default_height, default_width = sd.default_height_and_width(self.unet, self.vae)
        height = default_height if height is None else height
        width = default_width if width is None else width
        sd.latent_size(self.vae, height, width)
        masks = VaeImageProcessor(
            vae_scale_factor=sd.pixels_per_latent(self.vae),
            do_normalize=False,
            do_binarize=True,
            do_convert_grayscale=True,
        )
        crop = None
        if padding_mask_crop is not None:
            check_padding_mask_crop(image, mask_image, output_type, padding_mask_crop)
            crop = masks.get_crop_region(mask_image, width, height, pad=padding_mask_crop)
        inputs = InpaintInputs(
            image=image,
            mask_image=mask_image,
            masked_image_latents=masked_image_latents,
            height=height,
            width=width,
            strength=strength,
            generator=generator,
            latents=latents,
            denoising_start=denoising_start,
            denoising_end=denoising_end,
            mask_processor=masks,
            crop=crop,
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
            aesthetic_score=aesthetic_score,
            negative_aesthetic_score=negative_aesthetic_score,
        )
        output = self.generate(call, partial(build_inpaint_start, self, inputs))
        if crop is not None:
            self._paste_crops(output, inputs)
        return output

    def _paste_crops(self, output: OutputOrTuple, inputs: InpaintInputs) -> None:
        """Replace each cropped image of `output` by the whole image with the crop pasted in."""
        images = output[0] if isinstance(output, tuple) else output.images
        images[:] = [
            self.image_processor.apply_overlay(inputs.mask_image, inputs.image, image, inputs.crop)
            for image in images
        ]
