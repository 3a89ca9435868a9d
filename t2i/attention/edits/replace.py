"""Swap words one for one, and keep the picture."""

from dataclasses import dataclass

from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.edits.base.word_edit import WordEdit
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.text.alignment import changed_words


@dataclass(frozen=True, kw_only=True)
class Replace(WordEdit):
    """The target's words look where those of the source look that stand in their places.

    Prompt-to-prompt's word swap (Hertz et al. 2022, Section 3.2, arXiv 2208.01626). The prompts
    have as many words.
    """

    def check(self, prompt_tokens: PromptTokens) -> None:
        super().check(prompt_tokens)
        changed_words(*prompt_tokens.prompt_pair(self.source, self.target))

    def apply(self, plan: EditPlan, call: AttentionCall) -> None:
        rows, sources = (
            call.denoiser_pass.cond_rows(self.target),
            call.denoiser_pass.cond_rows(self.source),
        )
        plan.add_mix(rows, sources, *self.cached(call, lambda: self.matrices(call)))

    def matrices(self, call: AttentionCall) -> tuple[Tensor | None, Tensor]:
        """What is taken of the source's map, and what stays of the target's own."""
        open_T = self.open_T(call)
        columns_TT = (
            call.prompt_tokens.replacement_matrix(self.source, self.target, call.text_length)
            * open_T
        )
        return self.of_heads(call, columns_TT, 1 - open_T)
