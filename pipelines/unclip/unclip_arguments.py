"""Arguments of a call of `UnclipPipeline`, checked before any work is done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from pipelines.loop import GeneratorOrList
from pipelines.run import argument_checks
from pipelines.run.callback_results import check_callback_signature
from pipelines.run.step_callbacks import StepEndCallback
from pipelines.unclip.image_embeddings import ImageEmbeds
from t2i.conditioning.run_state import Guidance


@dataclass(frozen=True, kw_only=True)
class UnclipArguments:
    """Arguments of a call of UnclipPipeline, under the names in KandinskyV22CombinedPipeline.

    `latents` are those of the decoder.
    """

    prompt: str | Sequence[str] | None
    negative_prompt: str | Sequence[str] | None
    image_embeds: ImageEmbeds | None
    negative_image_embeds: ImageEmbeds | None
    height: int | None
    width: int | None
    num_inference_steps: int
    guidance_scale: float
    prior_num_inference_steps: int
    prior_guidance_scale: float
    num_images_per_prompt: int
    generator: GeneratorOrList | None
    latents: Tensor | None
    output_type: str
    return_dict: bool
    cross_attention_kwargs: Mapping[str, object] | None
    callback_on_step_end: StepEndCallback | None
    callback_on_step_end_tensor_inputs: Sequence[str]
    guidance: Guidance | None

    def check(self, tensor_inputs: Sequence[str]) -> None:
        """Raise ArgumentError for a wrong argument of the call, or a callback that reads a tensor
        not in `tensor_inputs`.
        """
        argument_checks.check_output_type(self.output_type)
        argument_checks.check_guidance_protocol(self.guidance)
        argument_checks.check_count("num_images_per_prompt", self.num_images_per_prompt)
        check_callback_signature(self.callback_on_step_end)
        argument_checks.check_bool("return_dict", self.return_dict)
        argument_checks.check_mapping("cross_attention_kwargs", self.cross_attention_kwargs)
        argument_checks.check_callback_tensor_inputs(
            self.callback_on_step_end_tensor_inputs, tensor_inputs
        )
