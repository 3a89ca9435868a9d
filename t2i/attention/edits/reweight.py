"""Make words stronger or weaker."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.edits.base.edit import LARGEST
from t2i.attention.edits.base.word_edit import WindowedEdit
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.attention.site import is_number
from t2i.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class Reweight(WindowedEdit):
    """Multiplies the maps of the target's words; what a place looks at need not sum to 1 then.

    With `source` as prompt-to-prompt's attention re-weighting (Hertz et al. 2022, Section 3.2,
    arXiv 2208.01626): the other words too look where the source's look, unless an edit before has
    said so already. Without, the target's own map is multiplied.

    weights : a word of the target -> its factor, which may be negative
    """

    source: int | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for word, weight in self.weights.items():
            if not is_number(weight) or not abs(weight) <= LARGEST:  # nan neither
                raise ArgumentError(
                    f"Got weights[{word!r}]={weight!r}, expected a number up to {LARGEST:,}: 1.0 "
                    "leaves a word as it is, 2.0 doubles it, 0.0 takes it away."
                )
        if not self.weights and self.source is None:
            raise ArgumentError('Reweight needs words to weigh: Reweight(weights={"cat": 2.0}).')

    @property
    def does_nothing(self) -> bool:
        neutral = self.source is None and all(weight == 1 for weight in self.weights.values())
        return super().does_nothing or neutral

    def check(self, prompt_tokens: PromptTokens) -> None:
        super().check(prompt_tokens)
        for word in self.weights:
            prompt_tokens.span(self.target, word)

    def apply(self, plan: EditPlan, call: AttentionCall) -> None:
        if self.does_nothing:
            return
        rows = call.denoiser_pass.cond_rows(self.target)
        sources = None if self.source is None else call.denoiser_pass.cond_rows(self.source)
        if sources is None or all(
            plan.has_mix_from(row, source) for row, source in zip(rows, sources, strict=True)
        ):
            plan.add_mix(rows, None, *self.cached(call, lambda: self.own(call)))
        else:
            plan.add_mix(rows, sources, *self.cached(call, lambda: self.sources(call)))

    def own(self, call: AttentionCall) -> tuple[Tensor | None, Tensor]:
        """Where the map is multiplied that the edits before have left."""
        weights_T = call.prompt_tokens.values_per_token(self.target, self.weights, call.text_length)
        return self.of_heads(call, None, torch.where(self.open_T(call) > 0, weights_T, 1.0))

    def sources(self, call: AttentionCall) -> tuple[Tensor | None, Tensor]:
        """Where the source's map is multiplied, and put in the place of the target's."""
        weights_T, open_T = (
            call.prompt_tokens.values_per_token(self.target, self.weights, call.text_length),
            self.open_T(call),
        )
        return self.of_heads(call, torch.diag(weights_T * open_T), 1 - open_T)
