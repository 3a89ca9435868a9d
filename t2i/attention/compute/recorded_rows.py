"""Attention inputs of a recorded source, whose rows are not in the batch.

B batch rows, R recorded rows, N heads, Q query positions, K key positions, E width of a head,
C channels, H W latent size.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from t2i.attention.compute.tap import AttentionInputs, add_leading_mask_axes
from t2i.text.token_windows import EncoderInput


@dataclass(frozen=True, slots=True)
class RecordedAttentionInputs:
    """Attention inputs of a recorded source at one site and step: query (R, N, Q, E), key and value
    (R, N, K, E), mask (R, 1 or N, 1 or Q, K); None for those that were not recorded.

    The first row is that of the branch "cond"; there are further rows only of what was recorded in
    all branches.
    """

    query: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    mask: Tensor | None = None

    def build_extended_inputs(self, inputs: AttentionInputs) -> AttentionInputs:
        """Return the attention inputs with the recorded rows appended to the batch.

        Edits and probes find them there as the rows of prompt 0, see `DenoiserPass.num_recorded`.
        """
        mask = inputs.mask
        if mask is not None:
            mask = add_leading_mask_axes(mask)
            own = mask.expand(len(inputs.query), *mask.shape[1:])
            recorded = (self.query, self.key, self.value)
            count = max(len(one) for one in recorded if one is not None)
            last = own[:1] if self.mask is None else self.mask.to(own)
            mask = torch.cat([own, last.expand(count, *own.shape[1:])])
        return replace(
            inputs,
            query=append_recorded_rows(inputs.query, self.query),
            key=append_recorded_rows(inputs.key, self.key),
            value=append_recorded_rows(inputs.value, self.value),
            mask=mask,
        )


def append_recorded_rows(batch_BNKE: Tensor, recorded_RNKE: Tensor | None) -> Tensor:
    """Return queries, keys or values (B, N, K, E) of a batch with the recorded rows, if there are
    any, appended along the batch axis.
    """
    if recorded_RNKE is None:
        return batch_BNKE
    return torch.cat([batch_BNKE, recorded_RNKE.to(batch_BNKE)])


class RecordedRun(Protocol):
    """Interface of a recorded run of one prompt and image, which later runs read as their
    source.
    """

    @property
    def num_steps(self) -> int:
        """Number of steps of the runs that can read it."""

    def prompt_at_step(self, step: int) -> EncoderInput:
        """Return the recorded prompt of the branch "cond" at a step."""

    def branches_at_step(self, step: int) -> tuple[str, ...]:
        """Return the guidance branches of the rows recorded at a step, in their order; "cond" is
        the first.
        """

    def get_recorded_qkv(self, site: str, step: int) -> RecordedAttentionInputs | None:
        """Return the queries, keys and values that were recorded at a site and step; None where the
        site was not recorded.
        """

    def latents_after_step(self, step: int) -> Tensor:
        """Return the latents (1, C, H, W) that were recorded after a step."""
