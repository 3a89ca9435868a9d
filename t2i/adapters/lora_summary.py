"""What is in a LoRA file, for people."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from t2i.adapters.lora_arithmetic import length
from t2i.adapters.lora_layers import Lora, Low
from t2i.adapters.lora_writer import whole_number

TRUNK = re.compile(
    r"(?:(?:down|up)_blocks\.\d+\.|mid_block\.)?"
    r"(?:attentions|resnets|downsamplers|upsamplers)\.\d+\.(?:transformer_blocks\.\d+\.)?"
    r"|encoder\.layers\.\d+\."
)
"""Where in the model a module lies; what remains of its name says what it is."""


@dataclass(frozen=True, slots=True)
class PartFacts:
    """One part of a model, and what the LoRA changes in it.

    kinds : "lora", "dora", "loha", "lokr" -> how many layers
    ranks, alphas, modules : value -> how many layers; modules without their place in the model
    length : of all changes together (Frobenius), at scale 1
    largest : the module that is changed most, and the length of its change
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


def counted(values: Iterable[Value]) -> dict[Value, int]:
    """Each value and how often it stands, the commonest first."""
    return dict(Counter(values).most_common())


def facts_of(lora: Lora) -> list[PartFacts]:
    found = []
    for part, layers in lora.parts.items():
        lengths = {name: length(layer) for name, layer in layers.items()}
        largest = max(lengths, key=lengths.__getitem__)
        dora = {n: isinstance(x, Low) and x.magnitude is not None for n, x in layers.items()}
        found.append(
            PartFacts(
                part=part,
                layers=len(layers),
                parameters=sum(t.numel() for x in layers.values() for t in x.tensors().values()),
                kinds=counted("dora" if dora[n] else x.kind for n, x in layers.items()),
                ranks=counted(layer.rank for layer in layers.values()),
                alphas=counted(whole_number(round(x.alpha, 6)) for x in layers.values()),
                modules=counted(TRUNK.sub("", name) for name in layers),
                length=sum(value**2 for value in lengths.values()) ** 0.5,
                largest=(largest, lengths[largest]),
            )
        )
    return found
