"""What the caller of a pipeline asks for, and what a pipeline starts its run from.

B batch rows (here: pictures), T text tokens, D text width, C channels, H W latent size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from pipelines.loop import Generators
from pipelines.run import arguments
from pipelines.run.callback_results import check_takes_a_step
from pipelines.run.step_callbacks import StepEndCallback
from t2i.conditioning.guidance import check_number
from t2i.conditioning.run_state import Guidance, StepCallback
from t2i.denoiser.families.sdxl import Size
from t2i.text.prompt import Prompt

Prompts = str | Prompt | Sequence[str | Prompt]
"""A str is taken as it stands; a Prompt is written in a grammar."""


SIZES = (
    "original_size",
    "crops_coords_top_left",
    "target_size",
    "negative_original_size",
    "negative_crops_coords_top_left",
    "negative_target_size",
)


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments that every pipeline takes, under diffusers' names, with its meaning and its
    defaults."""

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
    generator: Generators | None = None
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
    # of SDXL
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
    # of its refiner, which changes pictures: not every pipeline takes these
    aesthetic_score: float = 6.0
    negative_aesthetic_score: float = 2.5

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Those of a method's `locals()` that are fields here.

        The signatures stay spelled out, for people, editors and diffusers' own tests to read; a
        test holds that their defaults are these.
        """
        return cls(
            **{field.name: given[field.name] for field in fields(cls) if field.name in given}
        )

    @property
    def callback_inputs(self) -> Sequence[str]:
        """The tensors that the callback wants; those of diffusers name them themselves."""
        if isinstance(self.callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            inputs: Sequence[str] = self.callback_on_step_end.tensor_inputs
            return inputs
        return self.callback_on_step_end_tensor_inputs

    def check(self, tensor_inputs: Sequence[str]) -> None:
        """Raise ArgumentError for what can be seen to be wrong before any work is done."""
        arguments.check_callback_inputs(self.callback_inputs, tensor_inputs)
        arguments.check_output_type(self.output_type)
        arguments.check_guidance(self.guidance)
        check_number("eta", self.eta)
        check_number("aesthetic_score", self.aesthetic_score)
        check_number("negative_aesthetic_score", self.negative_aesthetic_score)
        check_takes_a_step(self.callback_on_step_end)
        arguments.check_clip_skip(self.clip_skip)
        arguments.check_flag("return_dict", self.return_dict)
        for name in SIZES:
            arguments.check_pair(name, getattr(self, name))
        arguments.check_mapping("cross_attention_kwargs", self.cross_attention_kwargs)
        arguments.check_count("num_images_per_prompt", self.num_images_per_prompt)
        arguments.check_embeddings(
            self.prompt, self.negative_prompt, self.prompt_embeds, self.negative_prompt_embeds
        )
        for name in ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2"):
            if getattr(self, name) is not None:
                arguments.list_of_prompts(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run begins.

    left : turns of the scheduler after these timesteps, which another pipeline will take
    extra : further rows for `Conditioning.extra`, one per picture
    step_callbacks : those that this pipeline needs, before the user's callback
    """

    latents_BCHW: Tensor
    timesteps: Tensor
    num_inference_steps: int
    left: int = 0
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    step_callbacks: Sequence[StepCallback] = ()
