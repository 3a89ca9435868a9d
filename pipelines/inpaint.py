"""A picture, a mask and a prompt to pictures: `InpaintPipeline`.

B batch rows (here: pictures), C channels, H W latent size, Y X picture size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from pipelines.base.pipeline import Output, Pipeline
from pipelines.images import input_images as images
from pipelines.images.denoising_range import check_shares, stretch_of
from pipelines.loop import Generators
from pipelines.run.call import Prompts, Start
from pipelines.run.step_callbacks import StepEndCallback
from t2i.conditioning.run_state import Guidance, RunState
from t2i.denoiser.families import inpaint, sd
from t2i.denoiser.families.sdxl import Size
from t2i.denoiser.schedulers import first_latents
from t2i.errors import ArgumentError


class InpaintPipeline(Pipeline):
    """Draws the white part of a mask anew and keeps the rest of the picture.

    Any model can: one made for inpainting (nine channels) reads the mask and the picture around
    it; with every other one the rest is put back after each step.

    >>> pipe = InpaintPipeline.from_pretrained("embedded")
    >>> picture, mask = PIL.Image.open("scene.png"), PIL.Image.open("mask.png")
    >>> pipe("a green apple", image=picture, mask_image=mask).images[0].save("green.png")
    """

    sdxl_guidance = 7.5

    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompts | None = None,
        image: images.Images | None = None,
        mask_image: images.Images | None = None,
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
        generator: Generators | None = None,
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
    ) -> Output:
        """Draw what is white in `mask_image` anew; arguments mean what diffusers says.

        image, mask_image : one, or one per prompt; brought to `height` x `width`. Where a Pillow
            mask is clear it is not painted, so black; diffusers reads the colour that lies below,
            often white. One without transparency is read as by diffusers, bit for bit, but for 16
            bits of gray, which become 8.
        strength : 1 begins with noise, less with the picture under so much noise
        padding_mask_crop : pixels around the mask; only that part of the picture is drawn, at the
            full size, and put back into the picture
        denoising_start : the image is what another pipeline left at that share of the run,
            output_type="latent"; strength has no say
        denoising_start, denoising_end : a model that is not made for inpainting puts the image back
            as it is given after its last step, whatever the share, as in diffusers: around the mask
            it is clean before the run is over, or keeps the noise that the other pipeline left
        """
        check_shares(denoising_start, denoising_end)
        if denoising_start is not None and latents is not None:
            raise ArgumentError(
                "Got both denoising_start and latents: with denoising_start the image is where the "
                "run begins. Give what another pipeline left as image, and no latents."
            )
        images.check_images("image", image)
        images.check_images("mask_image", mask_image)
        mask_image = images.painted_masks(mask_image)
        default_height, default_width = sd.default_size(self.unet, self.vae)
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
        sizing: dict[str, Any] = {"height": height, "width": width}
        if padding_mask_crop is not None:
            check_croppable(image, mask_image, output_type, padding_mask_crop)
            crop = masks.get_crop_region(mask_image, width, height, pad=padding_mask_crop)
            sizing |= {"crops_coords": crop, "resize_mode": "fill"}

        def start(text_BTD: Tensor, num_inference_steps: int) -> Start:
            pictures = text_BTD.shape[0]
            device, dtype = text_BTD.device, text_BTD.dtype
            reads_mask = inpaint.reads_the_mask(self.unet, self.vae.config["latent_channels"])
            stretch = stretch_of(
                self.scheduler, num_inference_steps, strength, denoising_start, denoising_end
            )

            # the picture, and the noise it begins from
            pixels_BCYX = images.pixels_of(
                self.image_processor, "image", images.in_full(image), **sizing
            )
            are_latents = pixels_BCYX.shape[1] == self.vae.config["latent_channels"]
            clean_BCHW = None
            if strength < 1 or not reads_mask or denoising_start is not None:
                clean_BCHW = images.latents_of(
                    self.vae, pixels_BCYX, pictures, generator, like=text_BTD
                ).contiguous()  # Other strides, other rounding: here as in diffusers.
            noise_BCHW = images.first_noise(self, text_BTD, height, width, generator, latents)
            if denoising_start is not None:
                assert clean_BCHW is not None
                latents_BCHW = clean_BCHW
            elif latents is not None or strength == 1:
                latents_BCHW = first_latents(self.scheduler, noise_BCHW)
            else:
                first_B = stretch.timesteps[:1].repeat(pictures)
                latents_BCHW = self.scheduler.add_noise(clean_BCHW, noise_BCHW, first_B)

            # the mask, and the picture without what lies under it
            mask_B1YX = images.pixels_of(masks, "mask_image", mask_image, **sizing)
            images.check_masks(mask_B1YX, pictures, pillow=images.are_pillow(mask_image))
            mask_B1HW = inpaint.mask_on_latents(mask_B1YX, *latents_BCHW.shape[-2:])
            mask_B1HW = mask_B1HW.to(device, dtype)
            mask_B1HW = mask_B1HW.repeat(pictures // mask_B1HW.shape[0], 1, 1, 1)
            if not reads_mask:
                assert clean_BCHW is not None
                if not are_latents:
                    # StableDiffusionInpaintPipeline encodes the masked picture here and drops it:
                    # an ancestral sampler goes on from the numbers after those.
                    draw_posterior(self.vae, pixels_BCYX, clean_BCHW, generator)
                keep = KeepOutside(self.scheduler, mask_B1HW, clean_BCHW, noise_BCHW)
                return Start(latents_BCHW, *stretch, step_callbacks=[keep])
            masked = masked_image_latents
            if masked is None:
                check_pixels(are_latents)
                masked = pixels_BCYX * (mask_B1YX < 0.5)
            masked_BCHW = images.latents_of(self.vae, masked, pictures, generator, like=text_BTD)
            channels = inpaint.channels(mask_B1HW, masked_BCHW)
            return Start(latents_BCHW, *stretch, extra={"channels": channels})

        output = self.draw(self.call_of(locals()), start)
        if crop is None:
            return output
        pictures = output[0] if isinstance(output, tuple) else output.images
        pictures[:] = [
            self.image_processor.apply_overlay(mask_image, image, picture, crop)
            for picture in pictures
        ]
        return output


@dataclass(frozen=True, slots=True)
class KeepOutside:
    """Step callback that restores the image where the mask is 0, at the next step's noise level."""

    scheduler: Any
    mask_B1HW: Tensor
    clean_BCHW: Tensor
    noise_BCHW: Tensor

    def before_pass(self, run: RunState) -> None:
        pass

    def after_step(self, run: RunState) -> None:
        kept_BCHW = self.clean_BCHW
        if run.step + 1 < run.num_steps:
            next_1 = run.timesteps[run.step + 1 : run.step + 2]
            kept_BCHW = self.scheduler.add_noise(self.clean_BCHW, self.noise_BCHW, next_1)
        run.latents_BCHW = (1 - self.mask_B1HW) * kept_BCHW + self.mask_B1HW * run.latents_BCHW


