"""Prompts to pictures: `TextToImagePipeline`, called as diffusers' pipelines are.

B batch rows (here: pictures), T text tokens, D text width, C channels, H W latent size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.stable_diffusion.pipeline_output import StableDiffusionPipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from pipelines import arguments
from pipelines.loop import Generators
from pipelines.pipeline import Pipeline
from pipelines.visitors import Callback, StepCallback
from t2i.conditioning.run import Run
from t2i.denoiser.families import sd
from t2i.denoiser.schedulers import first_latents, set_timesteps


class TextToImagePipeline(Pipeline):
    """Draws what a prompt says, with a Stable Diffusion 1 or 2 model or the embedded one.

    >>> pipe = TextToImagePipeline.from_pretrained("embedded")
    >>> seed = torch.Generator().manual_seed(7)
    >>> pipe("a red apple to the left of a cat", generator=seed).images[0].save("apple.png")
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        timesteps: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
        guidance_scale: float = 7.5,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: Mapping[str, object] | None = None,
        guidance_rescale: float = 0.0,
        clip_skip: int | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> StableDiffusionPipelineOutput | tuple[Any, None]:
        """Draw `num_images_per_prompt` pictures of each prompt; arguments mean what diffusers says.

        Beyond diffusers: `generator` may be a list, one per picture; a single negative prompt
        serves all prompts; the size is taken from `latents` where it is not given.
        """
        # what was asked for
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        arguments.check_callback_inputs(
            callback_on_step_end_tensor_inputs, self._callback_tensor_inputs
        )
        arguments.check_output_type(output_type)
        guidance = self.begin(guidance_scale, guidance_rescale, clip_skip, cross_attention_kwargs)
        device = self._execution_device

        try:
            # what the denoiser is told
            cond_BTD, uncond_BTD = self.encode_prompt(
                prompt,
                device,
                num_images_per_prompt,
                "uncond" in guidance.needs,
                negative_prompt,
                prompt_embeds,
                negative_prompt_embeds,
                clip_skip,
            )
            told = self.tell(guidance, cond_BTD, uncond_BTD)

            # where it starts
            num_inference_steps = set_timesteps(
                self.scheduler, num_inference_steps, device, timesteps, sigmas
            )
            arguments.check_generators(generator, told.pictures)
            latents_BCHW = self.prepare_latents(
                told.pictures, height, width, cond_BTD.dtype, device, generator, latents
            )

            # step by step, to pictures
            callback = Callback(
                self, callback_on_step_end, callback_on_step_end_tensor_inputs, uncond_BTD
            )
            run = Run(latents_BCHW, told, guidance, self.scheduler.timesteps)
            latents_BCHW = self.sample(run, num_inference_steps, eta, generator, [callback])
            images = self.to_images(latents_BCHW, output_type)
        finally:
            self.maybe_free_model_hooks()  # type: ignore[no-untyped-call]  # diffusers lacks types

        if not return_dict:
            return images, None
        return StableDiffusionPipelineOutput(images=images, nsfw_content_detected=None)

    def prepare_latents(
        self,
        pictures: int,
        height: int | None,
        width: int | None,
        dtype: torch.dtype,
        device: torch.device,
        generator: Generators | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Noise (B, C, H, W) as strong as the scheduler starts with, drawn or from `latents`."""
        default_height, default_width = sd.default_size(self.unet, self.vae)
        if latents is not None and latents.ndim == 4:
            factor = sd.pixels_per_latent(self.vae)
            default_height, default_width = (side * factor for side in latents.shape[-2:])
        height = default_height if height is None else height
        width = default_width if width is None else width
        shape = (
            pictures,
            self.unet.config["in_channels"],
            *sd.latent_size(self.vae, height, width),
        )
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        else:
            arguments.check_latents(latents, shape)
            latents = latents.to(device, dtype)
        return first_latents(self.scheduler, latents)
