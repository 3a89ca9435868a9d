"""Base of all text-to-image pipelines: parts, saving, and the stages of a call.

B batch rows (here: images), T text tokens, D text width, C channels, H W latent size,
Y X image size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pipelines.base.loading_checks import CheckedPipeline, read_t2i_json_from_unet
from pipelines.base.output import PipelineOutput
from pipelines.base.pipeline_components import (
    OPTIONAL_COMPONENTS,
    build_model_index_json,
    check_no_safety_checker,
    collect_components,
)
from pipelines.base.steps_and_guidance_defaults import StepsAndGuidanceDefaultsMixin
from pipelines.loop import sample_latents
from pipelines.run import argument_checks
from pipelines.run.call_arguments import CallArguments, Prompts, RunStart
from pipelines.run.call_state import CallState, CallStateMixin
from pipelines.run.controlled_run import (
    check_control_networks_fit_pipeline,
    wrapping_denoise_with_controls,
)
from pipelines.run.exclusive_access import lock_denoise_that_changes_model
from pipelines.run.step_callbacks import (
    ProgressCallback,
    PromptScheduleCallback,
    StepEndCallbackAdapter,
)
from pipelines.text.branch_prompts import build_branch_prompt_encoder, compose_guidance_of_prompts
from pipelines.text.build_conditioning import build_conditioning, repeat_embeddings_per_image
from pipelines.text.image_prompt_masks import prepare_attention_options
from pipelines.text.image_prompt_scales import ImagePromptsMixin
from pipelines.text.learned_words import LearnedWordsMixin
from t2i.conditioning.conditioning import Conditioning
from t2i.conditioning.guidance import ClassifierFree, Conditional, choose_guidance
from t2i.conditioning.perturbed_guidance import list_perturbed_site_patterns
from t2i.conditioning.run_state import Guidance, RunState, StepCallback
from t2i.denoiser.caches.run_caches import caching_passes, check_caches
from t2i.denoiser.families import sd
from t2i.denoiser.loading.model_parts import SDXL, STABLE_DIFFUSION
from t2i.denoiser.memory_checks import check_sampling_memory, translating_out_of_memory
from t2i.denoiser.perturbed_attention import wrap_perturbed_denoiser
from t2i.denoiser.predicted_original import compute_run_x0_coefficients
from t2i.denoiser.schedulers import Scheduler
from t2i.denoiser.text_key_value_cache import caching_text_keys_values
from t2i.denoiser.timesteps import set_timesteps

OFFLOAD_SEQUENCE = "text_encoder->text_encoder_2->image_encoder->unet->vae"
"""Order in which the parts are used, for CPU offloading."""
OutputOrTuple = PipelineOutput | tuple[Any, None]
StartBuilder = Callable[[Tensor, int], RunStart]
"""(embeddings with a row per image, number of requested steps) -> start of the run."""


class Pipeline(
    CallStateMixin,
    StepsAndGuidanceDefaultsMixin,
    CheckedPipeline,
    StableDiffusionMixin,
    StableDiffusionXLLoraLoaderMixin,
    LearnedWordsMixin,
    ImagePromptsMixin,
):
    """Base pipeline: the parts under diffusers' names, and the stages that a call consists of.

    With two text encoders it is SDXL, with the second alone SDXL's refiner; the other optional
    parts serve IP-Adapters.
    """

    kinds: ClassVar[tuple[str, ...]] = (STABLE_DIFFUSION, SDXL)
    model_cpu_offload_seq = OFFLOAD_SEQUENCE  # type: ignore[assignment]  # None there
    _optional_components = OPTIONAL_COMPONENTS

    def __init__(
        self,
        vae: sd.VAE,
        text_encoder: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        unet: UNet2DConditionModel,
        scheduler: Scheduler,
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        tokenizer_2: CLIPTokenizer | None = None,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        feature_extractor: CLIPImageProcessor | None = None,
        safety_checker: object = None,
        force_zeros_for_empty_prompt: bool = True,
    ) -> None:
        check_no_safety_checker(safety_checker)
        super().__init__()
        self.register_modules(  # type: ignore[no-untyped-call]  # diffusers has no types for it
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=None if scheduler is None else sd.get_corrected_scheduler(scheduler),
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            image_encoder=image_encoder,
            feature_extractor=feature_extractor,
        )
        if text_encoder_2 is not None:
            if text_encoder is None:  # the refiner
                self._optional_components = [*OPTIONAL_COMPONENTS, "text_encoder", "tokenizer"]
            zeros = {"force_zeros_for_empty_prompt": force_zeros_for_empty_prompt}
            self.register_to_config(**zeros)  # type: ignore[no-untyped-call]  # as above
        self.notes = read_t2i_json_from_unet(unet)
        factor = 8 if vae is None else sd.pixels_per_latent(vae)
        channels = 4 if vae is None else vae.config["latent_channels"]
        self.image_processor = VaeImageProcessor(
            vae_scale_factor=factor, vae_latent_channels=channels
        )

    @property
    def components(self) -> dict[str, Any]:
        """Components by name, for another pipeline, ours or diffusers', around the same weights.

        They are those of a StableDiffusionPipeline or of a StableDiffusionXLPipeline.
        """
        return collect_components(self)

    @property
    def _callback_tensor_inputs(self) -> list[str]:
        """Names of the tensors that diffusers' callbacks may read."""
        is_sdxl = [] if self.text_encoder_2 is None else ["add_text_embeds", "add_time_ids"]
        return ["latents", "prompt_embeds", "negative_prompt_embeds", *is_sdxl]

    def to_json_string(self) -> str:
        """Return the model index, with the class name of diffusers' pipeline of the same parts."""
        return build_model_index_json(self, super().to_json_string())

    def generate(self, call: CallArguments, start: StartBuilder) -> OutputOrTuple:
        """Run a call: encode the prompts, build the starting latents, sample, decode."""
        call.check(self._callback_tensor_inputs)
        check_control_networks_fit_pipeline(self, call.controls)
        check_caches(call.cache, self.unet)
        state = CallState(
            guidance_scale=call.guidance_scale,
            guidance_rescale=call.guidance_rescale,
            custom_guidance=call.guidance,
            clip_skip=call.clip_skip,
            cross_attention_kwargs=call.cross_attention_kwargs,
        )
        with self.entering_call(state), translating_out_of_memory():
            guidance = compose_guidance_of_prompts(self.build_current_guidance(), call)
            device = self._execution_device

            # encode the prompts
            steps = set_timesteps(
                self.scheduler, call.num_inference_steps, device, call.timesteps, call.sigmas
            )
            texts = build_branch_prompt_encoder(self, call, guidance, steps, device)
            embeddings = {
                step: {
                    branch: repeat_embeddings_per_image(self, encoded, call, device)
                    for branch, encoded in by_branch.items()
                }
                for step, by_branch in texts.encode_schedule().items()
            }
            text_BTD = embeddings[0]["cond"].text_BTD
            argument_checks.check_embedding_width(text_BTD, self.unet)
            argument_checks.check_generators(call.generator, text_BTD.shape[0])

            # build the starting latents and the conditioning
            run_start = start(text_BTD, steps)
            check_sampling_memory(self.unet, self.vae, run_start.latents_BCHW, len(embeddings[0]))
            conditionings = {
                step: replace(
                    build_conditioning(self, by_branch, run_start, call, device),
                    prompts=texts.cond_texts_at(step),
                )
                for step, by_branch in embeddings.items()
            }

            # sample and decode
            uncond = embeddings[0].get("uncond")
            negative_prompt_embeds = None if uncond is None else uncond.text_BTD
            run = RunState(run_start.latents_BCHW, conditionings[0], guidance, run_start.timesteps)
            run.x0_coefficients = compute_run_x0_coefficients(
                self.scheduler, run.num_steps, run_start.remaining
            )
            latents_BCHW = self.sample_latents(
                run,
                run_start,
                call,
                self._step_callbacks(call, state, run_start, conditionings, negative_prompt_embeds),
            )
            images = self.to_images(latents_BCHW, call.output_type)

        if not call.return_dict:
            return images, None
        return PipelineOutput(images=images, nsfw_content_detected=None)

    def _step_callbacks(
        self,
        call: CallArguments,
        state: CallState,
        run_start: RunStart,
        conditionings: Mapping[int, Conditioning],
        negative_prompt_embeds: Tensor | None,
    ) -> list[StepCallback]:
        """List the step callbacks of a call, in the order in which they are called."""
        callbacks: list[StepCallback] = []
        if len(conditionings) > 1:
            callbacks.append(PromptScheduleCallback(conditionings, run_start.num_inference_steps))
        user = StepEndCallbackAdapter(
            self, call.callback_on_step_end, call.callback_tensor_inputs, negative_prompt_embeds
        )
        return [*callbacks, *state.step_callbacks, *run_start.step_callbacks, user]

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: Prompts | None = None,
        device: torch.device | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: Prompts | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        clip_skip: int | None = None,
        prompt_2: Prompts | None = None,
        negative_prompt_2: Prompts | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Return the embeddings of prompts, one row per image, as diffusers does.

        They are prompt_embeds, negative_prompt_embeds, and for SDXL both pooled embeddings.
        """
        call = CallArguments(
            prompt=prompt,
            negative_prompt=negative_prompt,
            num_images_per_prompt=num_images_per_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            clip_skip=clip_skip,
            prompt_2=prompt_2,
            negative_prompt_2=negative_prompt_2,
        )
        guidance = ClassifierFree(7.5) if do_classifier_free_guidance else Conditional()
        device = device or self._execution_device
        encoded = build_branch_prompt_encoder(self, call, guidance, 1, device).embeddings_at(0)
        cond = repeat_embeddings_per_image(self, encoded["cond"], call, device)
        uncond = None
        if "uncond" in encoded:
            uncond = repeat_embeddings_per_image(self, encoded["uncond"], call, device)
        prompt_embeds, pooled_prompt_embeds = cond.text_BTD, cond.pooled_BD
        negative_prompt_embeds = None if uncond is None else uncond.text_BTD
        negative_pooled_prompt_embeds = None if uncond is None else uncond.pooled_BD
        return (
            prompt_embeds,
            negative_prompt_embeds,
            pooled_prompt_embeds,
            negative_pooled_prompt_embeds,
        )

    def sample_latents(
        self,
        run: RunState,
        run_start: RunStart,
        call: CallArguments,
        step_callbacks: Sequence[StepCallback],
    ) -> Tensor:
        """Run the sampling loop with a progress bar and return the latents (B, C, H, W)."""
        self._num_timesteps = run.num_steps
        num_inference_steps = run_start.num_inference_steps
        options = prepare_attention_options(self, run)
        run_unet = partial(sd.run_unet, self.unet, attention_options=options)
        with (
            self.progress_bar(total=num_inference_steps) as bar,
            caching_text_keys_values(self.unet),
            caching_passes(run_unet, self.unet, run, call.cache) as (run_cached, last_callbacks),
            wrapping_denoise_with_controls(
                run_cached, self, run, run_start, call.controls
            ) as denoise,
        ):
            if (state := self.innermost_call_state) is not None and state.progress_label:
                bar.set_description(state.progress_label)
            progress = ProgressCallback(bar, num_inference_steps, self.scheduler.order)
            return sample_latents(
                run,
                lock_denoise_that_changes_model(
                    wrap_perturbed_denoiser(
                        denoise, self.unet, list_perturbed_site_patterns(run.guidance)
                    ),
                    self.unet,
                ),
                self.scheduler,
                eta=call.eta,
                generator=call.generator,
                step_callbacks=[*step_callbacks, progress, *last_callbacks],
            )

    def to_images(self, latents_BCHW: Tensor, output_type: str) -> Any:
        """Return latents decoded to images of `output_type`: "pil", "np", "pt"; "latent" returns
        latents.
        """
        if output_type == "latent":
            return latents_BCHW
        pixels_B3YX = sd.decode_latents_to_pixels(self.vae, latents_BCHW)
        return self.image_processor.postprocess(pixels_B3YX, output_type)

    def build_current_guidance(self) -> Guidance:
        """Return the Guidance of the current call: its own, or one from its scale and rescale."""
        state = self.current_call_state
        if state is None:
            raise AttributeError(f"{type(self).__name__} has no guidance: nothing was called.")
        if state.custom_guidance is not None:
            return state.custom_guidance
        chosen = choose_guidance(state.guidance_scale, state.guidance_rescale)
        # A distilled UNet takes the scale as an input instead.
        return chosen if self.unet.config["time_cond_proj_dim"] is None else Conditional()

    @property
    def guidance_rescale(self) -> float:
        """Guidance rescale factor of the pipeline's current call."""
        rescale: float = self._guidance_rescale
        return rescale

    @property
    def clip_skip(self) -> int | None:
        """Number of last text encoder layers that the current call skips."""
        skip: int | None = self._clip_skip
        return skip

    @property
    def cross_attention_kwargs(self) -> Mapping[str, object] | None:
        """Options of the attention processors in the current call."""
        options: Mapping[str, object] | None = self._cross_attention_kwargs
        return options
