"""Word swap of prompt-to-prompt: words are replaced one for one, the layout stays."""

from dataclasses import dataclass

from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.edits.base.word_edit import SourceMapEdit
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.text.alignment import find_differing_word_indices


@dataclass(frozen=True, kw_only=True)
class Replace(SourceMapEdit):
    """Edit that gives the target prompt's words the attention maps of the source prompt's words at
    the same positions.

    Prompt-to-prompt's word swap (Hertz et al. 2022, Section 3.2, arXiv 2208.01626). Both prompts
    need the same number of words.
    """

    def check_prompts_and_words(self, prompt_tokens: PromptTokens) -> None:
        """Raise ArgumentError if the edit names prompts that the run does not have, or two with
        different numbers of words.
        """
        super().check_prompts_and_words(prompt_tokens)
        find_differing_word_indices(*prompt_tokens.get_prompt_pair(self.source, self.target))

    def add_to_plan(self, plan: EditPlan, call: AttentionCall) -> None:
        """Add to the edit plan the mix of the source's attention maps into the target's rows."""
        rows, sources = (
            call.denoiser_pass.cond_rows(self.target),
            call.denoiser_pass.cond_rows(self.source),
        )
        plan.add_mix(rows, sources, *self.compute_once(call, lambda: self.build_mix_matrices(call)))

    def build_mix_matrices(self, call: AttentionCall) -> tuple[Tensor | None, Tensor]:
        """Return the word swap as a linear change of the target's attention map, P' = P_source A +
        P B: A, (1 or N, T, T), and the diagonal of B, (1 or N, T).
        """
        active_T = self.compute_active_tokens_T(call)
        columns_TT = (
            call.prompt_tokens.build_replacement_matrix(self.source, self.target, call.text_length)
            * active_T
        )
        return self.restrict_to_heads(call, columns_TT, 1 - active_T)
