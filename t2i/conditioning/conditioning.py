"""What the denoiser is told in one pass, and whom each row of its batch speaks for.

B batch rows, T text tokens, D text width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from t2i.errors import ArgumentError
from t2i.terminal import several
from t2i.text.token_layout import Readable

Branch = str
"""One of the predictions that guidance mixes: "uncond", "cond", or what a guidance adds."""

Part = Literal["cond", "source", "target"]
"""What the conditional row of a picture is: itself alone, or a side of an edit."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """The rows of one denoiser pass: branch after branch, each with one row per picture.

    Two pictures under classifier-free guidance have rows (uncond 0, uncond 1, cond 0, cond 1).
    A feature that steers the denoiser adds its tensors to `extra`; no signature grows.
    """

    text_BTD: Tensor
    branches: tuple[Branch, ...] = ("cond",)
    parts: tuple[Part, ...] = ()
    """One per picture; empty means that no picture takes part in an edit."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """Further tensors with B rows that the model family reads, such as pooled embeddings."""
    mask_BT: Tensor | None = None
    """Where the denoiser may look: 1 for a token that is read. None lets it look everywhere."""
    prompts: tuple[Readable, ...] = ()
    """What the branch "cond" is told in words, if anybody knows: one for each prompt, whose
    pictures follow one another."""

    def __post_init__(self) -> None:
        rows = self.text_BTD.shape[0]
        if not self.branches or rows % len(self.branches):
            raise ArgumentError(
                f"Got {several(rows, 'row')} of text for the branches {self.branches}: expected "
                "as many rows for each branch, one per picture."
            )
        if self.parts and len(self.parts) != self.pictures:
            raise ArgumentError(
                f"Got {several(len(self.parts), 'part')} for {several(self.pictures, 'picture')}: "
                "expected one for each."
            )
        if self.mask_BT is not None and self.mask_BT.shape != self.text_BTD.shape[:2]:
            raise ArgumentError(
                f"Got a mask of shape {tuple(self.mask_BT.shape)} for text of shape "
                f"{tuple(self.text_BTD.shape)}: expected one number per token."
            )
        if self.prompts and self.pictures % len(self.prompts):
            raise ArgumentError(
                f"Got {several(len(self.prompts), 'prompt')} for "
                f"{several(self.pictures, 'picture')}: expected as many pictures of each."
            )
        for name, tensor in self.extra.items():
            if tensor.shape[0] != rows:
                raise ArgumentError(
                    f"Got {several(tensor.shape[0], 'row')} of {name!r}, expected {rows}, as many "
                    "as of text."
                )

    @property
    def pictures(self) -> int:
        return self.text_BTD.shape[0] // len(self.branches)

    @property
    def roles(self) -> tuple[str, ...]:
        """The role of every row: its branch, or for a conditional row its part in an edit."""
        parts = self.parts or ("cond",) * self.pictures
        return tuple(
            parts[picture] if branch == "cond" else branch
            for branch in self.branches
            for picture in range(self.pictures)
        )

    def select(self, branches: Sequence[Branch]) -> "Conditioning":
        """The rows of these branches, in this order."""
        if tuple(branches) == self.branches:
            return self
        for branch in branches:
            if branch not in self.branches:
                raise ArgumentError(
                    f"Guidance asks for the branch {branch!r}, but only "
                    f"{', '.join(self.branches)} were encoded."
                )
        blocks = [self.branches.index(branch) for branch in branches]

        def pick(rows: Tensor) -> Tensor:
            by_branch = rows.chunk(len(self.branches))
            return (
                torch.cat([by_branch[i] for i in blocks])
                if len(blocks) > 1
                else by_branch[blocks[0]]
            )

        return replace(
            self,
            text_BTD=pick(self.text_BTD),
            branches=tuple(branches),
            extra={name: pick(rows) for name, rows in self.extra.items()},
            mask_BT=None if self.mask_BT is None else pick(self.mask_BT),
        )


def join(branches: Mapping[Branch, Tensor]) -> Conditioning:
    """Stack the embeddings of each branch, one row per picture, into one batch."""
    return Conditioning(torch.cat(list(branches.values())), tuple(branches))
