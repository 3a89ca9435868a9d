"""What every pipeline shares: its parts, their folder, and the stages of a call.

B batch rows (here: pictures), T text tokens, D text width, C channels, H W latent size,
Y X picture size.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders.ip_adapter import IPAdapterMixin
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

from pipelines.base.loading_checks import Checked, notes_on
from pipelines.base.output import Drawn
from pipelines.loop import sample
from pipelines.run import arguments
from pipelines.run.call import Call, Prompts, Start
from pipelines.run.call_state import CallState, UnderWay
from pipelines.run.exclusive_access import pass_by_pass
from pipelines.run.step_callbacks import Callback, Progress, Turning
from pipelines.text.branch_prompts import texts_of, weigh_parts
from pipelines.text.build_conditioning import rows, tell
from pipelines.text.learned_words import LearnedWords
from t2i.conditioning.guidance import ClassifierFree, Conditional, choose_guidance
from t2i.conditioning.perturbed_guidance import sites_of
from t2i.conditioning.run_state import Guidance, RunState, StepCallback
from t2i.denoiser.families import sd, sdxl
from t2i.denoiser.loading.model_parts import SDXL, STABLE_DIFFUSION
from t2i.denoiser.memory_checks import check_fits, memory_to_draw
from t2i.denoiser.perturbed_attention import perturb_denoiser
from t2i.denoiser.predicted_original import denoised_factors
from t2i.denoiser.sampling_defaults import sampling_of
from t2i.denoiser.schedulers import Scheduler
from t2i.denoiser.text_key_cache import text_keys_kept
from t2i.denoiser.timesteps import set_timesteps
from t2i.errors import ArgumentError

OPTIONAL = [
    "text_encoder_2",
    "tokenizer_2",
    "image_encoder",
    "feature_extractor",
    "safety_checker",
]
OFFLOAD = "text_encoder->text_encoder_2->image_encoder->unet->vae"
"""The order in which the parts are needed."""
Output = Drawn | tuple[Any, None]
Starter = Callable[[Tensor, int], Start]
"""(a row of text per picture, the steps asked for) -> where the run starts."""


class Pipeline(
    UnderWay,
    Checked,
    StableDiffusionMixin,
    StableDiffusionXLLoraLoaderMixin,
    LearnedWords,
    IPAdapterMixin,
):
    """The parts under diffusers' names, and the stages that a call is composed of.

    With a second text encoder it is SDXL, with the second alone its refiner; what else is optional
    serves IP-Adapters.
    """

    kinds: ClassVar[tuple[str, ...]] = (STABLE_DIFFUSION, SDXL)
    sdxl_guidance: ClassVar[float] = 5.0
    """As diffusers' pipelines of SDXL have it; other models have Call's."""
    model_cpu_offload_seq = OFFLOAD  # type: ignore[assignment]  # None there
    _optional_components = OPTIONAL

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
            scheduler=None if scheduler is None else sd.settle_scheduler(scheduler),
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            image_encoder=image_encoder,
            feature_extractor=feature_extractor,
        )
        if text_encoder_2 is not None:
            if text_encoder is None:  # the refiner
                self._optional_components = [*OPTIONAL, "text_encoder", "tokenizer"]
            zeros = {"force_zeros_for_empty_prompt": force_zeros_for_empty_prompt}
            self.register_to_config(**zeros)  # type: ignore[no-untyped-call]  # as above
        self.notes = notes_on(unet)
        factor = 8 if vae is None else sd.pixels_per_latent(vae)
        channels = 4 if vae is None else vae.config["latent_channels"]
        self.image_processor = VaeImageProcessor(
            vae_scale_factor=factor, vae_latent_channels=channels
        )

    @property
    def components(self) -> dict[str, Any]:
        """The parts that make another pipeline around the same weights, ours or diffusers' own:
        those of a StableDiffusionPipeline, or of a StableDiffusionXLPipeline."""
        names = ["vae", "text_encoder", "tokenizer", "unet", "scheduler", *OPTIONAL]
        parts = {name: getattr(self, name) for name in names if name != "safety_checker"}
        if self.text_encoder_2 is None and self._is_clip:
            del parts["text_encoder_2"], parts["tokenizer_2"]
            parts["safety_checker"] = None
        return parts

    @property
    def _is_clip(self) -> bool:
        """Whether a StableDiffusionPipeline reads its text encoder as we do: of every other it
        would let the denoiser look at the padding."""
        encoder = self.text_encoder
        return encoder is None or encoder.config.model_type == "clip_text_model"

    @property
    def _callback_tensor_inputs(self) -> list[str]:
        """What diffusers' callbacks may ask for."""
        of_sdxl = [] if self.text_encoder_2 is None else ["add_text_embeds", "add_time_ids"]
        return ["latents", "prompt_embeds", "negative_prompt_embeds", *of_sdxl]

    def to_json_string(self) -> str:
        """The model index: the parts are a Stable Diffusion's, so every tool may open them."""
        index = json.loads(super().to_json_string())
        absent = ("safety_checker", "feature_extractor", "image_encoder")
        if not self._is_clip:
            index["_class_name"] = "TextToImagePipeline"
        elif self.text_encoder_2 is None:
            index = {name: value for name, value in index.items() if not name.endswith("_2")}
            index |= {name: index.get(name) or [None, None] for name in absent}
            index |= {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False}
        else:
            index["_class_name"] = "StableDiffusionXLPipeline"
            if sdxl.is_told_a_score(self.unet, self.text_encoder_2.config.projection_dim):
                index["_class_name"] = "StableDiffusionXLImg2ImgPipeline"
                index["requires_aesthetics_score"] = True
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    @classmethod
    def usual(cls, *, of_sdxl: bool) -> dict[str, Any]:
        """The steps and the guidance of a call where neither it nor the model says any: those of
        diffusers' own pipeline."""
        scale = cls.sdxl_guidance if of_sdxl else Call.guidance_scale
        return {"num_inference_steps": Call.num_inference_steps, "guidance_scale": scale}

    @property
    def defaults(self) -> dict[str, Any]:
        """The steps and the guidance of a call that says none: the model's own (`notes`), else the
        usual."""
        return sampling_of(self.notes).over(self.usual(of_sdxl=self.text_encoder_2 is not None))

    def call_of(self, given: Mapping[str, Any]) -> Call:
        """What a method was given, by its `locals()`, with what it left open."""
        left = {name: one for name, one in self.defaults.items() if given.get(name) is None}
        return Call.of({**given, **left})

    def draw(self, call: Call, start: Starter) -> Output:
        """The stages of every call: told, started, sampled, decoded."""
        call.check(self._callback_tensor_inputs)
        state = CallState(
            guidance_scale=call.guidance_scale,
            guidance_rescale=call.guidance_rescale,
            own_guidance=call.guidance,
            clip_skip=call.clip_skip,
            cross_attention_kwargs=call.cross_attention_kwargs,
        )
        with self.calling(state), memory_to_draw():
            guidance = weigh_parts(self.guidance(), call)
            device = self._execution_device

            # what the denoiser is told
            steps = set_timesteps(
                self.scheduler, call.num_inference_steps, device, call.timesteps, call.sigmas
            )
            texts = texts_of(self, call, guidance, steps, device)
            by_turn = {
                step: {branch: rows(self, one, call, device) for branch, one in told.items()}
                for step, told in texts.by_turn().items()
            }

            # where it starts
            text_BTD = by_turn[0]["cond"].text_BTD
            arguments.check_width(text_BTD, self.unet)
            arguments.check_generators(call.generator, text_BTD.shape[0])
            begun = start(text_BTD, steps)
            check_fits(self.unet, self.vae, begun.latents_BCHW, len(by_turn[0]))
            told = {
                step: replace(tell(self, branches, begun, call, device), prompts=texts.said(step))
                for step, branches in by_turn.items()
            }

            # step by step, to pictures
            run = RunState(begun.latents_BCHW, told[0], guidance, begun.timesteps)
            factors = denoised_factors(self.scheduler)
            factors = factors[: len(factors) - begun.left]
            run.denoised_factors = factors[-run.num_steps :]
            turning = [Turning(told, begun.num_inference_steps)] if len(told) > 1 else []
            uncond = by_turn[0].get("uncond")
            callback = Callback(
                self,
                call.callback_on_step_end,
                call.callback_inputs,
                None if uncond is None else uncond.text_BTD,
            )
            step_callbacks = [*turning, *state.step_callbacks, *begun.step_callbacks, callback]
            latents_BCHW = self.sample(run, begun.num_inference_steps, call, step_callbacks)
            images = self.to_images(latents_BCHW, call.output_type)

        if not call.return_dict:
            return images, None
        return Drawn(images=images, nsfw_content_detected=None)

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
        """The embeddings that a call makes of prompts, one row per picture, as diffusers returns
        them: prompt_embeds, negative_prompt_embeds, and of SDXL both pooled."""
        call = self.call_of(locals())
        guidance = ClassifierFree(7.5) if do_classifier_free_guidance else Conditional()
        device = device or self._execution_device
        told = texts_of(self, call, guidance, 1, device).at(0)
        cond = rows(self, told["cond"], call, device)
        uncond = rows(self, told["uncond"], call, device) if "uncond" in told else None
        prompt_embeds, pooled_prompt_embeds = cond.text_BTD, cond.pooled_BD
        negative_prompt_embeds = None if uncond is None else uncond.text_BTD
        negative_pooled_prompt_embeds = None if uncond is None else uncond.pooled_BD
        return (
            prompt_embeds,
            negative_prompt_embeds,
            pooled_prompt_embeds,
            negative_pooled_prompt_embeds,
        )

    def sample(
        self,
        run: RunState,
        num_inference_steps: int,
        call: Call,
        step_callbacks: Sequence[StepCallback],
    ) -> Tensor:
        """Step by step, with a progress bar; latents (B, C, H, W)."""
        self._num_timesteps = run.num_steps
        denoise = partial(sd.denoise, self.unet, attention_options=self._cross_attention_kwargs)
        with self.progress_bar(total=num_inference_steps) as bar, text_keys_kept(self.unet):
            progress = Progress(bar, num_inference_steps, self.scheduler.order)
            return sample(
                run,
                pass_by_pass(
                    perturb_denoiser(denoise, self.unet, sites_of(run.guidance)), self.unet
                ),
                self.scheduler,
                eta=call.eta,
                generator=call.generator,
                step_callbacks=[*step_callbacks, progress],
            )

    def to_images(self, latents_BCHW: Tensor, output_type: str) -> Any:
        """Pictures in the form asked for: "pil", "np", "pt", or the latents as they are."""
        if output_type == "latent":
            return latents_BCHW
        pixels_B3YX = sd.decode(self.vae, latents_BCHW)
        return self.image_processor.postprocess(pixels_B3YX, output_type)

    def guidance(self) -> Guidance:
        """The formula for the current call: its own, or that of its scale and rescale."""
        state = self.current
        if state is None:
            raise AttributeError(f"{type(self).__name__} has no guidance: nothing was called.")
        if state.own_guidance is not None:
            return state.own_guidance
        chosen = choose_guidance(state.guidance_scale, state.guidance_rescale)
        # A distilled UNet takes the scale as an input instead.
        return chosen if self.unet.config["time_cond_proj_dim"] is None else Conditional()

    @property
    def guidance_rescale(self) -> float:
        rescale: float = self._guidance_rescale
        return rescale

    @property
    def clip_skip(self) -> int | None:
        skip: int | None = self._clip_skip
        return skip

    @property
    def cross_attention_kwargs(self) -> Mapping[str, object] | None:
        options: Mapping[str, object] | None = self._cross_attention_kwargs
        return options


def check_no_safety_checker(safety_checker: object) -> None:
    """Raise ArgumentError for one that would look at nothing."""
    if safety_checker is not None:
        raise ArgumentError(
            f"Got a {type(safety_checker).__name__} as safety_checker, and this pipeline runs "
            "none: nothing would be looked at. To keep it draw with StableDiffusionPipeline of "
            "diffusers; to do without give safety_checker=None, as in "
            "from_pipe(pipe, safety_checker=None)."
        )
