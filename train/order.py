"""Which sample stands at which place of the run, and which places a process fills."""

import torch

from train.randomness import generator


class Order:
    """A fresh permutation in every epoch; place p of the run holds sample `index(p)`."""

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)

    def index(self, place: int) -> int:
        epoch, position = divmod(place, self.length)
        if epoch != self._epoch:
            self._permutation = torch.randperm(
                self.length, generator=generator(self.seed, epoch, "order")
            )
            self._epoch = epoch
        return int(self._permutation[position])


def slots_of(rank: int, part: int, *, batch_size: int, ranks: int, parts: int) -> range:
    """The slots of the global batch that `rank` fills in its accumulation part `part`.

    Together all ranks and parts fill each of the `batch_size` slots once.
    """
    size = batch_size // (ranks * parts)
    start = (part * ranks + rank) * size
    return range(start, start + size)
