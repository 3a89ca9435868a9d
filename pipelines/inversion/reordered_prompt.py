"""Prompts of runs that take a sampler's steps in another order, as inversion does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from t2i.text.prompt import ComposedPrompt, Prompt

PromptT = TypeVar("PromptT")


@dataclass(frozen=True, slots=True)
class StepReorderedPrompt(Prompt):
    """Scheduled prompt of a run whose steps stand for steps of another run, such as an inversion:
    its text at a noise level is the other run's there.

    step_order : for each step of this run, the step of the other one
    num_steps : of the other run
    """

    step_order: tuple[int, ...] = ()
    num_steps: int = 1

    def texts_at_step(self, step: int, steps: int) -> ComposedPrompt:
        """Return the weighted texts at a step, see `Prompt.texts_at_step`; in runs of any other
        length than this one's they are in their usual order.
        """
        if steps != len(self.step_order):
            return Prompt.texts_at_step(self, step, steps)
        return Prompt.texts_at_step(self, self.step_order[step], self.num_steps)

    def list_change_steps(self, steps: int) -> tuple[int, ...]:
        """Return the steps at which the text changes, in order; the first is 0."""
        if steps != len(self.step_order):
            return Prompt.list_change_steps(self, steps)
        texts = [self.texts_at_step(step, steps) for step in range(steps)]
        return (0, *(step for step in range(1, steps) if texts[step] != texts[step - 1]))


def reorder_prompt_steps(prompt: PromptT, step_order: Sequence[int], num_steps: int) -> PromptT:
    """Return a scheduled prompt for a run whose steps stand for those of another run in other
    order; a plain text is returned unchanged.

    step_order : for each step of this run, the step of the other one
    num_steps : of the other run
    """
    if not isinstance(prompt, Prompt):
        return prompt
    return StepReorderedPrompt(  # type: ignore[return-value]  # a Prompt, as it was
        prompt.text,
        prompt.dialect,
        prompt.weights,
        step_order=tuple(step_order),
        num_steps=num_steps,
    )
