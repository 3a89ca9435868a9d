"""Word weights of the prompt grammar, as a bias on the attention scores.

T text tokens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.edits.base.score_bias import BiasEdit
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.attention.site import is_number
from t2i.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class WeightWords(BiasEdit):
    """Edit that weights words of a prompt: each gets the attention that it would have if the prompt
    contained it `weight` times.

    log(weight) is added to the scores of the word's tokens, so that a position's map still sums to
    1, unlike under Reweight. Weight 1 leaves a word alone, 0 hides it.

    weights : a word of the target -> its weight, from 0 on
    """

    target: int = field(default=0, kw_only=False)
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for word, weight in self.weights.items():
            if not is_number(weight) or not math.isfinite(weight):
                raise ArgumentError(
                    f"Got weights[{word!r}]={weight!r}, expected a number: 1.0 leaves a word as it "
                    "is, 1.5 makes it stronger, 0.0 hides it."
                )
            if weight < 0:
                raise ArgumentError(
                    f"Got weights[{word!r}]={weight!r}: attention cannot be less than nothing, so "
                    "expected 0 or more. Reweight(weights=...) multiplies the map "
                    "itself, also by negative numbers."
                )

    @property
    def does_nothing(self) -> bool:
        """Return True if every weight is 1, or if the edit's step window is empty."""
        return super().does_nothing or all(weight == 1 for weight in self.weights.values())

    def check_prompts_and_words(self, prompt_tokens: PromptTokens) -> None:
        """Raise ArgumentError if the edit names prompts, or weighted words, that the run does not
        have.
        """
        super().check_prompts_and_words(prompt_tokens)
        for word in self.weights:
            prompt_tokens.find_word_token_positions(self.target, word)

    def compute_bias(self, call: AttentionCall) -> Tensor:
        """Return the score bias log(weight) of each text token, (1, T)."""
        return call.prompt_tokens.build_values_per_token(
            self.target, self.weights, call.text_length
        ).log()[None]
