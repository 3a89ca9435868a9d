"""Attention inputs of a recorded source, whose rows are not in the batch.

B batch rows, N heads, Q query positions, K key positions, E width of a head, C channels, H W latent
size.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from t2i.attention.compute.tap import AttentionInputs, mask_to_four_axes
from t2i.text.token_layout import EncoderInput


@dataclass(frozen=True, slots=True)
class RecordedInputs:
    """Attention inputs of a recorded source at one site and step: query (1, N, Q, E), key
    (1, N, K, E) and mask (1, 1 or N, 1 or Q, K).
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None = None

    def append_to(self, inputs: AttentionInputs) -> AttentionInputs:
        """Return the attention inputs with this recorded row appended to the batch.

        Edits and probes find it there as the row of prompt 0, see `DenoiserPass.num_recorded`.
        """
        mask = inputs.mask
        if mask is not None:
            mask = mask_to_four_axes(mask)
            own = mask.expand(len(inputs.query), *mask.shape[1:])
            last = own[:1] if self.mask is None else self.mask.to(own).expand(1, *own.shape[1:])
            mask = torch.cat([own, last])
        return replace(
            inputs,
            query=torch.cat([inputs.query, self.query.to(inputs.query)]),
            key=torch.cat([inputs.key, self.key.to(inputs.key)]),
            mask=mask,
        )


class RecordedRun(Protocol):
    """Interface of a recorded run of one prompt and image, which later runs read as their
    source.
    """

    def prompt_at(self, step: int) -> EncoderInput:
        """Return the recorded prompt of the branch "cond" at a step."""

    def recorded_inputs(self, site: str, step: int) -> RecordedInputs | None:
        """Return the queries and keys that were recorded at a site and step; None where the site
        was not recorded.
        """

    def latents_at(self, step: int) -> Tensor:
        """Return the latents (1, C, H, W) after a step."""
