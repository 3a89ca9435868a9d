"""A picture and a prompt to pictures: `ImageToImagePipeline`.

B batch rows (here: pictures), C channels, H W latent size, Y X picture size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipelines.base.pipeline import Output, Pipeline
from pipelines.images import input_images as images
from pipelines.images.denoising_range import check_shares, stretch_of
from pipelines.loop import Generators
from pipelines.run.call import Prompts, Start
from pipelines.run.step_callbacks import StepEndCallback
from t2i.conditioning.run_state import Guidance
from t2i.denoiser.families.sdxl import Size


class ImageToImagePipeline(Pipeline):
    """Draws a picture anew, as far as `strength` says, towards what the prompt says.

    >>> pipe = ImageToImagePipeline.from_pretrained("embedded")
    >>> picture = PIL.Image.open("apple.png")
    >>> pipe("a green apple", image=picture, strength=0.6).images[0].save("green.png")
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
        generator: Generators | None = None,
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
        """Change `image`, one or one per prompt; arguments mean what diffusers says.

        The picture's own size is kept, rounded down to what the autoencoder can read; at `strength`
        1 nothing but its size is left of it. With `denoising_start` the image is what another
        pipeline left at that share of the run, output_type="latent", and strength has no say.
        """
        check_shares(denoising_start, denoising_end)

        def start(text_BTD: Tensor, num_inference_steps: int) -> Start:
            pixels_BCYX = images.pixels_of(self.image_processor, "image", images.in_full(image))
            stretch = stretch_of(
                self.scheduler, num_inference_steps, strength, denoising_start, denoising_end
            )
            clean_BCHW = images.latents_of(
                self.vae, pixels_BCYX, text_BTD.shape[0], generator, like=text_BTD
            )
            latents_BCHW = clean_BCHW
            if denoising_start is None:
                noise_BCHW = images.noise_like(clean_BCHW, generator)
                first_B = stretch.timesteps[:1].repeat(text_BTD.shape[0])
                latents_BCHW = self.scheduler.add_noise(clean_BCHW, noise_BCHW, first_B)
            return Start(latents_BCHW, *stretch)

        return self.draw(self.call_of(locals()), start)
