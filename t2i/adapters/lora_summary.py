"""A summary of a LoRA file: layers, ranks, alphas and norms of each model part."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from t2i.adapters.lora_arithmetic import compute_update_norm
from t2i.adapters.lora_layers import Lora, LowRankUpdate

BLOCK_PATH = re.compile(
    r"(?:(?:down|up)_blocks\.\d+\.|mid_block\.)?"
    r"(?:attentions|resnets|downsamplers|upsamplers)\.\d+\.(?:transformer_blocks\.\d+\.)?"
    r"|encoder\.layers\.\d+\."
)
"""The blocks in a module's name; the remainder is the kind of module."""


@dataclass(frozen=True, slots=True)
class PartSummary:
    """Summary of a LoRA's layers in one model part: counts, ranks, alphas and norms.

    kinds : "lora", "dora", "loha", "lokr" -> number of layers
    ranks, alphas, modules : value -> number of layers; modules without their blocks
    length : Frobenius norm of all updates together, at scale 1
    largest : the module with the largest update, and the norm of that update
    """

    part: str
    layers: int
    parameters: int
    kinds: Mapping[str, int]
    ranks: Mapping[int, int]
    alphas: Mapping[int | float, int]
    modules: Mapping[str, int]
    length: float
    largest: tuple[str, float]


Value = TypeVar("Value", str, int, float)
Number = TypeVar("Number", int, int | float)


def count_occurrences(values: Iterable[Value]) -> dict[Value, int]:
    """Count how often each value occurs: value -> number of occurrences, most frequent first."""
    return dict(Counter(values).most_common())


def summarize_lora(lora: Lora) -> list[PartSummary]:
    """Summarize a LoRA file: return layer counts, ranks, alphas and norms for each model part that
    it changes.
    """
    summaries = []
    for part, layers in lora.parts.items():
        norms = {name: compute_update_norm(layer) for name, layer in layers.items()}
        largest = max(norms, key=norms.__getitem__)
        dora = {
            n: isinstance(x, LowRankUpdate) and x.magnitude is not None for n, x in layers.items()
        }
        summaries.append(
            PartSummary(
                part=part,
                layers=len(layers),
                parameters=sum(
                    t.numel() for x in layers.values() for t in x.named_tensors().values()
                ),
                kinds=count_occurrences("dora" if dora[n] else x.kind for n, x in layers.items()),
                ranks=count_occurrences(layer.rank for layer in layers.values()),
                alphas=count_occurrences(int_if_whole(round(x.alpha, 6)) for x in layers.values()),
                modules=count_occurrences(BLOCK_PATH.sub("", name) for name in layers),
                length=sum(value**2 for value in norms.values()) ** 0.5,
                largest=(largest, norms[largest]),
            )
        )
    return summaries


def find_most_common_mapped_value(values: Mapping[str, Number]) -> Number:
    """Return the most frequent of a mapping's values; of several equally frequent ones the
    largest.
    """
    counts = Counter(values.values())
    return max(counts, key=lambda value: (counts[value], value))


def int_if_whole(value: float) -> int | float:
    """Return a number as an int if it is whole, else unchanged."""
    return int(value) if value == int(value) else value
