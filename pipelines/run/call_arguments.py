"""Arguments of a pipeline call, and the start of the run that a pipeline builds from them.

B batch rows (here: images), T text tokens, D text width, C channels, H W latent size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from pipelines.loop import GeneratorOrList
from pipelines.run import argument_checks
from pipelines.run.callback_results import check_callback_signature
from pipelines.run.step_callbacks import StepEndCallback
from t2i.conditioning.guidance import check_finite_number
from t2i.conditioning.run_state import Guidance, StepCallback
from t2i.controls.control import Control
from t2i.denoiser.caches.cache import Cache
from t2i.denoiser.families.sdxl import Size
from t2i.text.prompt import Prompt

Prompts = str | Prompt | Sequence[str | Prompt]
"""A str is literal text; a Prompt is parsed by a grammar."""


SIZE_ARGUMENTS = (
    "original_size",
    "crops_coords_top_left",
    "target_size",
    "negative_original_size",
    "negative_crops_coords_top_left",
    "negative_target_size",
)


@dataclass(frozen=True, kw_only=True)
class CallArguments:
    """Arguments that every pipeline takes, with diffusers' names, meanings and defaults."""

    prompt: Prompts | None = None
    negative_prompt: Prompts | None = None
    num_inference_steps: int = 50
    timesteps: Sequence[int] | None = None
    sigmas: Sequence[float] | None = None
    guidance_scale: float = 7.5
    guidance_rescale: float = 0.0
    guidance: Guidance | None = None
    num_images_per_prompt: int = 1
    eta: float = 0.0
    generator: GeneratorOrList | None = None
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    ip_adapter_image: Any = None
    ip_adapter_image_embeds: Sequence[Tensor] | None = None
    output_type: str = "pil"
    return_dict: bool = True
    cross_attention_kwargs: Mapping[str, object] | None = None
    clip_skip: int | None = None
    callback_on_step_end: StepEndCallback | None = None
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)
    controls: Sequence[Control] = ()
    cache: Sequence[Cache] | None = None
    # SDXL
    prompt_2: Prompts | None = None
    negative_prompt_2: Prompts | None = None
    pooled_prompt_embeds: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None
    original_size: Size | None = None
    crops_coords_top_left: Size = (0, 0)
    target_size: Size | None = None
    negative_original_size: Size | None = None
    negative_crops_coords_top_left: Size = (0, 0)
    negative_target_size: Size | None = None
    # SDXL's refiner; only pipelines with an input image take these
    aesthetic_score: float = 6.0
    negative_aesthetic_score: float = 2.5

    @property
    def callback_tensor_inputs(self) -> Sequence[str]:
        """Names of the tensors that the user's callback_on_step_end reads."""
        if isinstance(self.callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            inputs: Sequence[str] = self.callback_on_step_end.tensor_inputs
            return inputs
        return self.callback_on_step_end_tensor_inputs

    def check(self, tensor_inputs: Sequence[str]) -> None:
        """Raise ArgumentError for every wrong argument that can be detected before any work is
        done.
        """
        argument_checks.check_callback_tensor_inputs(self.callback_tensor_inputs, tensor_inputs)
        argument_checks.check_output_type(self.output_type)
        argument_checks.check_guidance_protocol(self.guidance)
        check_finite_number("eta", self.eta)
        check_finite_number("aesthetic_score", self.aesthetic_score)
        check_finite_number("negative_aesthetic_score", self.negative_aesthetic_score)
        check_callback_signature(self.callback_on_step_end)
        argument_checks.check_clip_skip_not_negative(self.clip_skip)
        argument_checks.check_bool("return_dict", self.return_dict)
        for name in SIZE_ARGUMENTS:
            argument_checks.check_two_whole_numbers(name, getattr(self, name))
        argument_checks.check_mapping("cross_attention_kwargs", self.cross_attention_kwargs)
        argument_checks.check_count("num_images_per_prompt", self.num_images_per_prompt)
        argument_checks.check_prompt_or_embeddings(
            self.prompt, self.negative_prompt, self.prompt_embeds, self.negative_prompt_embeds
        )
        for name in ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2"):
            if getattr(self, name) is not None:
                argument_checks.repeat_prompt_to_count(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class RunStart:
    """Starting latents and timesteps of a run, with the pipeline's own conditioning and step
    callbacks.

    remaining : timesteps of the scheduler after these, left to another pipeline
    extra : further rows for `Conditioning.extra`, one per image
    step_callbacks : those of the pipeline itself, called before the user's callback
    resize_options : of `VaeImageProcessor.preprocess` for pictures that belong to the image, where
        it is a crop of a larger one
    """

    latents_BCHW: Tensor
    timesteps: Tensor
    num_inference_steps: int
    remaining: int = 0
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    step_callbacks: Sequence[StepCallback] = ()
    resize_options: Mapping[str, Any] = field(default_factory=dict)
