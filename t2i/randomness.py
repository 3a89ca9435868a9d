"""Seeds and generators as pure functions of their purpose."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *purpose: int | str) -> int:
    """Return a 63-bit seed for one purpose, such as `derive_seed(seed, step, slot, "noise")`."""
    text = "/".join(map(str, (seed, *purpose)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def derive_generator(seed: int, *purpose: int | str) -> "torch.Generator":
    """Return a fresh CPU generator for one purpose, so that every device sees the same draws."""
    import torch  # here, for data are looked at without it

    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
