"""What edits share that add to the picture's scores of the text, before the softmax.

N heads, Q query positions, K key positions, T text tokens, P places of the picture.
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
    """Base of the edits that make the target's words likelier or less likely to be looked at."""

    target: int = 0

    @abstractmethod
    def bias(self, call: AttentionCall) -> Tensor:
        """(P or 1, T) float32, the same at every step."""

    def apply(self, plan: EditPlan, call: AttentionCall) -> None:
        if self.does_nothing:
            return
        site = call.site
        alike = (id(self), site.size, site.heads, site.keys, site.text, site.image)
        bias_NQK = call.prompt_tokens.cached(
            alike, lambda: over_keys(call, self.bias(call), self.heads)
        )
        plan.add_bias(call.denoiser_pass.cond_rows(self.target), bias_NQK)


def over_keys(call: AttentionCall, bias_PT: Tensor, heads: tuple[int, ...] | None) -> Tensor:
    """(P or 1, T) laid out over all queries, keys and heads of a site, (1 or N, Q or 1, K).

    Nothing is added to what does not ask for the picture, nor to keys that are not the text's.
    """
    site = call.site
    first, end = site.text
    asking, stop = site.image
    bias_QK = torch.zeros(len(bias_PT), site.keys)
    bias_QK[:, first:end] = bias_PT
    if site.kind == "joint":  # the text asks too, before the picture or after it
        queries = site.keys if first > 0 else stop
        whole_QK = torch.zeros(queries, site.keys)
        whole_QK[asking:stop] = bias_QK
        bias_QK = whole_QK
    if heads is None:
        return bias_QK[None]
    bias_NQK = torch.zeros(site.heads, *bias_QK.shape)
    bias_NQK[list(heads)] = bias_QK
    return bias_NQK
