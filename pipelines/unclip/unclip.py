"""Embeddings of pictures, or prompts by way of a prior, to pictures: `UnclipPipeline`.

B batch rows (here: pictures), D width of an embedding, C channels, H W latent size,
Y X picture size.
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

from pipelines.base.loading_checks import Checked, notes_on
from pipelines.base.output import Drawn
from pipelines.base.pipeline import Output
from pipelines.images.input_images import noise_of
from pipelines.loop import Generators, sample
from pipelines.run import arguments
from pipelines.run.call_state import CallState, OwnPart, UnderWay
from pipelines.run.callback_results import check_takes_a_step
from pipelines.run.exclusive_access import pass_by_pass
from pipelines.run.step_callbacks import Callback, Progress, StepEndCallback
from pipelines.unclip import image_embeddings as picture_embeds
from pipelines.unclip.prior import imagined, parts_of_prior
from t2i.conditioning.conditioning import join_branches
from t2i.conditioning.guidance import choose_guidance
from t2i.conditioning.run_state import Guidance, RunState, StepCallback
from t2i.denoiser.families import unclip
from t2i.denoiser.loading.model_parts import KANDINSKY, PRIOR
from t2i.denoiser.memory_checks import check_fits, memory_to_draw
from t2i.denoiser.predicted_original import denoised_factors
from t2i.denoiser.sampling_defaults import sampling_of
from t2i.denoiser.schedulers import Scheduler, first_latents
from t2i.denoiser.timesteps import set_timesteps

USUAL = {"num_inference_steps": 100, "guidance_scale": 4.0}
"""Of a call where neither it nor the model's notes say any, as in KandinskyV22CombinedPipeline."""


