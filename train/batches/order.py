"""Which samples stand at which step of the run, and which of them a process reads."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from t2i.randomness import derive_generator


class Order:
    """The global batch of every step: a function of the seed and the step alone.

    Each group is gone through in a fresh permutation every time, and its batches follow one another
    without a gap: none of its samples is dropped, and one stands twice in a batch only where the
    group is smaller. In every round of `round` steps a group of n samples has its turn
    ceil(n / batch_size) times, in an order of the round's own.
    """

    def __init__(self, groups: Sequence[Sequence[int]], batch_size: int, seed: int) -> None:
        self.groups = [group for group in groups if len(group)]
        self.batch_size, self.seed = batch_size, seed
        self._turns = [-(-len(group) // batch_size) for group in self.groups]
        self._round, self._schedule = -1, torch.empty(0, dtype=torch.int64)
        self._passes: dict[int, tuple[int, torch.Tensor]] = {}

    @property
    def round(self) -> int:
        """Steps in which every group has had its turns."""
        return sum(self._turns)

    def batch(self, step: int) -> list[int]:
        """The samples of the global batch of `step`, slot by slot."""
        group, turn = self._turn(step)
        places = range(turn * self.batch_size, (turn + 1) * self.batch_size)
        return [self._sample(group, place) for place in places]

    def _turn(self, step: int) -> tuple[int, int]:
        """Whose turn it is, and how many that group has had before."""
        number, position = divmod(step, self.round)
        if number != self._round:
            turns = torch.arange(len(self.groups)).repeat_interleave(torch.tensor(self._turns))
            drawn = derive_generator(self.seed, number, "round")
            self._schedule = turns[torch.randperm(self.round, generator=drawn)]
            self._round = number
        group = int(self._schedule[position])
        before = int((self._schedule[:position] == group).sum())
        return group, number * self._turns[group] + before

    def _sample(self, group: int, place: int) -> int:
        members = self.groups[group]
        again, position = divmod(place, len(members))
        if self._passes.get(group, (-1,))[0] != again:
            drawn = derive_generator(self.seed, again, "order", group)
            self._passes[group] = again, torch.randperm(len(members), generator=drawn)
        return members[int(self._passes[group][1][position])]


class Place(NamedTuple):
    """Where a sample stands in the run."""

    step: int
    slot: int
    sample: int
    visit: int
    """Its place among all of the run."""


class Share(NamedTuple):
    """Which part of each global batch a process reads, and in how many parts."""

    rank: int = 0
    ranks: int = 1
    parts: int = 1

    def places(self, order: Order, step: int) -> list[list[Place]]:
        """The places of this process at `step`, one list for each accumulation part."""
        samples = order.batch(step)
        return [
            [
                Place(step, slot, samples[slot], step * len(samples) + slot)
                for slot in slots_of(
                    self.rank,
                    part,
                    batch_size=len(samples),
                    ranks=self.ranks,
                    parts=self.parts,
                )
            ]
            for part in range(self.parts)
        ]


def slots_of(rank: int, part: int, *, batch_size: int, ranks: int, parts: int) -> range:
    """The slots of the global batch that `rank` fills in its accumulation part `part`.

    Together all ranks and parts fill each of the `batch_size` slots once.
    """
    size = batch_size // (ranks * parts)
    start = (part * ranks + rank) * size
    return range(start, start + size)
