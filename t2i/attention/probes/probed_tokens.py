"""Tokens of a probe's words at one step of a run.

N heads, S tokens of the words, T text tokens, Q positions of a site.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from t2i.attention.prompts.prompt_tokens import PromptTokens


@dataclass(frozen=True, slots=True)
class ProbedTokensAtStep:
    """Tokens of a probe's words at one step: their columns in the probe's measurements (axis S),
    and their positions in the text (axis T).
    """

    prompt_tokens: PromptTokens
    columns: tuple[int, ...]
    positions: tuple[int, ...]
    _on_device: dict[torch.device, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def positions_on_device(self, device: torch.device) -> Tensor:
        """Return the tokens' positions in the text as a tensor (S,) on a device."""
        if device not in self._on_device:
            self._on_device[device] = torch.tensor(self.positions, dtype=torch.long, device=device)
        return self._on_device[device]

    def insert_zeros_for_absent_tokens(self, words_NSQ: Tensor, columns: int) -> Tensor:
        """Return token probabilities (N, S, Q) with as many as `columns` tokens along S: 0 for the
        tokens that the prompt does not contain at this step.
        """
        if self.columns == tuple(range(columns)):
            return words_NSQ
        heads, _, positions = words_NSQ.shape
        expanded_NSQ = words_NSQ.new_zeros(heads, columns, positions)
        index = torch.tensor(self.columns, dtype=torch.long, device=words_NSQ.device)
        return expanded_NSQ.index_copy(1, index, words_NSQ)
