"""Base classes of the edits of a target's words, each word in its own window of steps.

T text tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.edits.base.edit import Edit
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.attention.site import StepWindow, check_step_window, is_empty_window, list_steps_in_window


@dataclass(frozen=True, kw_only=True)
class PerWordWindowEdit(Edit):
    """Base class of attention edits in which each word of the target prompt may have its own
    window of steps.

    words : a word of the target -> its window of steps; other words have `steps`
    """

    longer_table = True

    target: int = 1
    words: Mapping[str, StepWindow] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for word, window in self.words.items():
            check_step_window(f"words[{word!r}]", window)

    def check_prompts_and_words(self, prompt_tokens: PromptTokens) -> None:
        """Raise ArgumentError if the edit names prompts, or words with their own step windows, that
        the run does not have.
        """
        super().check_prompts_and_words(prompt_tokens)
        for word in self.words:
            prompt_tokens.find_word_positions(self.target, word)

    def acts_at_step(self, step: int, num_steps: int) -> bool:
        """Return True for a step in the step window of any word."""
        windows = (self.steps, *self.words.values())
        return any(
            step in list_steps_in_window(window, num_steps, num_steps + 1) for window in windows
        )

    @property
    def does_nothing(self) -> bool:
        """Return True if the step windows of all words are empty."""
        return all(is_empty_window(window) for window in (self.steps, *self.words.values()))

    def compute_active_tokens_T(self, call: AttentionCall) -> Tensor:
        """Return 1 for each token of the target prompt whose step window contains this step, else
        0; (T,).
        """
        step, num_steps = call.denoiser_pass.step, call.denoiser_pass.num_steps

        def is_active(window: StepWindow) -> float:
            return float(step in list_steps_in_window(window, num_steps, num_steps + 1))

        values = {word: is_active(window) for word, window in self.words.items()}
        return call.prompt_tokens.build_values_per_token(
            self.target, values, call.text_length, is_active(self.steps)
        )


@dataclass(frozen=True, kw_only=True)
class SourceMapEdit(PerWordWindowEdit):
    """Base class of prompt-to-prompt's edits that give words of the target prompt the attention
    maps of the source prompt.
    """

    source: int = 0
