"""Edit plan: the changes that the edits of a session make to one attention call.

B batch rows, N heads, Q query positions, K key positions, T text tokens, E width of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from t2i.attention.compute.device_tensors import DeviceTensorCache
from t2i.errors import ArgumentError
from t2i.terminal import plural

TensorNames = Literal["qkv", "qk", "kv", "q", "k", "v"]
MapFunction = Callable[[Tensor], Tensor]
"""(N, Q, K) probabilities of one row, float32 -> the same shape."""


@dataclass(frozen=True, slots=True)
class RowCopy:
    """Copy of some heads' queries, keys or values from batch row `source` to batch row `row`, as
    one entry of an attention edit plan.
    """

    tensors: TensorNames
    row: int
    source: int
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class SharedKeys:
    """Keys and values of batch row `source` that another row attends to beside its own.

    score_offset : added to the scores of these keys before the softmax
    normalise : True if the row's queries and keys get the statistics of the source's (AdaIN)
    heads : heads that attend to them; None for all
    """

    source: int
    score_offset: float = 0.0
    normalise: bool = True
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class ProbabilityMix:
    """Linear change of a row's attention map: P' = P_source A + P B over the text tokens.

    source : batch row of P_source; None where A is absent
    columns : A, (1 or N, T, T), or None
    kept : the diagonal of the diagonal matrix B, (1 or N, T)
    """

    source: int | None
    columns: Tensor | None
    kept: Tensor
    device_tensors: DeviceTensorCache

    @property
    def discards_own_map(self) -> bool:
        """True if the row's own attention map is replaced by the source's entirely: in P' =
        P_source A + P B, B is zero.
        """
        return self.columns is not None and not self.kept.any()

    def scale_values_for_own_map(self, value_NTE: Tensor) -> Tensor:
        """Return B V: the values (N, T, E) to be weighted by the row's own attention map P, in
        P' V = P_source (A V) + P (B V).
        """
        wide_NTE = upcast_to_float32(value_NTE)
        return (wide_NTE * self.device_tensors.to(self.kept, wide_NTE).unsqueeze(-1)).to(value_NTE)

    def compute_values_for_source_map(self, value_NTE: Tensor) -> Tensor:
        """Return A V: the values (N, T, E) to be weighted by the source's attention map P_source,
        in P' V = P_source (A V) + P (B V).
        """
        assert self.columns is not None
        wide_NTE = upcast_to_float32(value_NTE)
        return (self.device_tensors.to(self.columns, wide_NTE) @ wide_NTE).to(value_NTE)


@dataclass(slots=True)
class EditPlan:
    """Changes that edits make to one attention call, by batch row; an empty plan changes nothing.

    Row copies come first, then shared keys, then biases, then mixes, then functions.
    """

    row_copies: list[RowCopy] = field(default_factory=list)
    shared_keys: dict[int, SharedKeys] = field(default_factory=dict)
    """Row -> keys of another row that it attends to beside its own, in self-attention."""
    biases: dict[int, Tensor] = field(default_factory=dict)
    """Row -> bias added to its scores before the softmax, (1 or N, 1 or Q, K) float32."""
    mixes: dict[int, ProbabilityMix] = field(default_factory=dict)
    functions: dict[int, list[MapFunction]] = field(default_factory=dict)
    device_tensors: DeviceTensorCache = field(
        default_factory=DeviceTensorCache, repr=False, compare=False
    )

    def __bool__(self) -> bool:
        return bool(
            self.row_copies or self.shared_keys or self.biases or self.mixes or self.functions
        )

    def add_row_copies(
        self,
        tensors: TensorNames,
        rows: Sequence[int],
        sources: Sequence[int],
        heads: tuple[int, ...] | None = None,
    ) -> None:
        """Add to the edit plan copies of queries, keys or values from the batch rows `sources` to
        the batch rows `rows`, one for one.
        """
        self.row_copies += [
            RowCopy(tensors, row, source, heads) for row, source in zip(rows, sources, strict=True)
        ]

    def add_shared_keys(
        self,
        rows: Sequence[int],
        sources: Sequence[int],
        *,
        score_offset: float = 0.0,
        normalise: bool = True,
        heads: tuple[int, ...] | None = None,
    ) -> None:
        """Let `rows` attend to the keys and values of the rows `sources` too, one for one; see
        SharedKeys.

        Raises ArgumentError where an earlier edit lets one of the rows share keys.
        """
        for row, source in zip(rows, sources, strict=True):
            if row in self.shared_keys:
                raise ArgumentError(
                    f"Two edits let row {row} attend to the keys of other rows, "
                    f"{self.shared_keys[row].source} and {source}: a target shares the keys of one "
                    "source at a time. Give them steps or sites that do not overlap, or two "
                    "targets."
                )
            self.shared_keys[row] = SharedKeys(source, score_offset, normalise, heads)

    def add_bias(self, rows: Sequence[int], bias_NQK: Tensor) -> None:
        """Add to the edit plan a bias (1 or N, 1 or Q, K) on the attention scores of some batch
        rows, before the softmax.
        """
        for row in rows:
            before = self.biases.get(row)
            self.biases[row] = bias_NQK if before is None else self._sum(before, bias_NQK)

    def _sum(self, before: Tensor, more: Tensor) -> Tensor:
        return self.device_tensors.get_or_compute("sum", before, more, make=lambda: before + more)

    def bias_for_row(self, row: int | None, like: Tensor) -> Tensor | None:
        """Return the bias that the edit plan adds to the attention scores of a batch row, on the
        device and in the dtype of `like`; None if there is none.
        """
        bias_NQK = None if row is None else self.biases.get(row)
        return None if bias_NQK is None else self.device_tensors.to(bias_NQK, like)

    def add_mix(
        self,
        rows: Sequence[int],
        sources: Sequence[int] | None,
        columns_NTT: Tensor | None,
        kept_NT: Tensor,
    ) -> None:
        """Add to the edit plan a linear change of some batch rows' attention maps: each map P, as
        left by earlier edits, becomes P_source A + P B.

        columns_NTT, kept_NT : A and the diagonal of B, see ProbabilityMix
        Raises ArgumentError where an earlier edit mixed in the map of another source.
        """
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
                    "not overlap, or two targets."
                )
            other = before.source if source is None else source
            columns, kept = self._chain(before, columns_NTT, kept_NT)
            self.mixes[row] = ProbabilityMix(other, columns, kept, self.device_tensors)

    def _chain(
        self, before: ProbabilityMix, columns_NTT: Tensor | None, kept_NT: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """Return A D + C and B D, since P_s C + (P_s A + P B) D = P_s (A D + C) + P (B D)."""

        def columns() -> Tensor:
            assert before.columns is not None
            left_NTT = before.columns * kept_NT.unsqueeze(-2)
            return left_NTT if columns_NTT is None else left_NTT + columns_NTT

        def kept() -> Tensor:
            return before.kept * kept_NT

        columns_of_both = columns_NTT
        if before.columns is not None:
            columns_of_both = self.device_tensors.get_or_compute(
                "A", before.columns, kept_NT, columns_NTT, make=columns
            )
        return columns_of_both, self.device_tensors.get_or_compute(
            "B", before.kept, kept_NT, make=kept
        )

    def is_source_mixed_into_row(self, source: int, row: int) -> bool:
        """Return True if an earlier edit mixed the attention map of batch row `source` into that
        of `row`.
        """
        return row in self.mixes and self.mixes[row].source == source

    def add_map_function(self, rows: Sequence[int], function: MapFunction) -> None:
        """Add to the edit plan a function whose result replaces the attention maps of some batch
        rows.
        """
        for row in rows:
            self.functions.setdefault(row, []).append(function)

    @property
    def kernel_description(self) -> str:
        """Description of the attention kernels that compute a call's output under this edit plan,
        such as "fused, with a mask".
        """
        if not self:
            return "fused"
        if self.functions:
            return f"explicit in {plural(len(self.functions), 'row')}"
        ways = ["fused"]
        if self.shared_keys:
            ways.append(f"with shared keys in {plural(len(self.shared_keys), 'row')}")
        if self.biases:
            ways.append("with a mask")
        twice = sum(
            mix.columns is not None and not mix.discards_own_map for mix in self.mixes.values()
        )
        if twice:
            ways.append(f"twice in {plural(twice, 'row')}")
        return ", ".join(ways)


def upcast_to_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or unchanged if it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
