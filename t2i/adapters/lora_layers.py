"""What a LoRA file adds to the weights of a model: a factored change for each module.

A module is named as diffusers names it inside its part of the model, without the "text_model." that
versions of transformers put before the names of a text encoder or leave out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

PARTS = ("unet", "text_encoder", "text_encoder_2")
Kind = Literal["lora", "loha", "lokr"]


@dataclass(frozen=True, slots=True)
class Low:
    """Two low-rank factors (LoRA, Hu et al. 2021): alpha / rank * up @ down.

    down : (rank, in) or (rank, in, height, width) of a convolution
    up : (out, rank) or (out, rank, 1, 1)
    magnitude : (out,), the length of each row of the changed weight (DoRA, Liu et al. 2024)
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None

    @property
    def kind(self) -> Kind:
        return "lora"

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def tensors(self) -> Mapping[str, Tensor]:
        found = {"down": self.down, "up": self.up}
        return found if self.magnitude is None else found | {"magnitude": self.magnitude}

    def misshapen(self) -> str:
        """What is wrong with the shapes, or ""."""
        down, up = tuple(self.down.shape), tuple(self.up.shape)
        if len(down) not in (2, 4) or len(up) not in (2, 4) or up[1] != down[0] or 0 in down + up:
            return f"down is {list(down)} and up {list(up)}, expected [rank, in] and [out, rank]"
        if up[2:] not in ((), (1, 1)):
            return f"up is {list(up)}, expected [out, rank, 1, 1]"
        if self.magnitude is not None and tuple(self.magnitude.shape) != up[:1]:
            return f"the magnitude is {list(self.magnitude.shape)}, expected {list(up[:1])}"
        return ""

    def product(self) -> Tensor:
        """(out, in * height * width), in float32 or finer."""
        kind = finer(self.up.dtype)
        return self.scale * (self.up.to(kind).flatten(1) @ self.down.to(kind).flatten(1))


@dataclass(frozen=True, slots=True)
class Hadamard:
    """The elementwise product of two low-rank matrices (LoHa, Hyeon-Woo et al. 2022).

    factors : w1_a, w1_b, w2_a, w2_b; where a convolution keeps its kernel apart, also t1, t2
    """

    factors: Mapping[str, Tensor]
    alpha: float

    @property
    def kind(self) -> Kind:
        return "loha"

    @property
    def rank(self) -> int:
        return self.factors["w1_b"].shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def tensors(self) -> Mapping[str, Tensor]:
        return {f"hada_{name}": factor for name, factor in self.factors.items()}

    def misshapen(self) -> str:
        return misfit(self, ("w1_a", "w1_b", "w2_a", "w2_b"), {"t1", "t2"})

    def product(self) -> Tensor:
        """(out, in * height * width), in float32 or finer."""
        get = {name: factor.to(finer(factor.dtype)) for name, factor in self.factors.items()}
        if "t1" in get:
            one = tucker(get["t1"], get["w1_a"], get["w1_b"])
            two = tucker(get["t2"], get["w2_a"], get["w2_b"])
        else:
            one, two = get["w1_a"] @ get["w1_b"], get["w2_a"] @ get["w2_b"]
        return self.scale * (one * two).flatten(1)


