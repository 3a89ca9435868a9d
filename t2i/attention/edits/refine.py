"""Add words to a prompt, and keep what the others drew."""

from dataclasses import dataclass

import torch
from torch import Tensor

from t2i.attention.call import At
from t2i.attention.compute.edit_plan import Effects
from t2i.attention.edits.base.word_edit import WordEdit


@dataclass(frozen=True, kw_only=True)
class Refine(WordEdit):
    """The target's words look where the same words of the source look; new words look for
    themselves.

    Prompt-to-prompt's prompt refinement (Hertz et al. 2022, Section 3.2, arXiv 2208.01626).
    """

    def apply(self, effects: Effects, at: At) -> None:
        rows, sources = at.passing.rows_of(self.target), at.passing.rows_of(self.source)
        effects.mix(rows, sources, *self.once(at, lambda: self.matrices(at)))

    def matrices(self, at: At) -> tuple[Tensor | None, Tensor]:
        """What is taken of the source's map, and what stays of the target's own."""
        source_T, found_T = at.said.refinement(self.source, self.target, at.tokens)
        taken_T = self.open_T(at) * found_T
        columns_TT = torch.zeros(at.tokens, at.tokens, dtype=torch.float64)
        columns_TT[source_T, torch.arange(at.tokens)] = taken_T
        return self.of_heads(at, columns_TT, 1 - taken_T)
