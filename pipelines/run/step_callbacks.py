"""Step callbacks of every pipeline: progress bar, scheduled prompts, the user's callback."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor

from pipelines.run.callback_results import require_returned_dict, require_returned_tensor
from t2i.conditioning.conditioning import Conditioning
from t2i.conditioning.run_state import Guidance, RunState, StepCallback
from t2i.errors import ArgumentError
from t2i.terminal import plural

StepEndCallback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]]
"""diffusers' callback_on_step_end: (pipeline, step, timestep, tensors) -> tensors to replace."""


class ProgressBarProtocol(Protocol):
    """Interface of a progress bar: tqdm's, or the command line's own."""

    def update(self) -> object:
        """Advance the progress bar by one step."""


class ProgressCallback(StepCallback):
    """Step callback that advances a progress bar once per requested sampling step, however many
    denoiser passes that takes.
    """

    def __init__(self, bar: ProgressBarProtocol, num_inference_steps: int, order: int) -> None:
        self.bar = bar
        self.num_inference_steps = num_inference_steps
        self.order = order

    def after_step(self, run: RunState) -> None:
        """Advance the progress bar if a requested sampling step is complete."""
        passes = run.step + 1
        first_passes = run.num_steps - self.num_inference_steps * self.order
        if passes == run.num_steps or (passes > first_passes and passes % self.order == 0):
            self.bar.update()


class CallbackPipelineProtocol(Protocol):
    """Protocol of a pipeline whose calls can be interrupted and their guidance changed by the
    user's callback_on_step_end; StepEndCallbackAdapter reads both.
    """

    @property
    def interrupt(self) -> bool:
        """True once the user has asked the running call to stop."""

    def build_current_guidance(self) -> Guidance:
        """Return the Guidance of the current call: its own, or one made from its scale."""


class StepEndCallbackAdapter(StepCallback):
    """Step callback that calls the user's `callback_on_step_end`, a function as diffusers'
    pipelines take it, and applies the tensors that it returns and the guidance that it sets.
    """

    def __init__(
        self,
        pipeline: CallbackPipelineProtocol,
        callback: StepEndCallback | None,
        tensor_inputs: Sequence[str],
        negative_prompt_embeds: Tensor | None,
    ) -> None:
        self.pipeline = pipeline
        self.callback = callback
        self.tensor_inputs = tensor_inputs
        self.negative_prompt_embeds = negative_prompt_embeds
        self.guidance = pipeline.build_current_guidance()

    def before_pass(self, run: RunState) -> None:
        """Stop the run before this step's pass if the user has interrupted the pipeline."""
        run.stop = run.stop or self.pipeline.interrupt

    def after_step(self, run: RunState) -> None:
        """Call the user's callback_on_step_end; apply the tensors that it returns and a changed
        guidance to the run.
        """
        if self.callback is None:
            return
        tensors: dict[str, Any] = {
            "latents": run.latents_BCHW,
            "prompt_embeds": run.conditioning.text_BTD,
            "negative_prompt_embeds": self.negative_prompt_embeds,
        } | {
            name: run.conditioning.extra.get(key)
            for name, key in CONDITIONING_NAME_BY_CALLBACK_NAME.items()
        }
        wanted = {name: tensors[name] for name in self.tensor_inputs}
        returned = require_returned_dict(
            self.callback(self.pipeline, run.step, run.timestep, wanted)
        )

        if "latents" in returned:
            run.latents_BCHW = require_returned_tensor(
                "latents", run.latents_BCHW, returned["latents"], run.step, same_rows=True
            )
        if "prompt_embeds" in returned:
            text_BTD = run.conditioning.text_BTD
            text_BTD = require_returned_tensor(
                "prompt_embeds", text_BTD, returned["prompt_embeds"], run.step
            )
            run.conditioning = replace_text_embeddings(run.conditioning, text_BTD)
        extra = {
            key: require_returned_tensor(name, tensors[name], returned[name], run.step)
            for name, key in CONDITIONING_NAME_BY_CALLBACK_NAME.items()
            if name in returned and tensors[name] is not None
        }
        if extra:
            run.conditioning = replace(run.conditioning, extra={**run.conditioning.extra, **extra})
        # A callback may have set another scale, or switched guidance off.
        if self.pipeline.build_current_guidance() != self.guidance:
            run.guidance = self.guidance = self.pipeline.build_current_guidance()


class PromptScheduleCallback(StepCallback):
    """Step callback that switches the conditioning at the steps where a scheduled prompt changes.

    conditionings : step, as the user counts steps -> conditioning from there on; the first is 0
    """

    def __init__(self, conditionings: Mapping[int, Conditioning], num_inference_steps: int) -> None:
        self.conditionings = conditionings
        self.num_inference_steps = num_inference_steps
        self.current = 0

    def before_pass(self, run: RunState) -> None:
        """Give the run the next conditioning of its prompt schedule if that begins at this step."""
        step = run.step * self.num_inference_steps // run.num_steps
        begin = max(first for first in self.conditionings if first <= step)
        if begin != self.current:
            self.current = begin
            run.conditioning = self.conditionings[begin]


CONDITIONING_NAME_BY_CALLBACK_NAME = {"add_text_embeds": "text_embeds", "add_time_ids": "time_ids"}
"""diffusers' name for a callback's tensor -> its name in `Conditioning.extra`."""


def replace_text_embeddings(conditioning: Conditioning, text_BTD: Tensor) -> Conditioning:
    """Return the conditioning with other text embeddings; if they have one row per image, only the
    branch "cond" is left, without guidance.
    """
    if text_BTD.shape[0] == conditioning.text_BTD.shape[0]:
        return replace(conditioning, text_BTD=text_BTD)
    conditional = conditioning.select_branches(("cond",))
    if text_BTD.shape[0] != conditional.num_images:
        raise ArgumentError(
            f"The callback returned prompt_embeds of {plural(text_BTD.shape[0], 'row')}, expected "
            f"{conditioning.text_BTD.shape[0]} as it was given, or {conditional.num_images} to go "
            "on without guidance."
        )
    return replace(conditional, text_BTD=text_BTD)
