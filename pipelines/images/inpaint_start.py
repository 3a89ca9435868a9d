"""Starting latents, mask and step callback of an inpainting run.

B batch rows (here: images), C channels, H W latent size, Y X image size.
"""

from dataclasses import dataclass
from typing import Any

from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from pipelines.images import input_images as images
from pipelines.images.denoising_range import TimestepRange, select_image_to_image_timesteps
from pipelines.loop import GeneratorOrList
from pipelines.run.call_arguments import RunStart
from t2i.conditioning.run_state import RunState, StepCallback
from t2i.denoiser.families import inpaint, sd
from t2i.denoiser.schedulers import scale_initial_noise
from t2i.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class InpaintInputs:
    """Arguments of an inpainting call that determine what is repainted, and how much.

    mask_image : with Pillow masks converted, see `convert_pil_and_bool_masks`
    mask_processor : brings masks to size and to 0 or 1
    crop : left, top, right and bottom of the region that is drawn; None for the whole image
    """

    image: Any
    mask_image: Any
    masked_image_latents: Tensor | None
    height: int
    width: int
    strength: float
    generator: GeneratorOrList | None
    latents: Tensor | None
    denoising_start: float | None
    denoising_end: float | None
    mask_processor: VaeImageProcessor
    crop: tuple[int, int, int, int] | None = None

    @property
    def resize_options(self) -> dict[str, Any]:
        """Keyword arguments of `VaeImageProcessor.preprocess` by which the image and mask of an
        inpainting call are resized and cropped.
        """
        return {"height": self.height, "width": self.width, **self.crop_options}

    @property
    def crop_options(self) -> dict[str, Any]:
        """Keyword arguments of `VaeImageProcessor.preprocess` that crop to the region to inpaint;
        empty for the whole image.
        """
        return {} if self.crop is None else {"crops_coords": self.crop, "resize_mode": "fill"}


@dataclass(frozen=True)
class EncodedInpaintImage:
    """Latents of the image to inpaint, with the noise and the latents that the run starts from.

    clean_BCHW : latents of the image; None where neither start nor callback needs them
    are_pixels : False for an image that was given as latents
    """

    pixels_BCYX: Tensor
    are_pixels: bool
    clean_BCHW: Tensor | None
    noise_BCHW: Tensor
    start_BCHW: Tensor


def build_inpaint_start(
    pipe: Any, inputs: InpaintInputs, text_BTD: Tensor, num_inference_steps: int
) -> RunStart:
    """Build starting latents and timesteps of an inpainting run, which repaints the white part of a
    mask.

    A UNet for inpainting is given mask and masked image as further channels; every other one gets a
    step callback that restores the unmasked part.
    """
    reads_mask = inpaint.is_inpainting_unet(pipe.unet, pipe.vae.config["latent_channels"])
    timesteps = select_image_to_image_timesteps(
        pipe.scheduler,
        num_inference_steps,
        inputs.strength,
        inputs.denoising_start,
        inputs.denoising_end,
    )
    source = encode_and_noise_source(pipe, inputs, text_BTD, timesteps, reads_mask=reads_mask)
    mask_B1YX, mask_B1HW = resize_mask_to_image_and_latents(inputs, source.start_BCHW)
    if not reads_mask:
        assert source.clean_BCHW is not None
        if source.are_pixels:
            # StableDiffusionInpaintPipeline encodes the masked image here and discards it: an
            # ancestral sampler continues with the random numbers after those.
            advance_generator_past_encoding(
                pipe.vae, source.pixels_BCYX, source.clean_BCHW, inputs.generator
            )
        keep = KeepUnmaskedCallback(pipe.scheduler, mask_B1HW, source.clean_BCHW, source.noise_BCHW)
        return RunStart(
            source.start_BCHW, *timesteps, step_callbacks=[keep], resize_options=inputs.crop_options
        )
    masked = inputs.masked_image_latents
    if masked is None:
        check_not_latents(source.are_pixels)
        masked = source.pixels_BCYX * (mask_B1YX < 0.5)
    masked_BCHW = images.encode_images(
        pipe.vae, masked, text_BTD.shape[0], inputs.generator, like=text_BTD
    )
    channels = inpaint.join_mask_and_masked_latents(mask_B1HW, masked_BCHW)
    return RunStart(
        source.start_BCHW,
        *timesteps,
        extra={"channels": channels},
        resize_options=inputs.crop_options,
    )


