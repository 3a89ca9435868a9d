"""Everything the denoiser is given in one pass, and the role of each row of its batch.

B batch rows, T text tokens, D text width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from t2i.errors import ArgumentError
from t2i.terminal import plural
from t2i.text.token_windows import EncoderInput

Branch = str
"""Name of one prediction that guidance combines: "uncond", "cond", or one that a guidance adds."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Input of the denoiser beside the latents in one pass: text embeddings and further tensors,
    one row per image and guidance branch, branch after branch.

    Two images under classifier-free guidance have rows (uncond 0, uncond 1, cond 0, cond 1).
    A feature that steers the denoiser adds its tensors to `extra`; no signature grows.
    """

    text_BTD: Tensor
    branches: tuple[Branch, ...] = ("cond",)
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """Further tensors with B rows that the model family reads, such as pooled embeddings."""
    mask_BT: Tensor | None = None
    """Attention mask of the text: 1 for a token that is read. None: every token is read."""
    prompts: tuple[EncoderInput, ...] = ()
    """Text of the branch "cond", if known: one per prompt; the images of a prompt are adjacent."""

    def __post_init__(self) -> None:
        rows = self.text_BTD.shape[0]
        if not self.branches or rows % len(self.branches):
            raise ArgumentError(
                f"Got {plural(rows, 'row')} of text for the branches {self.branches}: expected "
                "as many rows for each branch, one per image."
            )
        if self.mask_BT is not None and self.mask_BT.shape != self.text_BTD.shape[:2]:
            raise ArgumentError(
                f"Got a mask of shape {tuple(self.mask_BT.shape)} for text of shape "
                f"{tuple(self.text_BTD.shape)}: expected one number per token."
            )
        if self.prompts and self.num_images % len(self.prompts):
            raise ArgumentError(
                f"Got {plural(len(self.prompts), 'prompt')} for "
                f"{plural(self.num_images, 'image')}: expected as many images for each."
            )
        for name, tensor in self.extra.items():
            if tensor.shape[0] != rows:
                raise ArgumentError(
                    f"Got {plural(tensor.shape[0], 'row')} of {name!r}, expected {rows}, as many "
                    "as of text."
                )

    @property
    def num_images(self) -> int:
        """Number of images in the denoiser's batch, which is the number of rows of one guidance
        branch.
        """
        return self.text_BTD.shape[0] // len(self.branches)

    @property
    def row_branches(self) -> tuple[Branch, ...]:
        """Guidance branch of each row of the denoiser's batch."""
        return tuple(branch for branch in self.branches for _ in range(self.num_images))

    def select_branches(self, branches: Sequence[Branch]) -> "Conditioning":
        """Return the conditioning of these guidance branches alone, in this order; ArgumentError
        for an absent one.
        """
        if tuple(branches) == self.branches:
            return self
        for branch in branches:
            if branch not in self.branches:
                raise ArgumentError(
                    f"Guidance needs the branch {branch!r}, but only "
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


def stack_branches_to_conditioning(branches: Mapping[Branch, Tensor]) -> Conditioning:
    """Stack the text embeddings of each guidance branch, one row per image, into the Conditioning
    of one denoiser batch.
    """
    return Conditioning(torch.cat(list(branches.values())), tuple(branches))
