"""Randomness as a pure function of what it is for: nothing is saved, nothing can be lost."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def key(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed for one purpose, such as `key(seed, step, slot, "noise")`."""
    text = "/".join(map(str, (seed, *purpose)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *purpose: int | str) -> "torch.Generator":
    """A fresh generator for one purpose, on the CPU, so that every device sees the same draws."""
    import torch  # here, for data are looked at without it

    return torch.Generator().manual_seed(key(seed, *purpose))