def encode_and_noise_source(
    pipe: Any,
    inputs: InpaintInputs,
    text_BTD: Tensor,
    timesteps: TimestepRange,
    *,
    reads_mask: bool,
) -> EncodedInpaintImage:
    """Encode the image to inpaint, and add the noise of the first timestep for the starting
    latents.
    """
    num_images = text_BTD.shape[0]
    generator = inputs.generator
    pixels_BCYX = images.preprocess_images(
        pipe.image_processor, "image", images.to_opaque_rgb(inputs.image), **inputs.resize_options
    )
    clean_BCHW = None
    if inputs.strength < 1 or not reads_mask or inputs.denoising_start is not None:
        clean_BCHW = images.encode_images(
            pipe.vae, pixels_BCYX, num_images, generator, like=text_BTD
        ).contiguous()  # Other strides, other rounding: here as in diffusers.
    noise_BCHW = images.prepare_unscaled_starting_noise(
        pipe, text_BTD, inputs.height, inputs.width, generator, inputs.latents
    )
    if inputs.denoising_start is not None:
        assert clean_BCHW is not None
        start_BCHW = clean_BCHW
    elif inputs.latents is not None or inputs.strength == 1:
        start_BCHW = scale_initial_noise(pipe.scheduler, noise_BCHW)
    else:
        first_B = timesteps.timesteps[:1].repeat(num_images)
        start_BCHW = pipe.scheduler.add_noise(clean_BCHW, noise_BCHW, first_B)
    return EncodedInpaintImage(
        pixels_BCYX,
        pixels_BCYX.shape[1] != pipe.vae.config["latent_channels"],
        clean_BCHW,
        noise_BCHW,
        start_BCHW,
    )


def resize_mask_to_image_and_latents(
    inputs: InpaintInputs, latents_BCHW: Tensor
) -> tuple[Tensor, Tensor]:
    """Preprocess an inpainting mask; return it at image size, (B, 1, Y, X), and at latent size,
    (B, 1, H, W).
    """
    num_images = latents_BCHW.shape[0]
    mask_image = inputs.mask_image
    mask_B1YX = images.preprocess_images(
        inputs.mask_processor, "mask_image", mask_image, **inputs.resize_options
    )
    images.check_mask_channels_and_count(
        mask_B1YX, num_images, pillow=images.is_pil_image(mask_image)
    )
    mask_B1HW = inpaint.resize_mask_to_latents(mask_B1YX, *latents_BCHW.shape[-2:])
    mask_B1HW = mask_B1HW.to(latents_BCHW.device, latents_BCHW.dtype)
    return mask_B1YX, mask_B1HW.repeat(num_images // mask_B1HW.shape[0], 1, 1, 1)


@dataclass(frozen=True, slots=True)
class KeepUnmaskedCallback(StepCallback):
    """Step callback that restores the image where the mask is 0, at the next step's noise level."""

    scheduler: Any
    mask_B1HW: Tensor
    clean_BCHW: Tensor
    noise_BCHW: Tensor

    def after_step(self, run: RunState) -> None:
        """Restore the image in the unmasked part of the latents, at the next step's noise level."""
        kept_BCHW = self.clean_BCHW
        if run.step + 1 < run.num_steps:
            next_1 = run.timesteps[run.step + 1 : run.step + 2]
            kept_BCHW = self.scheduler.add_noise(self.clean_BCHW, self.noise_BCHW, next_1)
        run.latents_BCHW = (1 - self.mask_B1HW) * kept_BCHW + self.mask_B1HW * run.latents_BCHW


def advance_generator_past_encoding(
    vae: sd.VAE, pixels_BCYX: Tensor, like_BCHW: Tensor, generator: GeneratorOrList | None
) -> None:
    """Advance the generator by the random numbers that encoding the pixels with the VAE would take
    from it.
    """
    if not isinstance(vae, AutoencoderKL):
        return
    count = len(generator) if isinstance(generator, list) else pixels_BCYX.shape[0]
    shape = (count, *like_BCHW.shape[1:])
    randn_tensor(shape, generator=generator, device=like_BCHW.device, dtype=like_BCHW.dtype)


def check_not_latents(are_pixels: bool) -> None:
    """Raise ArgumentError for an image given as latents, which cannot be masked."""
    if not are_pixels:
        raise ArgumentError(
            "Got latents as image: a model for inpainting reads the image around the mask. Give "
            "the latents of the image with the white part of the mask painted grey as "
            "masked_image_latents, or give the image as pixels."
        )


def check_padding_mask_crop(image: Any, mask_image: Any, output_type: str, margin: int) -> None:
    """Raise ArgumentError unless padding_mask_crop=margin can be applied to image and mask."""
    if not isinstance(margin, int) or margin < 0:
        raise ArgumentError(f"Got padding_mask_crop={margin!r}, expected pixels, from 0 on.")
    pillow = all(hasattr(one, "crop") for one in (image, mask_image))
    if not pillow or output_type != "pil":
        raise ArgumentError(
            "padding_mask_crop needs one Pillow image, one Pillow mask and output_type='pil'; "
            f"got {type(image).__name__}, {type(mask_image).__name__} and "
            f"output_type={output_type!r}."
        )
    if mask_image.convert("L").getbbox() is None:
        raise ArgumentError(
            "Got a mask_image that is black everywhere: there is nothing to crop to. Paint the "
            "part to redraw white."
        )
