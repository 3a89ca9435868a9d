"""Prompt refinement of prompt-to-prompt: words are added, the others keep their attention."""

from dataclasses import dataclass

import torch
from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.edits.base.word_edit import SourceMapEdit


@dataclass(frozen=True, kw_only=True)
class Refine(SourceMapEdit):
    """Edit that gives the words which both prompts have the source prompt's attention maps; words
    that only the target prompt has keep their own.

    Prompt-to-prompt's prompt refinement (Hertz et al. 2022, Section 3.2, arXiv 2208.01626).
    """

    def add_to_plan(self, plan: EditPlan, call: AttentionCall) -> None:
        """Add to the edit plan the mix of the source's attention maps of common words into the
        target's rows.
        """
        rows, sources = (
            call.denoiser_pass.cond_rows(self.target),
            call.denoiser_pass.cond_rows(self.source),
        )
        plan.add_mix(rows, sources, *self.compute_once(call, lambda: self.build_mix_matrices(call)))

    def build_mix_matrices(self, call: AttentionCall) -> tuple[Tensor | None, Tensor]:
        """Return the refinement as a linear change of the target's attention map, P' = P_source A +
        P B: A, (1 or N, T, T), and the diagonal of B, (1 or N, T).
        """
        source_T, found_T = call.prompt_tokens.build_refinement_mapping(
            self.source, self.target, call.text_length
        )
        taken_T = self.compute_active_tokens_T(call) * found_T
        columns_TT = torch.zeros(call.text_length, call.text_length, dtype=torch.float64)
        columns_TT[source_T, torch.arange(call.text_length)] = taken_T
        return self.restrict_to_heads(call, columns_TT, 1 - taken_T)