@dataclass(frozen=True, slots=True)
class Kronecker:
    """The Kronecker product of a small and a large matrix (LoKr, Yeh et al. 2023).

    factors : w1 or w1_a and w1_b; w2, or w2_a and w2_b, with t2 where a convolution keeps its
        kernel apart. Where neither is factored there is no rank, and alpha counts for nothing.
    """

    factors: Mapping[str, Tensor]
    alpha: float

    @property
    def kind(self) -> Kind:
        return "lokr"

    @property
    def rank(self) -> int:
        """Of the factors; 1 where none is factored."""
        for name in ("w2_b", "w1_b"):
            if name in self.factors:
                return self.factors[name].shape[0]
        return 1

    @property
    def scale(self) -> float:
        return 1.0 if {"w1", "w2"} <= self.factors.keys() else self.alpha / self.rank

    def tensors(self) -> Mapping[str, Tensor]:
        return {f"lokr_{name}": factor for name, factor in self.factors.items()}

    def misshapen(self) -> str:
        first = ("w1",) if "w1" in self.factors else ("w1_a", "w1_b")
        second = ("w2",) if "w2" in self.factors else ("w2_a", "w2_b")
        return misfit(self, first + second, set() if "w2" in self.factors else {"t2"})

    def product(self) -> Tensor:
        """(out, in * height * width), in float32 or finer."""
        get = {name: factor.to(finer(factor.dtype)) for name, factor in self.factors.items()}
        one = get["w1"] if "w1" in get else get["w1_a"] @ get["w1_b"]
        if "w2" in get:
            two = get["w2"]
        elif "t2" in get:
            two = tucker(get["t2"], get["w2_a"], get["w2_b"])
        else:
            two = get["w2_a"] @ get["w2_b"]
        if two.dim() == 4:
            return self.scale * torch.kron(one[:, :, None, None], two.contiguous()).flatten(1)
        return self.scale * torch.kron(one, two)


def scaled_as_peft(factors: Mapping[str, Tensor], alpha: float, rank: float) -> Kronecker:
    """The same of peft's, which scales by alpha / rank what is not factored too; in files of others
    that counts as it is."""
    layer = Kronecker(factors, alpha)
    if layer.scale == alpha / rank:
        return layer
    name = "w1" if "w1" in factors else "w1_b"
    factor = factors[name] * (alpha / rank / layer.scale)
    return Kronecker({**factors, name: factor}, alpha)


Layer = Low | Hadamard | Kronecker


@dataclass(frozen=True, slots=True)
class Lora:
    """Changes to the parts of a model.

    parts : name among PARTS -> name of a module -> its change
    header : what the file says of itself beside its tensors
    """

    parts: Mapping[str, Mapping[str, Layer]]
    header: Mapping[str, str] = field(default_factory=dict)

    def layers(self) -> Iterator[tuple[str, str, Layer]]:
        """Part, module and change, one after the other."""
        for part, layers in self.parts.items():
            for name, layer in layers.items():
                yield part, name, layer

    @property
    def kinds(self) -> set[Kind]:
        return {layer.kind for _, _, layer in self.layers()}


def finer(kind: torch.dtype) -> torch.dtype:
    """In which to reckon with tensors of a type."""
    return torch.promote_types(kind, torch.float32) if kind.itemsize > 1 else torch.float32


def tucker(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(rank, rank, height, width) x (rank, out) x (rank, in) -> (out, in, height, width)."""
    return torch.einsum("ijkl,ip,jr->prkl", core, a, b)


def misfit(layer: Hadamard | Kronecker, needed: tuple[str, ...], possible: set[str]) -> str:
    """What is wrong with the factors, or "": missing, superfluous, or not to be multiplied."""
    names = layer.factors.keys()
    if missing := set(needed) - names:
        return f"{min(missing)} is missing"
    if surplus := names - set(needed) - possible:
        return f"{min(surplus)} was not expected beside {', '.join(needed)}"
    if possible == {"t1", "t2"} and len(names & possible) == 1:
        return "one of t1 and t2 is missing"
    shapes = ", ".join(f"{name} {list(layer.factors[name].shape)}" for name in sorted(names))
    if any(0 in factor.shape or factor.dim() < 2 for factor in layer.factors.values()):
        return f"the factors are {shapes}"
    try:
        meta = {
            name: torch.empty(factor.shape, device="meta") for name, factor in layer.factors.items()
        }
        type(layer)(meta, layer.alpha).product()
    except RuntimeError:
        return f"the factors {shapes} cannot be multiplied"
    return ""
