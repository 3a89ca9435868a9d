"""Base classes of the edits of a target's words, each word in its own window of steps.

T text tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.edits.base.edit import OMITTED_IF_EMPTY, Edit
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.attention.prompts.word_alignment import TokenAlignment, apply_alignment_corrections
from t2i.attention.site import (
    StepWindow,
    check_step_window,
    is_empty_step_window,
    list_steps_in_window,
)
from t2i.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class PerWordStepWindowEdit(Edit):
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
            prompt_tokens.find_word_token_positions(self.target, word)

    def acts_at_step(self, step: int, num_steps: int) -> bool:
        """Return True if the step lies in the step window of any of the edit's words."""
        windows = (self.steps, *self.words.values())
        return any(
            step in list_steps_in_window(window, num_steps, num_steps + 1) for window in windows
        )

    @property
    def does_nothing(self) -> bool:
        """Return True if the step windows of all of the edit's words are empty, so that having no
        effect is no error.
        """
        return all(is_empty_step_window(window) for window in (self.steps, *self.words.values()))

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
class SourceMapEdit(PerWordStepWindowEdit, ABC):
    """Base class of prompt-to-prompt's edits that give words of the target prompt the attention
    maps of the source prompt.

    alignment : a word of the target -> the word of the source that it comes from, or None for a new
        word; "dog#2" is the second of several. Words that it does not name are aligned by the edit
    """

    source: int = 0
    alignment: Mapping[str, str | None] = field(
        default_factory=dict, metadata={OMITTED_IF_EMPTY: True}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_alignment_types(self.alignment)

    def check_prompts_and_words(self, prompt_tokens: PromptTokens) -> None:
        """Raise ArgumentError if the edit names prompts, or words, that the run does not have."""
        super().check_prompts_and_words(prompt_tokens)
        for word, origin in self.alignment.items():
            prompt_tokens.find_occurrence_token_positions(self.target, word)
            if origin is not None:
                prompt_tokens.find_occurrence_token_positions(self.source, origin)

    def add_to_plan(self, plan: EditPlan, call: AttentionCall) -> None:
        """Add to the edit plan the mix of the source's attention maps into the target's rows."""
        rows, sources = (
            call.denoiser_pass.cond_rows_of_prompt(self.target),
            call.denoiser_pass.cond_rows_of_prompt(self.source),
        )
        plan.add_mix(
            rows, sources, *self.compute_once_per_step(call, lambda: self.build_mix_matrices(call))
        )

    def build_mix_matrices(self, call: AttentionCall) -> tuple[Tensor | None, Tensor]:
        """Return the edit as a linear change of the target's attention map, P' = P_source A + P B:
        A, (1 or N, T, T), and the diagonal of B, (1 or N, T).
        """
        columns_TT, found_T = self.align_tokens(call.prompt_tokens, call.text_length)
        taken_T = self.compute_active_tokens_T(call) * found_T
        return self.restrict_mix_to_heads(call, columns_TT * taken_T, 1 - taken_T)

    def align_tokens(self, prompt_tokens: PromptTokens, length: int) -> TokenAlignment:
        """Return which token of the source prompt each token of the target prompt comes from: the
        edit's automatic alignment with the user's corrections (`alignment`) applied.
        """
        found = self.compute_automatic_token_alignment(prompt_tokens, length)
        if not self.alignment:
            return found
        return apply_alignment_corrections(
            found, prompt_tokens, self.source, self.target, self.alignment
        )

    @abstractmethod
    def compute_automatic_token_alignment(
        self, prompt_tokens: PromptTokens, length: int
    ) -> TokenAlignment:
        """Return the edit's automatic alignment of the target prompt's tokens with the source
        prompt's, without the user's corrections (`alignment`).
        """


def check_alignment_types(alignment: object) -> None:
    """Raise ArgumentError unless an edit's argument `alignment` maps words of the target prompt to
    words of the source prompt, or to None.
    """
    if not isinstance(alignment, Mapping) or not all(
        isinstance(word, str) and (origin is None or isinstance(origin, str))
        for word, origin in alignment.items()
    ):
        raise ArgumentError(
            f"Got alignment={alignment!r:.80}, expected words of the target and the words of the "
            'source that they come from, None for a new word: {"dog": "cat", "big": None}.'
        )
