"""Image embeddings, or prompts through a prior, to images: `UnclipPipeline`.

B batch rows (here: images), D width of an embedding, C channels, H W latent size,
Y X image size.
"""

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Self

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.transformers.prior_transformer import PriorTransformer
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_unclip import UnCLIPScheduler
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from pipelines.base.loading_checks import CheckedPipeline, read_t2i_json_from_unet
from pipelines.base.output import PipelineOutput
from pipelines.base.pipeline import OutputOrTuple
from pipelines.images.input_images import sample_latent_noise_unless_given
from pipelines.loop import GeneratorOrList, sample_latents
from pipelines.run import argument_checks
from pipelines.run.call_state import CallSchedulerAttribute, CallState, CallStateMixin
from pipelines.run.exclusive_access import lock_denoise_that_changes_model
from pipelines.run.step_callbacks import ProgressCallback, StepEndCallback, StepEndCallbackAdapter
from pipelines.unclip import image_embeddings as picture_embeds
from pipelines.unclip.prior import load_prior_components, sample_image_embeddings
from pipelines.unclip.unclip_arguments import UnclipArguments
from t2i.conditioning.conditioning import Branch, stack_branches_to_conditioning
from t2i.conditioning.guidance import choose_guidance
from t2i.conditioning.run_state import Guidance, RunState, StepCallback
from t2i.denoiser.families import unclip
from t2i.denoiser.loading.model_parts import KANDINSKY, PRIOR_PARTS
from t2i.denoiser.memory_checks import check_sampling_memory, translating_out_of_memory
from t2i.denoiser.predicted_original import compute_x0_coefficients_per_step
from t2i.denoiser.sampling_defaults import parse_sampling_defaults
from t2i.denoiser.schedulers import Scheduler, scale_initial_noise
from t2i.denoiser.timesteps import set_timesteps

FALLBACK_DEFAULTS = {"num_inference_steps": 100, "guidance_scale": 4.0}
"""Defaults for models without own ones, those of KandinskyV22CombinedPipeline."""


