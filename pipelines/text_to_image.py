"""Prompts to pictures: `TextToImagePipeline`, called as diffusers' pipelines are.

B batch rows (here: pictures), T text tokens, D text width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipelines.base.pipeline import Output, Pipeline
from pipelines.images.denoising_range import Stretch, check_shares, until_share
from pipelines.images.input_images import first_noise
from pipelines.loop import Generators
from pipelines.run.call import Prompts, Start
from pipelines.run.step_callbacks import StepEndCallback
from t2i.conditioning.run_state import Guidance
from t2i.denoiser.families.sdxl import Size
from t2i.denoiser.schedulers import first_latents


class TextToImagePipeline(Pipeline):
    """Draws what a prompt says, with Stable Diffusion 1, 2 or XL, or the embedded model.

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
        denoising_end: float | None = None,
    ) -> Output:
        """Draw `num_images_per_prompt` pictures of each prompt; arguments mean what diffusers says.

        Beyond diffusers: a prompt may be a `Prompt`; `guidance` is any of t2i.conditioning, in the
        place of `guidance_scale`; `generator` may be a list, one per picture; a single negative
        prompt serves all prompts; the size is taken from `latents` where it is not given.
        """
        check_shares(None, denoising_end)

        def start(text_BTD: Tensor, num_inference_steps: int) -> Start:
            noise_BCHW = first_noise(self, text_BTD, height, width, generator, latents)
            latents_BCHW = first_latents(self.scheduler, noise_BCHW)
            whole = Stretch(self.scheduler.timesteps, num_inference_steps)
            return Start(latents_BCHW, *until_share(self.scheduler, whole, denoising_end))

        return self.draw(self.call_of(locals()), start)
