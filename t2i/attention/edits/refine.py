"""Prompt refinement of prompt-to-prompt: words are added, the others keep their attention."""

from dataclasses import dataclass

import torch

from t2i.attention.edits.base.word_edit import SourceMapEdit
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.attention.prompts.word_alignment import TokenAlignment


@dataclass(frozen=True, kw_only=True)
class Refine(SourceMapEdit):
    """Edit that gives the words which both prompts have the source prompt's attention maps; words
    that only the target prompt has keep their own.

    Prompt-to-prompt's prompt refinement (Hertz et al. 2022, Section 3.2, arXiv 2208.01626).
    """

    def compute_automatic_token_alignment(
        self, prompt_tokens: PromptTokens, length: int
    ) -> TokenAlignment:
        """Return the global alignment of the source and target prompts' tokens: each token that
        both have in common comes from its partner in the source.
        """
        source_T, found_T = prompt_tokens.build_refinement_mapping(self.source, self.target, length)
        columns_TT = torch.zeros(length, length, dtype=torch.float64)
        columns_TT[source_T, torch.arange(length)] = found_T.double()
        return TokenAlignment(columns_TT, found_T.double())
