"""Prompt refinement of prompt-to-prompt: words are added, the others keep their attention."""

from dataclasses import dataclass

import torch
from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.edits.base.word_edit import WordEdit


@dataclass(frozen=True, kw_only=True)
class Refine(WordEdit):
    """Give words that both prompts have the source's attention maps; new words keep their own.

    Prompt-to-prompt's prompt refinement (Hertz et al. 2022, Section 3.2, arXiv 2208.01626).
    """

    def apply(self, plan: EditPlan, call: AttentionCall) -> None:
        """Add the mix of the source's maps of common words into the target rows to the edit
        plan.
        """
        rows, sources = (
            call.denoiser_pass.cond_rows(self.target),
            call.denoiser_pass.cond_rows(self.source),
        )
        plan.add_mix(rows, sources, *self.compute_once(call, lambda: self.build_mix(call)))

    def build_mix(self, call: AttentionCall) -> tuple[Tensor | None, Tensor]:
        """Return A and the diagonal of B of the refinement mix P' = P_source A + P B, see
        ProbabilityMix.
        """
        source_T, found_T = call.prompt_tokens.build_refinement_mapping(
            self.source, self.target, call.text_length
        )
        taken_T = self.compute_active_T(call) * found_T
        columns_TT = torch.zeros(call.text_length, call.text_length, dtype=torch.float64)
        columns_TT[source_T, torch.arange(call.text_length)] = taken_T
        return self.restrict_to_heads(call, columns_TT, 1 - taken_T)
