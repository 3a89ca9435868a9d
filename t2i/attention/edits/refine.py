"""Add words to a prompt, and keep what the others drew."""

from dataclasses import dataclass

import torch
from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.edits.base.word_edit import WordEdit


@dataclass(frozen=True, kw_only=True)
class Refine(WordEdit):
    """The target's words look where the same words of the source look; new words look for
    themselves.

    Prompt-to-prompt's prompt refinement (Hertz et al. 2022, Section 3.2, arXiv 2208.01626).
    """

    def apply(self, plan: EditPlan, call: AttentionCall) -> None:
        rows, sources = (
            call.denoiser_pass.cond_rows(self.target),
            call.denoiser_pass.cond_rows(self.source),
        )
        plan.add_mix(rows, sources, *self.cached(call, lambda: self.matrices(call)))

    def matrices(self, call: AttentionCall) -> tuple[Tensor | None, Tensor]:
        """What is taken of the source's map, and what stays of the target's own."""
        source_T, found_T = call.prompt_tokens.refinement_mapping(
            self.source, self.target, call.text_length
        )
        taken_T = self.open_T(call) * found_T
        columns_TT = torch.zeros(call.text_length, call.text_length, dtype=torch.float64)
        columns_TT[source_T, torch.arange(call.text_length)] = taken_T
        return self.of_heads(call, columns_TT, 1 - taken_T)
