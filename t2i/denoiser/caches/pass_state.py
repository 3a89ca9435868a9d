"""State of the running pass, for the hooks of caches, and tensors kept for later passes."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2i.conditioning.conditioning import Branch, Conditioning

TEXT_EXTRAS = ("text_embeds", "time_ids")
"""Tensors of `Conditioning.extra` that belong to the text: pooled embeddings, and SDXL's sizes."""


@dataclass(frozen=True, slots=True, eq=False)
class TextSnapshot:
    """The text of a run at one pass: its tensors, and what tells whether they change in place.

    states : of each tensor its version; a copy of one that was made in torch.inference_mode(),
        which has none
    """

    tensors: tuple[Tensor, ...]
    states: tuple[int | Tensor, ...]

    def is_unchanged_since(self, before: "TextSnapshot") -> bool:
        """Return True if these are the tensors of an earlier snapshot, with the same contents."""
        return len(self.tensors) == len(before.tensors) and all(
            tensor is earlier and is_same_state(state, earlier_state)
            for tensor, earlier, state, earlier_state in zip(
                self.tensors, before.tensors, self.states, before.states, strict=True
            )
        )


def take_text_snapshot(conditioning: Conditioning) -> TextSnapshot:
    """Return a snapshot of the text of all branches, with what belongs to it."""
    extra = [conditioning.extra[name] for name in TEXT_EXTRAS if name in conditioning.extra]
    tensors = (conditioning.text_BTD, *extra)
    return TextSnapshot(
        tensors, tuple(one.clone() if one.is_inference() else one._version for one in tensors)
    )


def is_same_state(state: int | Tensor, earlier: int | Tensor) -> bool:
    """Return True if two states of one tensor are those of the same contents."""
    if isinstance(state, Tensor) and isinstance(earlier, Tensor):
        return torch.equal(state, earlier)
    return isinstance(state, int) and state == earlier


@dataclass(frozen=True, slots=True)
class KeptTensor:
    """A tensor kept of an earlier pass, with a block of rows for each guidance branch.

    text : of all branches of the run at that pass; with another one it is out of date
    """

    rows_by_branch: Mapping[Branch, Tensor]
    text: TextSnapshot

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
    text : of all branches of the run at this pass
    skipped : modules that the pass, or the last one, left out
    """

    def __init__(self, computed_passes: Mapping[str, frozenset[int]]) -> None:
        self.computed_passes = computed_passes
        self.number: int | None = None
        self.branches: tuple[Branch, ...] = ()
        self.text: TextSnapshot | None = None
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
            and self.text is not None
            and self.text.is_unchanged_since(kept.text)
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
