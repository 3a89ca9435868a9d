"""What every pipeline over a Stable Diffusion model shares: its parts, their folder, the stages
of a call.

B batch rows (here: pictures), T text tokens, D text width, C channels, H W latent size,
Y X picture size.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, StableDiffusionMixin
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines import arguments
from pipelines.loop import Generators, sample
from pipelines.visitors import Progress
from t2i.conditioning.conditioning import Conditioning, join
from t2i.conditioning.guidance import Conditional, choose_guidance
from t2i.conditioning.run import Guidance, Run, Visitor
from t2i.denoiser.families import sd
from t2i.denoiser.folder import check_folder, resolve
from t2i.denoiser.schedulers import Scheduler
from t2i.text.encoder import TextEncoder


class Pipeline(DiffusionPipeline, StableDiffusionMixin):
    """The parts under diffusers' names, and the stages that a call is composed of."""

    model_cpu_offload_seq = "text_encoder->unet->vae"  # type: ignore[assignment]  # None there
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(
        self,
        vae: sd.VAE,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: Scheduler,
    ) -> None:
        super().__init__()
        self.register_modules(  # type: ignore[no-untyped-call]  # diffusers has no types for it
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=sd.settle_scheduler(scheduler),
        )
        self.image_processor = VaeImageProcessor(vae_scale_factor=sd.pixels_per_latent(vae))
        self.visitors: list[Visitor] = []
        """Sent along with every run, before the user's callback."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Self:
        """Load a model folder, checked first; weights become float32 unless `dtype` is given.

        Takes the options of DiffusionPipeline.from_pretrained.
        """
        folder = resolve(pretrained_model_name_or_path)
        check_folder(folder, variant=kwargs.get("variant"), given=kwargs.keys())
        if not kwargs.keys() & {"dtype", "torch_dtype"}:
            # Left open, transformers takes the file's precision and diffusers float32.
            kwargs["dtype"] = torch.float32
        kwargs["use_safetensors"] = True
        pipe: Self = super().from_pretrained(str(folder), **kwargs)
        return pipe

    def to_json_string(self) -> str:
        """The model index: the parts are StableDiffusionPipeline's, so every tool may open them."""
        index = json.loads(super().to_json_string())
        absent = ("safety_checker", "feature_extractor", "image_encoder")
        index |= {name: [None, None] for name in absent}
        index |= {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False}
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    def begin(
        self,
        guidance_scale: float,
        guidance_rescale: float,
        clip_skip: int | None,
        cross_attention_kwargs: Mapping[str, object] | None,
    ) -> Guidance:
        """Take down what a call asks for, where diffusers' callbacks look for it and change it."""
        self._guidance_scale = guidance_scale
        self._guidance_rescale = guidance_rescale
        self._clip_skip = clip_skip
        self._cross_attention_kwargs = cross_attention_kwargs
        self._interrupt = False
        return self.guidance()

    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None,
        device: torch.device,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: str | Sequence[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        clip_skip: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Embed prompts and negative prompts, one row per picture; without guidance the latter
        are None."""
        arguments.check_embeddings(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
        arguments.check_count("num_images_per_prompt", num_images_per_prompt)
        encode = partial(TextEncoder(self.tokenizer, self.text_encoder).encode, device=device)
        dtype = self.text_encoder.dtype

        if prompt_embeds is None:
            prompts = arguments.list_of_prompts("prompt", prompt)
            prompt_embeds = encode(prompts, clip_skip=clip_skip)
        cond_BTD = prompt_embeds.to(device, dtype)
        count, length, _ = cond_BTD.shape

        uncond_BTD = None
        if do_classifier_free_guidance:
            if negative_prompt_embeds is None:
                negative_prompt = "" if negative_prompt is None else negative_prompt
                negatives = arguments.list_of_prompts("negative_prompt", negative_prompt, count)
                # As in StableDiffusionPipeline, clip_skip is for the prompt only.
                negative_prompt_embeds = encode(negatives, length=length)
            arguments.check_same_shape(prompt_embeds, negative_prompt_embeds)
            uncond_BTD = negative_prompt_embeds.to(device, dtype)
            uncond_BTD = uncond_BTD.repeat_interleave(num_images_per_prompt, dim=0)
        return cond_BTD.repeat_interleave(num_images_per_prompt, dim=0), uncond_BTD

    def tell(self, guidance: Guidance, cond_BTD: Tensor, uncond_BTD: Tensor | None) -> Conditioning:
        """One row per picture for each branch that the guidance needs."""
        branches = {branch: cond_BTD for branch in guidance.needs}
        if uncond_BTD is not None:
            branches["uncond"] = uncond_BTD
        told = join(branches)

        width = self.unet.config["time_cond_proj_dim"]
        if width is not None:
            embedding = sd.guidance_embedding(self._guidance_scale, width, told.text_BTD)
            told = replace(told, extra={"guidance_embedding": embedding})
        return told

    def sample(
        self,
        run: Run,
        num_inference_steps: int,
        eta: float,
        generator: Generators | None,
        visitors: Sequence[Visitor],
    ) -> Tensor:
        """Step by step, with a progress bar; latents (B, C, H, W)."""
        self._num_timesteps = run.num_steps
        denoise = partial(sd.denoise, self.unet, attention_options=self._cross_attention_kwargs)
        with self.progress_bar(total=num_inference_steps) as bar:
            progress = Progress(bar, num_inference_steps, self.scheduler.order)
            return sample(
                run,
                denoise,
                self.scheduler,
                eta=eta,
                generator=generator,
                visitors=[*self.visitors, *visitors, progress],
            )

    def to_images(self, latents_BCHW: Tensor, output_type: str) -> Any:
        """Pictures in the form asked for: "pil", "np", "pt", or the latents as they are."""
        if output_type == "latent":
            return latents_BCHW
        pixels_B3YX = sd.decode(self.vae, latents_BCHW)
        return self.image_processor.postprocess(pixels_B3YX, output_type)

    def guidance(self) -> Guidance:
        """The formula for the current call's guidance_scale and guidance_rescale."""
        chosen = choose_guidance(self._guidance_scale, self._guidance_rescale)
        # A distilled UNet takes the scale as an input instead.
        return chosen if self.unet.config["time_cond_proj_dim"] is None else Conditional()

    @property
    def do_classifier_free_guidance(self) -> bool:
        return "uncond" in self.guidance().needs

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def guidance_rescale(self) -> float:
        return self._guidance_rescale

    @property
    def clip_skip(self) -> int | None:
        return self._clip_skip

    @property
    def cross_attention_kwargs(self) -> Mapping[str, object] | None:
        return self._cross_attention_kwargs

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback or another thread has set `_interrupt`: the run ends early."""
        return self._interrupt