def draw_posterior(
    vae: sd.VAE, pixels_BCYX: Tensor, like_BCHW: Tensor, generator: Generators | None
) -> None:
    """Draw the numbers that encoding these pixels would draw, and drop them."""
    if not isinstance(vae, AutoencoderKL):
        return
    count = len(generator) if isinstance(generator, list) else pixels_BCYX.shape[0]
    shape = (count, *like_BCHW.shape[1:])
    randn_tensor(shape, generator=generator, device=like_BCHW.device, dtype=like_BCHW.dtype)


def check_pixels(are_latents: bool) -> None:
    """Raise ArgumentError where the picture around the mask cannot be cut out of the image."""
    if are_latents:
        raise ArgumentError(
            "Got latents as image: a model made for inpainting reads the picture around the mask. "
            "Give its latents, encoded with what is white in the mask painted grey, as "
            "masked_image_latents, or the picture as image."
        )


def check_croppable(image: Any, mask_image: Any, output_type: str, margin: int) -> None:
    if not isinstance(margin, int) or margin < 0:
        raise ArgumentError(f"Got padding_mask_crop={margin!r}, expected pixels, from 0 on.")
    pillow = all(hasattr(one, "crop") for one in (image, mask_image))
    if not pillow or output_type != "pil":
        raise ArgumentError(
            "padding_mask_crop works on one Pillow picture and one Pillow mask, and with "
            f"output_type='pil'; got {type(image).__name__}, {type(mask_image).__name__} and "
            f"output_type={output_type!r}."
        )
    if mask_image.convert("L").getbbox() is None:
        raise ArgumentError(
            "Got a mask_image that is black all over: there is nothing to crop to. Paint white "
            "what is to be drawn anew."
        )
