"""A source whose rows are not in the batch, because its run is over and was taken down.

B batch rows, N heads, Q query positions, K key positions, E width of a head, C channels, H W latent
size.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from t2i.attention.compute.tap import AttentionInputs, to_four_axes
from t2i.text.token_layout import EncoderInput


@dataclass(frozen=True, slots=True)
class RecordedRow:
    """What a call of attention was given for the source: query (1, N, Q, E), key (1, N, K, E), and
    mask (1, 1 or N, 1 or Q, K), if it had one."""

    query: Tensor
    key: Tensor
    mask: Tensor | None = None

    def append_to(self, call: AttentionInputs) -> AttentionInputs:
        """The call with the source's row behind its own; it has no value, for it needs no output.

        Edits and probes find it there as the row of prompt 0, see `DenoiserPass.num_recorded`.
        """
        mask = call.mask
        if mask is not None:
            mask = to_four_axes(mask)
            own = mask.expand(len(call.query), *mask.shape[1:])
            last = own[:1] if self.mask is None else self.mask.to(own).expand(1, *own.shape[1:])
            mask = torch.cat([own, last])
        return replace(
            call,
            query=torch.cat([call.query, self.query.to(call.query)]),
            key=torch.cat([call.key, self.key.to(call.key)]),
            mask=mask,
        )


class RecordedRun(Protocol):
    """A run that was taken down, in which one prompt made one picture."""

    def prompt_at(self, step: int) -> EncoderInput:
        """What the branch "cond" was told."""

    def recorded_row(self, site: str, step: int) -> RecordedRow | None:
        """None where nothing was kept of the site."""

    def latents_at(self, step: int) -> Tensor:
        """After the step, (1, C, H, W)."""
