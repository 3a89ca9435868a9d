"""Embeddings of captions, read from the cache.

T tokens of a row, D width of an embedding, S tokens of a window.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2i.errors import DataError
from t2i.text.encoder_interface import EncodedText
from train.cache.shards import ArraysByName, ShardFolder

TEXT, MASK, POOLED = "text", "mask", "pooled"


def encoded_row_to_arrays(encoded: EncodedText, row: int) -> ArraysByName:
    """Convert one row of encoded captions to arrays for the cache: text (T, D), mask (T,), pooled
    (D,).

    The row keeps its own number of windows; it is padded when it is read beside longer ones.
    """
    parts = {TEXT: encoded.text_BTD, MASK: encoded.mask_BT, POOLED: encoded.pooled_BD}
    return {
        name: (part[row] if part.dtype == torch.bool else part[row].float()).cpu().numpy()
        for name, part in parts.items()
        if part is not None
    }


class CachedTextEmbeddings:
    """Cached caption embeddings, read as the text encoder would return them for one batch."""

    def __init__(self, shards: ShardFolder) -> None:
        self.shards = shards
        self._empty_SD: NDArray[np.float32] = shards.read("")[TEXT]

    def read(self, captions: Sequence[str], device: torch.device) -> EncodedText:
        """Read the embeddings of captions from the cache as one batch.

        Raises DataError for one that is not cached.
        """
        rows = [self._row(caption) for caption in captions]
        longest = max(len(row[TEXT]) for row in rows)
        text_BTD = np.stack([self._padded(row[TEXT], longest) for row in rows])
        pooled = [row[POOLED] for row in rows if POOLED in row]
        return EncodedText(
            torch.from_numpy(text_BTD).to(device),
            self._mask(rows, longest, device),
            torch.from_numpy(np.stack(pooled)).to(device) if pooled else None,
        )

    def _row(self, caption: str) -> ArraysByName:
        if caption not in self.shards:
            raise DataError(
                f"The caption {caption[:80]!r} was not encoded before the run: set "
                "cache.texts = false and begin another run."
            )
        return self.shards.read(caption)

    def _padded(self, text_TD: NDArray[np.float32], longest: int) -> NDArray[np.float32]:
        """Pad a row with windows of the empty text, as encoders do."""
        missing = (longest - len(text_TD)) // len(self._empty_SD)
        return np.concatenate([text_TD, *[self._empty_SD] * missing])

    def _mask(
        self, rows: Sequence[ArraysByName], longest: int, device: torch.device
    ) -> Tensor | None:
        """Mask the windows that only pad a row; None where no row has any."""
        if all(MASK not in row and len(row[TEXT]) == longest for row in rows):
            return None
        mask_BT = np.zeros((len(rows), longest), dtype=np.bool_)
        for number, row in enumerate(rows):
            mask_BT[number, : len(row[TEXT])] = row.get(MASK, True)
        return torch.from_numpy(mask_BT).to(device)
