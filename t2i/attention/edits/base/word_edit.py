"""What the edits of a target's words share: from whose map, and each word in its own window.

T text tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.edits.base.edit import Edit
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.attention.site import StepWindow, check_step_window, is_empty_window, steps_in_window


@dataclass(frozen=True, kw_only=True)
class WindowedEdit(Edit):
    """Base of the edits in which each word of the target may have steps of its own.

    words : a word of the target -> its own steps; the other words keep to `steps`
    """

    longer_table = True

    target: int = 1
    words: Mapping[str, StepWindow] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for word, window in self.words.items():
            check_step_window(f"words[{word!r}]", window)

    def check(self, prompt_tokens: PromptTokens) -> None:
        super().check(prompt_tokens)
        for word in self.words:
            prompt_tokens.span(self.target, word)

    def covers(self, step: int, num_steps: int) -> bool:
        windows = (self.steps, *self.words.values())
        return any(step in steps_in_window(window, num_steps, num_steps + 1) for window in windows)

    @property
    def does_nothing(self) -> bool:
        return all(is_empty_window(window) for window in (self.steps, *self.words.values()))

    def open_T(self, call: AttentionCall) -> Tensor:
        """1 for the tokens whose window holds this step, else 0."""
        step, num_steps = call.denoiser_pass.step, call.denoiser_pass.num_steps

        def is_open(window: StepWindow) -> float:
            return float(step in steps_in_window(window, num_steps, num_steps + 1))

        values = {word: is_open(window) for word, window in self.words.items()}
        return call.prompt_tokens.values_per_token(
            self.target, values, call.text_length, is_open(self.steps)
        )


@dataclass(frozen=True, kw_only=True)
class WordEdit(WindowedEdit):
    """Base of the edits that give the target's words the source's maps."""

    source: int = 0
