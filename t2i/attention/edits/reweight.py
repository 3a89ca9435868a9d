"""Attention re-weighting of prompt-to-prompt: words become stronger or weaker."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.edits.base.edit import MAX_ABSOLUTE_VALUE
from t2i.attention.edits.base.word_edit import PerWordStepWindowEdit
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.attention.site import is_number
from t2i.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class Reweight(PerWordStepWindowEdit):
    """Edit that multiplies the attention maps of words of the target prompt, which then need not
    sum to 1.

    With `source` as prompt-to-prompt's attention re-weighting (Hertz et al. 2022, Section 3.2,
    arXiv 2208.01626): all words of the target get the source's maps, unless an edit before has
    mixed them in already. Without it, the target's own map is multiplied.

    weights : a word of the target -> its factor, which may be negative
    """

    source: int | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for word, weight in self.weights.items():
            if not is_number(weight) or not abs(weight) <= MAX_ABSOLUTE_VALUE:  # nan neither
                raise ArgumentError(
                    f"Got weights[{word!r}]={weight!r}, expected a number up to "
                    f"{MAX_ABSOLUTE_VALUE:,}: "
                    "1.0 leaves a word as it is, 2.0 doubles it, 0.0 takes it away."
                )
        if not self.weights and self.source is None:
            raise ArgumentError('Reweight needs words to weigh: Reweight(weights={"cat": 2.0}).')

    @property
    def does_nothing(self) -> bool:
        """Return True if every weight is 1 and there is no source prompt, or if the step windows of
        all words are empty.
        """
        neutral = self.source is None and all(weight == 1 for weight in self.weights.values())
        return super().does_nothing or neutral

    def check_prompts_and_words(self, prompt_tokens: PromptTokens) -> None:
        """Raise ArgumentError if the edit names prompts, or weighted words, that the run does not
        have.
        """
        super().check_prompts_and_words(prompt_tokens)
        for word in self.weights:
            prompt_tokens.find_word_token_positions(self.target, word)

    def add_to_plan(self, plan: EditPlan, call: AttentionCall) -> None:
        """Add the multiplication of the words' maps in the target rows to the edit plan."""
        if self.does_nothing:
            return
        rows = call.denoiser_pass.cond_rows_of_prompt(self.target)
        source_rows = (
            None if self.source is None else call.denoiser_pass.cond_rows_of_prompt(self.source)
        )
        if source_rows is None or all(
            plan.is_source_mixed_into_row(source, row)
            for row, source in zip(rows, source_rows, strict=True)
        ):
            plan.add_mix(
                rows, None, *self.compute_once_per_step(call, lambda: self._scale_own_map(call))
            )
        else:
            plan.add_mix(
                rows,
                source_rows,
                *self.compute_once_per_step(call, lambda: self._mix_source_map(call)),
            )

    def _scale_own_map(self, call: AttentionCall) -> tuple[Tensor | None, Tensor]:
        """Return the mix that multiplies the map as the edits before left it."""
        weights_T = call.prompt_tokens.build_values_per_token(
            self.target, self.weights, call.text_length
        )
        return self.restrict_mix_to_heads(
            call, None, torch.where(self.compute_active_tokens_T(call) > 0, weights_T, 1.0)
        )

    def _mix_source_map(self, call: AttentionCall) -> tuple[Tensor | None, Tensor]:
        """Return the mix that replaces the map by the source's, multiplied."""
        weights_T, active_T = (
            call.prompt_tokens.build_values_per_token(self.target, self.weights, call.text_length),
            self.compute_active_tokens_T(call),
        )
        return self.restrict_mix_to_heads(call, torch.diag(weights_T * active_T), 1 - active_T)
