"""Rows of guidance branches in a batch in which the branches follow one another.

B batch rows, C channels, H W size at a block of the UNet.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from t2i.conditioning.conditioning import Branch


def list_controlled_branches(branches: Sequence[Branch], cond_alone: bool) -> list[Branch]:
    """Return the guidance branches whose rows a control acts on: all, or all but the unconditional
    one.
    """
    return [branch for branch in branches if not (cond_alone and branch == "uncond")]


def select_branch_rows(
    rows_BCHW: Tensor, branches: Sequence[Branch], wanted: Sequence[Branch]
) -> Tensor:
    """Return the rows of some guidance branches from a batch in which the branches' rows follow one
    another.
    """
    if tuple(wanted) == tuple(branches):
        return rows_BCHW
    by_branch = dict(zip(branches, rows_BCHW.chunk(len(branches)), strict=True))
    return torch.cat([by_branch[branch] for branch in wanted])


def zero_fill_absent_branches(
    rows_BCHW: Tensor, branches: Sequence[Branch], present: Sequence[Branch]
) -> Tensor:
    """Return rows for all guidance branches of a batch: the given rows of the present branches, and
    zeros for the others.
    """
    if tuple(present) == tuple(branches):
        return rows_BCHW
    by_branch = dict(zip(present, rows_BCHW.chunk(len(present)), strict=True))
    zeros_BCHW = torch.zeros_like(next(iter(by_branch.values())))
    return torch.cat([by_branch.get(branch, zeros_BCHW) for branch in branches])
