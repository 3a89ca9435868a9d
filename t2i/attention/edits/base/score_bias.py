"""Base class of the edits that add a bias to the text scores of image positions.

N heads, Q query positions, K key positions, T text tokens, P image positions.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.edits.base.edit import Edit


@dataclass(frozen=True, kw_only=True)
class BiasEdit(Edit, ABC):
    """Base class of attention edits that add a bias to the target prompt's attention scores of
    text tokens, before the softmax.
    """

    target: int = 0

    @abstractmethod
    def compute_bias(self, call: AttentionCall) -> Tensor:
        """Return the bias on the attention scores, (image positions or 1, text tokens) float32; it
        is the same at every step.
        """

    def add_to_plan(self, plan: EditPlan, call: AttentionCall) -> None:
        """Add to the edit plan the edit's bias on the attention scores of the target prompt's
        rows.
        """
        if self.does_nothing:
            return
        site = call.site
        alike = (id(self), site.size, site.heads, site.keys, site.text, site.image)
        bias_NQK = call.prompt_tokens.get_or_compute(
            alike, lambda: expand_text_bias_to_site(call, self.compute_bias(call), self.heads)
        )
        plan.add_bias(call.denoiser_pass.cond_rows_of_prompt(self.target), bias_NQK)


def expand_text_bias_to_site(
    call: AttentionCall, bias_PT: Tensor, heads: tuple[int, ...] | None
) -> Tensor:
    """Expand a bias over image positions and text tokens (P or 1, T) to a site's heads, queries
    and keys (1 or N, Q or 1, K).

    It is 0 for queries outside the image and for keys outside the text.
    """
    site = call.site
    first, end = site.text
    image_start, image_end = site.image
    bias_QK = torch.zeros(len(bias_PT), site.keys)
    bias_QK[:, first:end] = bias_PT
    if site.kind == "joint":  # the text has queries too, before or after those of the image
        queries = site.keys if first > 0 else image_end
        whole_QK = torch.zeros(queries, site.keys)
        whole_QK[image_start:image_end] = bias_QK
        bias_QK = whole_QK
    if heads is None:
        return bias_QK[None]
    bias_NQK = torch.zeros(site.heads, *bias_QK.shape)
    bias_NQK[list(heads)] = bias_QK
    return bias_NQK
