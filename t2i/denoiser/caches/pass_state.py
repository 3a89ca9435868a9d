"""State of the running pass, for the hooks of caches, and tensors kept for later passes."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2i.conditioning.conditioning import Branch


@dataclass(frozen=True, slots=True)
class KeptTensor:
    """A tensor kept of an earlier pass, with a block of rows for each guidance branch.

    text : embeddings of all branches of the run at that pass; with others it is out of date
    """

    rows_by_branch: Mapping[Branch, Tensor]
    text: Tensor

    def join_rows_of(self, branches: Sequence[Branch]) -> Tensor:
        """Return a copy of the rows of these branches, branch after branch."""
        # A copy, for FreeU and others change in place what they are given.
        return torch.cat([self.rows_by_branch[branch] for branch in branches])


class PassState:
    """The running pass of a run, as the hooks of its caches see it.

    computed_passes : name of a module that caches leave out -> passes that compute it
    number : of the running pass; None outside of the run's own passes, as in an extra pass of an
        edit and in a run inside a callback
    branches : of the rows of the pass
    text : embeddings of all branches of the run at this pass
    skipped : modules that the pass, or the last one, left out
    """

    def __init__(self, computed_passes: Mapping[str, frozenset[int]]) -> None:
        self.computed_passes = computed_passes
        self.number: int | None = None
        self.branches: tuple[Branch, ...] = ()
        self.text: Tensor | None = None
        self.skipped: set[str] = set()
        self._thread = threading.get_ident()

    @property
    def is_own_pass(self) -> bool:
        """True in the run's own passes, in its own thread."""
        return self.number is not None and threading.get_ident() == self._thread

    def may_skip(self, module: str, kept: KeptTensor | None) -> bool:
        """Return True if the running pass is to leave out a module, and the kept tensor can stand
        for its output: it has rows of all branches, and the text has not changed since.
        """
        return (
            self.is_own_pass
            and self.number not in self.computed_passes[module]
            and kept is not None
            and kept.text is self.text
            and kept.rows_by_branch.keys() >= set(self.branches)
        )

    def split_rows(self, tensor: Tensor) -> dict[Branch, Tensor]:
        """Return a copy of the rows of each branch of the running pass."""
        blocks = tensor.detach().clone().chunk(len(self.branches))
        return dict(zip(self.branches, blocks, strict=True))

    def keep(self, rows_by_branch: Mapping[Branch, Tensor]) -> KeptTensor:
        """Return rows computed in the running pass, to be kept for later passes."""
        assert self.text is not None
        return KeptTensor(rows_by_branch, self.text)
