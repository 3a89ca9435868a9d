"""What the edits want of one call of attention, in the order they said it.

B batch rows, N heads, Q query positions, K key positions, T text tokens, E width of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from t2i.attention.compute.device_tensors import DeviceTensors
from t2i.errors import ArgumentError
from t2i.terminal import several

Parts = Literal["qk", "kv", "q", "k", "v"]
MapFunction = Callable[[Tensor], Tensor]
"""(N, Q, K) probabilities of one row, float32 -> the same shape."""


@dataclass(frozen=True, slots=True)
class RowCopy:
    """A row asks with, or looks at, what belongs to another row."""

    parts: Parts
    row: int
    source: int
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class ProbabilityMix:
    """P' = P_source A + P B over the columns of the text, B diagonal.

    columns : A, (1 or N, T, T)
    kept : the diagonal of B, (1 or N, T)
    """

    source: int | None
    columns: Tensor | None
    kept: Tensor
    device_tensors: DeviceTensors

    @property
    def replaces_own(self) -> bool:
        """Whether nothing is left of the row's own map."""
        return self.columns is not None and not self.kept.any()

    def mix_own_values(self, value_NTE: Tensor) -> Tensor:
        """B V, in the values' own dtype."""
        wide_NTE = upcast(value_NTE)
        return (wide_NTE * self.device_tensors.to(self.kept, wide_NTE).unsqueeze(-1)).to(value_NTE)

    def mix_source_values(self, value_NTE: Tensor) -> Tensor:
        """A V."""
        assert self.columns is not None
        wide_NTE = upcast(value_NTE)
        return (self.device_tensors.to(self.columns, wide_NTE) @ wide_NTE).to(value_NTE)


@dataclass(slots=True)
class EditPlan:
    """Empty at first, and then the call is answered by the plain kernel."""

    row_copies: list[RowCopy] = field(default_factory=list)
    biases: dict[int, Tensor] = field(default_factory=dict)
    """Row -> what is added to its scores, (1 or N, 1 or Q, K) float32."""
    mixes: dict[int, ProbabilityMix] = field(default_factory=dict)
    functions: dict[int, list[MapFunction]] = field(default_factory=dict)
    device_tensors: DeviceTensors = field(default_factory=DeviceTensors, repr=False, compare=False)

    def __bool__(self) -> bool:
        return bool(self.row_copies or self.biases or self.mixes or self.functions)

    def copy_rows(
        self,
        parts: Parts,
        rows: Sequence[int],
        sources: Sequence[int],
        heads: tuple[int, ...] | None = None,
    ) -> None:
        """These rows use the queries, keys or values of those."""
        self.row_copies += [
            RowCopy(parts, row, source, heads) for row, source in zip(rows, sources, strict=True)
        ]

    def add_bias(self, rows: Sequence[int], bias_NQK: Tensor) -> None:
        """Add to the scores of these rows, before the softmax."""
        for row in rows:
            before = self.biases.get(row)
            self.biases[row] = bias_NQK if before is None else self._sum(before, bias_NQK)

    def _sum(self, before: Tensor, more: Tensor) -> Tensor:
        return self.device_tensors.chained("sum", before, more, make=lambda: before + more)

    def bias_at(self, row: int | None, like: Tensor) -> Tensor | None:
        """What is added to the row's scores, on the device and in the precision of `like`."""
        bias_NQK = None if row is None else self.biases.get(row)
        return None if bias_NQK is None else self.device_tensors.to(bias_NQK, like)

    def add_mix(
        self,
        rows: Sequence[int],
        sources: Sequence[int] | None,
        columns_NTT: Tensor | None,
        kept_NT: Tensor,
    ) -> None:
        """Each row's map becomes P_source A + P B, where P is what the edits before made of it."""
        for number, row in enumerate(rows):
            source = None if sources is None else sources[number]
            before = self.mixes.get(row)
            if before is None:
                self.mixes[row] = ProbabilityMix(source, columns_NTT, kept_NT, self.device_tensors)
                continue
            if source is not None and before.source not in (None, source):
                raise ArgumentError(
                    f"Two edits give row {row} the maps of different rows, {before.source} and "
                    f"{source}: a target follows one source at a time. Give them steps that do "
                    "not meet, or two targets."
                )
            other = before.source if source is None else source
            columns, kept = self._chain(before, columns_NTT, kept_NT)
            self.mixes[row] = ProbabilityMix(other, columns, kept, self.device_tensors)

    def _chain(
        self, before: ProbabilityMix, columns_NTT: Tensor | None, kept_NT: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """P_source C + (P_source A + P B) D is P_source (A D + C) + P (B D)."""

        def columns() -> Tensor:
            assert before.columns is not None
            left_NTT = before.columns * kept_NT.unsqueeze(-2)
            return left_NTT if columns_NTT is None else left_NTT + columns_NTT

        def kept() -> Tensor:
            return before.kept * kept_NT

        taken = columns_NTT
        if before.columns is not None:
            taken = self.device_tensors.chained(
                "A", before.columns, kept_NT, columns_NTT, make=columns
            )
        return taken, self.device_tensors.chained("B", before.kept, kept_NT, make=kept)

    def has_mix_from(self, row: int, source: int) -> bool:
        """Whether an edit before took the row's map from this source."""
        return row in self.mixes and self.mixes[row].source == source

    def add_function(self, rows: Sequence[int], function: MapFunction) -> None:
        """The rows' maps are computed, and replaced by what `function` makes of them."""
        for row in rows:
            self.functions.setdefault(row, []).append(function)

    @property
    def kernel_description(self) -> str:
        """What computes the output, in words."""
        if not self:
            return "fused"
        if self.functions:
            return f"explicit in {several(len(self.functions), 'row')}"
        ways = ["fused"]
        if self.biases:
            ways.append("with a mask")
        twice = sum(
            add_mix.columns is not None and not add_mix.replaces_own
            for add_mix in self.mixes.values()
        )
        if twice:
            ways.append(f"twice in {several(twice, 'row')}")
        return ", ".join(ways)


def upcast(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