class UnclipPipeline(CallStateMixin, CheckedPipeline):
    """Pipeline that generates images of image embeddings with Kandinsky 2.2, or of prompts with
    its prior.

    >>> pipe = UnclipPipeline.from_pretrained(
    ...     "kandinsky-community/kandinsky-2-2-decoder",
    ...     prior="kandinsky-community/kandinsky-2-2-prior",
    ... )
    >>> pipe("a red apple").images[0].save("apple.png")
    >>> pipe(image_embeds=embeds, negative_image_embeds=zeros).images[0].save("like.png")

    Its parts have the names that KandinskyV22CombinedPipeline gives them.
    """

    scheduler_names = ("scheduler", "prior_scheduler")
    prior_scheduler = CallSchedulerAttribute()
    kinds: ClassVar[tuple[str, ...]] = (KANDINSKY,)
    model_cpu_offload_seq = "prior_text_encoder->prior_image_encoder->unet->movq"  # type: ignore[assignment]  # None there
    # Two of its parameters are read outside its forward.
    _exclude_from_cpu_offload = ["prior_prior"]  # noqa: RUF012 - as in diffusers
    _optional_components = [  # noqa: RUF012 - as in diffusers
        *(f"prior_{part}" for part in PRIOR_PARTS),
        "prior_image_processor",
    ]
    _callback_tensor_inputs: ClassVar[list[str]] = [
        "latents",
        *picture_embeds.TEXT_NAME_BY_IMAGE_NAME,
    ]

    def __init__(
        self,
        unet: UNet2DConditionModel,
        scheduler: Scheduler,
        movq: VQModel,
        prior_prior: PriorTransformer | None = None,
        prior_text_encoder: CLIPTextModelWithProjection | None = None,
        prior_tokenizer: CLIPTokenizer | None = None,
        prior_scheduler: UnCLIPScheduler | None = None,
        prior_image_encoder: CLIPVisionModelWithProjection | None = None,
        prior_image_processor: CLIPImageProcessor | None = None,
    ) -> None:
        super().__init__()
        unclip.check_unet_fits_movq(unet, movq)
        if prior_prior is not None:
            unclip.check_prior_fits(prior_prior, prior_scheduler, unet)
        self.register_modules(  # type: ignore[no-untyped-call]  # diffusers has no types for it
            unet=unet,
            scheduler=scheduler,
            movq=movq,
            prior_prior=prior_prior,
            prior_text_encoder=prior_text_encoder,
            prior_tokenizer=prior_tokenizer,
            prior_scheduler=prior_scheduler,
            prior_image_encoder=prior_image_encoder,
            prior_image_processor=prior_image_processor,
        )
        self.notes = read_t2i_json_from_unet(unet)
        self.image_processor = VaeImageProcessor(vae_scale_factor=unclip.pixels_per_latent(movq))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        prior: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a Kandinsky 2.2 decoder after checking its files, with the prior from the folder or
        hub id `prior`.

        A folder that holds both, as KandinskyV22CombinedPipeline saves it, needs no `prior`.
        """
        if prior is not None:
            kwargs = load_prior_components(prior, **kwargs) | kwargs
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    def to_json_string(self) -> str:
        """Return the content of model_index.json, naming diffusers' pipeline of the same parts."""
        index = json.loads(super().to_json_string())
        index["_class_name"] = "KandinskyV22CombinedPipeline"
        if self.prior_prior is None:
            index = {name: part for name, part in index.items() if not name.startswith("prior_")}
            index["_class_name"] = "KandinskyV22Pipeline"
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        image_embeds: picture_embeds.ImageEmbeds | None = None,
        negative_image_embeds: picture_embeds.ImageEmbeds | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        prior_num_inference_steps: int = 25,
        prior_guidance_scale: float = 4.0,
        num_images_per_prompt: int = 1,
        generator: GeneratorOrList | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: Mapping[str, object] | None = None,
        callback_on_step_end: StepEndCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        guidance: Guidance | None = None,
    ) -> OutputOrTuple:
        """Generate `num_images_per_prompt` images of each prompt, or of each row of `image_embeds`.

        Arguments mean what they mean in KandinskyV22CombinedPipeline and KandinskyV22Pipeline, but
        `latents` are the decoder's; `guidance` is any of t2i.conditioning that needs only the
        branches "uncond" and "cond", and replaces `guidance_scale`.
        """
        default_steps = self.defaults["num_inference_steps"]
        default_scale = self.defaults["guidance_scale"]
        call = UnclipArguments(
            prompt=prompt,
            negative_prompt=negative_prompt,
            image_embeds=image_embeds,
            negative_image_embeds=negative_image_embeds,
            height=height,
            width=width,
            num_inference_steps=default_steps
            if num_inference_steps is None
            else num_inference_steps,
            guidance_scale=default_scale if guidance_scale is None else guidance_scale,
            prior_num_inference_steps=prior_num_inference_steps,
            prior_guidance_scale=prior_guidance_scale,
            num_images_per_prompt=num_images_per_prompt,
            generator=generator,
            latents=latents,
            output_type=output_type,
            return_dict=return_dict,
            cross_attention_kwargs=cross_attention_kwargs,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            guidance=guidance,
        )
        return self.generate(call)

    def generate(self, call: UnclipArguments) -> OutputOrTuple:
        """Run a call: get image embeddings, sample latents from noise, decode them."""
        call.check(self._callback_tensor_inputs)
        self.scheduler = unclip.get_corrected_scheduler(vars(self)["scheduler"])
        state = CallState(guidance_scale=call.guidance_scale, custom_guidance=call.guidance)
        with self.entering_call(state), translating_out_of_memory():
            needs = self.build_current_guidance().possible_branches
            picture_embeds.check_only_uncond_and_cond(needs)
            size = self.latent_size(call.height, call.width, call.latents)
            device, dtype = self._execution_device, self.unet.dtype
            steps = set_timesteps(self.scheduler, call.num_inference_steps, device)

            # embeddings of the images to draw
            embeds = self._image_embeddings(call, needs, device)
            text = {branch: embeds[branch].to(device, dtype)[:, None] for branch in needs}
            conditioning = stack_branches_to_conditioning(text)

            # starting noise
            shape = (conditioning.num_images, self.unet.config["in_channels"], *size)
            noise_BCHW = sample_latent_noise_unless_given(
                shape, call.generator, call.latents, device, dtype
            )
            latents_BCHW = scale_initial_noise(self.scheduler, noise_BCHW)
            check_sampling_memory(
                self.unet, self.movq, latents_BCHW, len(needs), force_not_quantize=True
            )

            # sample and decode
            run = RunState(
                latents_BCHW, conditioning, self.build_current_guidance(), self.scheduler.timesteps
            )
            run.x0_coefficients = compute_x0_coefficients_per_step(self.scheduler)
            callback = self._user_callback(call, text.get("uncond"))
            latents_BCHW = self.sample_decoder_latents(
                run,
                steps,
                call.generator,
                [*state.step_callbacks, callback],
                call.cross_attention_kwargs,
            )
            images = self.to_images(latents_BCHW, call.output_type)

        if not call.return_dict:
            return images, None
        return PipelineOutput(images=images, nsfw_content_detected=None)

    def _image_embeddings(
        self, call: UnclipArguments, needs: Sequence[Branch], device: torch.device
    ) -> dict[Branch, Tensor]:
        """Return the given embeddings (B, D) by branch, or those the prior predicts for prompts."""
        if call.image_embeds is not None:
            picture_embeds.check_no_prompts(call.prompt, call.negative_prompt)
            embeds = picture_embeds.group_embeddings_by_branch(
                needs,
                call.image_embeds,
                call.negative_image_embeds,
                self.unet.config["encoder_hid_dim"],
                call.num_images_per_prompt,
            )
            argument_checks.check_generators(call.generator, len(embeds["cond"]))
            return embeds
        prompts, negative_prompts = picture_embeds.check_and_list_prior_prompts(
            call.prompt, call.negative_prompt, call.negative_image_embeds, self.prior_prior
        )
        num_images = len(prompts) * call.num_images_per_prompt
        argument_checks.check_generators(call.generator, num_images)
        return sample_image_embeddings(
            self,
            prompts,
            negative_prompts,
            num_images_per_prompt=call.num_images_per_prompt,
            num_inference_steps=call.prior_num_inference_steps,
            guidance_scale=call.prior_guidance_scale,
            generator=call.generator,
            device=device,
        )

    def _user_callback(
        self, call: UnclipArguments, negative_prompt_embeds: Tensor | None
    ) -> StepEndCallbackAdapter:
        """Return the step callback that calls `callback_on_step_end` with diffusers' names."""
        callback = call.callback_on_step_end
        names = picture_embeds.TEXT_NAME_BY_IMAGE_NAME
        return StepEndCallbackAdapter(
            self,
            callback and picture_embeds.wrap_callback_with_diffusers_names(callback),
            [names.get(name, name) for name in call.callback_on_step_end_tensor_inputs],
            negative_prompt_embeds,
        )

    @property
    def defaults(self) -> dict[str, Any]:
        """Default steps and guidance scale of the decoder: the model's own, else those of
        diffusers.
        """
        return parse_sampling_defaults(self.notes).override_call_arguments(FALLBACK_DEFAULTS)

    def latent_size(
        self, height: int | None, width: int | None, latents: object
    ) -> tuple[int, int]:
        """Return height and width of the latents: for the given image size, else of `latents`,
        else the model's default.
        """
        default_height, default_width = unclip.default_height_and_width(self.unet, self.movq)
        if isinstance(latents, Tensor) and latents.ndim == 4:
            factor = unclip.pixels_per_latent(self.movq)
            default_height, default_width = (side * factor for side in latents.shape[-2:])
        return unclip.latent_size(
            self.movq,
            default_height if height is None else height,
            default_width if width is None else width,
        )

    def sample_decoder_latents(
        self,
        run: RunState,
        num_inference_steps: int,
        generator: GeneratorOrList | None,
        step_callbacks: Sequence[StepCallback],
        attention_options: Mapping[str, object] | None,
    ) -> Tensor:
        """Run the sampling loop with a progress bar and return the latents (B, C, H, W)."""
        self._num_timesteps = run.num_steps
        denoise = partial(
            unclip.run_unet,
            self.unet,
            with_variance=unclip.uses_learned_variance(self.scheduler),
            attention_options=attention_options,
        )
        with self.progress_bar(total=num_inference_steps) as bar:
            progress = ProgressCallback(bar, num_inference_steps, self.scheduler.order)
            return sample_latents(
                run,
                lock_denoise_that_changes_model(denoise, self.unet),
                self.scheduler,
                generator=generator,
                step_callbacks=[*step_callbacks, progress],
            )

    def to_images(self, latents_BCHW: Tensor, output_type: str) -> Any:
        """Return latents decoded to images of `output_type`: "pil", "np", "pt"; "latent" returns
        latents.
        """
        if output_type == "latent":
            return latents_BCHW
        pixels_B3YX = unclip.decode_latents_to_pixels(self.movq, latents_BCHW)
        return self.image_processor.postprocess(pixels_B3YX, output_type)

    def build_current_guidance(self) -> Guidance:
        """Return the guidance of the current call; a learned variance is left unguided."""
        state = self.current_call_state
        if state is None:
            raise AttributeError(f"{type(self).__name__} has no guidance: nothing was called.")
        chosen = state.custom_guidance or choose_guidance(state.guidance_scale)
        learned = unclip.uses_learned_variance(self.scheduler)
        return unclip.LearnedVarianceGuidance(chosen) if learned else chosen
