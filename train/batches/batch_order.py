"""The order of training examples in a run: each step's global batch, and each process's share."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from t2i.randomness import derive_generator


class BatchOrder:
    """Order in which a run reads its training examples: which of them are in the global batch of
    each step, as a function of the seed and the step alone.

    A batch has examples of one group, such as pictures of one shape. Each pass through a group is
    a fresh permutation, and passes follow one another without a gap: no example is dropped, and
    one is twice in a batch only where the group is smaller. In every round of `steps_per_epoch`
    steps a group of n examples gets ceil(n / batch_size) batches, in an order of the round's own.
    """

    def __init__(self, groups: Sequence[Sequence[int]], batch_size: int, seed: int) -> None:
        self.groups = [group for group in groups if len(group)]
        self.batch_size, self.seed = batch_size, seed
        self._turns = [-(-len(group) // batch_size) for group in self.groups]
        self._round, self._schedule = -1, torch.empty(0, dtype=torch.int64)
        self._passes: dict[int, tuple[int, torch.Tensor]] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps of a round, in which every group of examples gets all of its batches
        once.
        """
        return sum(self._turns)

    def list_example_indices(self, step: int) -> list[int]:
        """Return the indices of the training examples in the global batch of `step`, in its
        order.
        """
        group, turn = self._turn(step)
        positions = range(turn * self.batch_size, (turn + 1) * self.batch_size)
        return [self._example_index(group, position) for position in positions]

    def _turn(self, step: int) -> tuple[int, int]:
        """Return the group of a step, and how many batches that group had before."""
        number, position = divmod(step, self.steps_per_epoch)
        if number != self._round:
            turns = torch.arange(len(self.groups)).repeat_interleave(torch.tensor(self._turns))
            drawn = derive_generator(self.seed, number, "round")
            self._schedule = turns[torch.randperm(self.steps_per_epoch, generator=drawn)]
            self._round = number
        group = int(self._schedule[position])
        before = int((self._schedule[:position] == group).sum())
        return group, number * self._turns[group] + before

    def _example_index(self, group: int, position: int) -> int:
        members = self.groups[group]
        again, position = divmod(position, len(members))
        if self._passes.get(group, (-1,))[0] != again:
            drawn = derive_generator(self.seed, again, "order", group)
            self._passes[group] = again, torch.randperm(len(members), generator=drawn)
        return members[int(self._passes[group][1][position])]


class SlotAssignment(NamedTuple):
    """Assignment of a training example to one slot (position) of the global batch of one step.

    example_index : index of the example in the data set
    visit : number of the slot among all slots of the run
    """

    step: int
    slot: int
    example_index: int
    visit: int


class ProcessShare(NamedTuple):
    """Part of each global batch that one process computes, in one or several micro-batches."""

    rank: int = 0
    ranks: int = 1
    parts: int = 1

    def list_micro_batches(self, order: BatchOrder, step: int) -> list[list[SlotAssignment]]:
        """Return the training examples that this process computes at `step`, one list for each
        micro-batch.
        """
        indices = order.list_example_indices(step)
        return [
            [
                SlotAssignment(step, slot, indices[slot], step * len(indices) + slot)
                for slot in list_slots_of_micro_batch(
                    self.rank,
                    part,
                    batch_size=len(indices),
                    ranks=self.ranks,
                    parts=self.parts,
                )
            ]
            for part in range(self.parts)
        ]


def list_slots_of_micro_batch(
    rank: int, part: int, *, batch_size: int, ranks: int, parts: int
) -> range:
    """Return the positions in the global batch that process `rank` computes in its micro-batch
    `part`.

    Together all ranks and parts have each of the `batch_size` slots once.
    """
    size = batch_size // (ranks * parts)
    start = (part * ranks + rank) * size
    return range(start, start + size)