class UnclipPipeline(UnderWay, Checked):
    """Draws what embeddings of pictures show, with Kandinsky 2.2; with its prior, what a prompt
    says.

    >>> pipe = UnclipPipeline.from_pretrained(
    ...     "kandinsky-community/kandinsky-2-2-decoder",
    ...     prior="kandinsky-community/kandinsky-2-2-prior",
    ... )
    >>> pipe("a red apple").images[0].save("apple.png")
    >>> pipe(image_embeds=of_a_picture, negative_image_embeds=of_nothing).images[0].save("like.png")

    Its parts have the names that KandinskyV22CombinedPipeline gives them.
    """

    stepped = ("scheduler", "prior_scheduler")
    prior_scheduler = OwnPart()
    kinds: ClassVar[tuple[str, ...]] = (KANDINSKY,)
    model_cpu_offload_seq = "prior_text_encoder->prior_image_encoder->unet->movq"  # type: ignore[assignment]  # None there
    # Two of its parameters are read outside of its forward.
    _exclude_from_cpu_offload = ["prior_prior"]
    _optional_components = [*(f"prior_{part}" for part in PRIOR), "prior_image_processor"]
    _callback_tensor_inputs = ["latents", *picture_embeds.CALLED]

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
        unclip.check_unet(unet, movq)
        if prior_prior is not None:
            unclip.check_prior(prior_prior, prior_scheduler, unet)
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
        self.notes = notes_on(unet)
        self.image_processor = VaeImageProcessor(vae_scale_factor=unclip.pixels_per_latent(movq))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        prior: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a decoder, checked first; `prior` is the folder or hub id of its prior.

        A folder that holds both, as KandinskyV22CombinedPipeline saves it, needs no `prior`.
        """
        if prior is not None:
            kwargs = parts_of_prior(prior, **kwargs) | kwargs
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    def to_json_string(self) -> str:
        """The model index, under the name of the pipeline of diffusers that has these parts."""
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
        image_embeds: picture_embeds.Embeds | None = None,
        negative_image_embeds: picture_embeds.Embeds | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        prior_num_inference_steps: int = 25,
        prior_guidance_scale: float = 4.0,
        num_images_per_prompt: int = 1,
        generator: Generators | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: Mapping[str, object] | None = None,
        callback_on_step_end: StepEndCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        guidance: Guidance | None = None,
    ) -> Output:
        """Draw `num_images_per_prompt` pictures of each prompt, or of each row of `image_embeds`.

        Arguments mean what they mean to KandinskyV22CombinedPipeline and KandinskyV22Pipeline, but
        `latents` are the decoder's; `guidance` is any of t2i.conditioning that mixes the branches
        "uncond" and "cond", in the place of `guidance_scale`.
        """
        arguments.check_output_type(output_type)
        arguments.check_guidance(guidance)
        arguments.check_count("num_images_per_prompt", num_images_per_prompt)
        check_takes_a_step(callback_on_step_end)
        arguments.check_flag("return_dict", return_dict)
        arguments.check_mapping("cross_attention_kwargs", cross_attention_kwargs)
        arguments.check_callback_inputs(
            callback_on_step_end_tensor_inputs, self._callback_tensor_inputs
        )
        self.scheduler = unclip.settle_scheduler(vars(self)["scheduler"])
        own = self.defaults
        if num_inference_steps is None:
            num_inference_steps = own["num_inference_steps"]
        if guidance_scale is None:
            guidance_scale = own["guidance_scale"]
        state = CallState(guidance_scale=guidance_scale, own_guidance=guidance)
        with self.calling(state), memory_to_draw():
            needs = self.guidance().needs
            picture_embeds.check_branches(needs)
            size = self.latent_size(height, width, latents)
            device = self._execution_device

            steps = set_timesteps(self.scheduler, num_inference_steps, device)

            # what the denoiser is told
            if image_embeds is None:
                prompts, negative_prompts = picture_embeds.prompts_of(
                    prompt, negative_prompt, negative_image_embeds, self.prior_prior
                )
                arguments.check_generators(generator, len(prompts) * num_images_per_prompt)
                embeds = imagined(
                    self,
                    prompts,
                    negative_prompts,
                    pictures=num_images_per_prompt,
                    num_inference_steps=prior_num_inference_steps,
                    guidance_scale=prior_guidance_scale,
                    generator=generator,
                    device=device,
                )
            else:
                picture_embeds.check_alone(prompt, negative_prompt)
                width_D = self.unet.config["encoder_hid_dim"]
                embeds = picture_embeds.by_branch(
                    needs, image_embeds, negative_image_embeds, width_D, num_images_per_prompt
                )
                arguments.check_generators(generator, len(embeds["cond"]))
            text = {branch: embeds[branch].to(device, self.unet.dtype)[:, None] for branch in needs}
            told = join_branches(text)

            # where it starts
            shape = (told.num_images, self.unet.config["in_channels"], *size)
            noise_BCHW = noise_of(shape, generator, latents, device, self.unet.dtype)
            latents_BCHW = first_latents(self.scheduler, noise_BCHW)
            check_fits(self.unet, self.movq, latents_BCHW, len(needs), force_not_quantize=True)

            # step by step, to pictures
            run = RunState(latents_BCHW, told, self.guidance(), self.scheduler.timesteps)
            run.denoised_factors = denoised_factors(self.scheduler)
            called = picture_embeds.CALLED
            callback = Callback(
                self,
                callback_on_step_end and picture_embeds.called(callback_on_step_end),
                [called.get(name, name) for name in callback_on_step_end_tensor_inputs],
                text.get("uncond"),
            )
            latents_BCHW = self.sample(
                run, steps, generator, [*state.step_callbacks, callback], cross_attention_kwargs
            )
            images = self.to_images(latents_BCHW, output_type)

        if not return_dict:
            return images, None
        return Drawn(images=images, nsfw_content_detected=None)

    @property
    def defaults(self) -> dict[str, Any]:
        """The decoder's steps and guidance of a call that says none."""
        return sampling_of(self.notes).over(USUAL)

    def latent_size(
        self, height: int | None, width: int | None, latents: object
    ) -> tuple[int, int]:
        """H and W of what is asked for: of `latents`, or of the model, where it is not said."""
        default_height, default_width = unclip.default_size(self.unet, self.movq)
        if isinstance(latents, Tensor) and latents.ndim == 4:
            factor = unclip.pixels_per_latent(self.movq)
            default_height, default_width = (side * factor for side in latents.shape[-2:])
        return unclip.latent_size(
            self.movq,
            default_height if height is None else height,
            default_width if width is None else width,
        )

    def sample(
        self,
        run: RunState,
        num_inference_steps: int,
        generator: Generators | None,
        step_callbacks: Sequence[StepCallback],
        attention_options: Mapping[str, object] | None,
    ) -> Tensor:
        """Step by step, with a progress bar; latents (B, C, H, W)."""
        self._num_timesteps = run.num_steps
        denoise = partial(
            unclip.denoise,
            self.unet,
            with_variance=unclip.reads_variance(self.scheduler),
            attention_options=attention_options,
        )
        with self.progress_bar(total=num_inference_steps) as bar:
            progress = Progress(bar, num_inference_steps, self.scheduler.order)
            return sample(
                run,
                pass_by_pass(denoise, self.unet),
                self.scheduler,
                generator=generator,
                step_callbacks=[*step_callbacks, progress],
            )

    def to_images(self, latents_BCHW: Tensor, output_type: str) -> Any:
        """Pictures in the form asked for: "pil", "np", "pt", or the latents as they are."""
        if output_type == "latent":
            return latents_BCHW
        pixels_B3YX = unclip.decode(self.movq, latents_BCHW)
        return self.image_processor.postprocess(pixels_B3YX, output_type)

    def guidance(self) -> Guidance:
        """The formula for the current call, which leaves a learned variance alone."""
        state = self.current
        if state is None:
            raise AttributeError(f"{type(self).__name__} has no guidance: nothing was called.")
        chosen = state.own_guidance or choose_guidance(state.guidance_scale)
        learned = unclip.reads_variance(self.scheduler)
        return unclip.BesideVariance(chosen) if learned else chosen
