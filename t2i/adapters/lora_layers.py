"""LoRA, LoHa and LoKr weight updates, and the collection of them that a file holds.

Modules have the names that diffusers gives them inside their part of the model, without the
"text_model." prefix of some versions of transformers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

MODEL_PARTS = ("unet", "text_encoder", "text_encoder_2")
LayerKind = Literal["lora", "loha", "lokr"]


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """A low-rank weight update (LoRA, Hu et al. 2021): alpha / rank * up @ down.

    down : (rank, in) or (rank, in, height, width) of a convolution
    up : (out, rank) or (out, rank, 1, 1)
    magnitude : (out,), the norm of each row of the updated weight (DoRA, Liu et al. 2024)
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None

    @property
    def kind(self) -> LayerKind:
        """Kind of the LoRA layer, one of lora, loha and lokr: always "lora"."""
        return "lora"

    @property
    def rank(self) -> int:
        """Rank of a LoRA layer's weight update: the number of columns of `up`."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """Factor alpha / rank by which a LoRA layer's product up @ down is multiplied."""
        return self.alpha / self.rank

    def named_tensors(self) -> Mapping[str, Tensor]:
        """Return the LoRA factors `down`, `up` and, for DoRA, `magnitude` by these names."""
        factors = {"down": self.down, "up": self.up}
        return factors if self.magnitude is None else factors | {"magnitude": self.magnitude}

    def describe_inconsistent_shapes(self) -> str | None:
        """Describe the first fault in the shapes of a LoRA's down, up and magnitude, for an error
        message; return None if there is none.
        """
        down, up = tuple(self.down.shape), tuple(self.up.shape)
        if len(down) not in (2, 4) or len(up) not in (2, 4) or up[1] != down[0] or 0 in down + up:
            return f"down is {list(down)} and up {list(up)}, expected [rank, in] and [out, rank]"
        if up[2:] not in ((), (1, 1)):
            return f"up is {list(up)}, expected [out, rank, 1, 1]"
        if self.magnitude is not None and tuple(self.magnitude.shape) != up[:1]:
            return f"the magnitude is {list(self.magnitude.shape)}, expected {list(up[:1])}"
        return None

    def build_matrix(self) -> Tensor:
        """Compute a LoRA's weight update scale * up @ down as a matrix (out, in * height * width),
        in float32 or finer.
        """
        kind = choose_compute_dtype(self.up.dtype)
        return self.scale * (self.up.to(kind).flatten(1) @ self.down.to(kind).flatten(1))


@dataclass(frozen=True, slots=True)
class HadamardUpdate:
    """LoHa weight update: the elementwise product of two low-rank matrices (Hyeon-Woo et al. 2022).

    factors : w1_a, w1_b, w2_a, w2_b; for a convolution with a Tucker core also t1, t2
    """

    factors: Mapping[str, Tensor]
    alpha: float

    @property
    def kind(self) -> LayerKind:
        """Kind of the LoRA layer, one of lora, loha and lokr: always "loha"."""
        return "loha"

    @property
    def rank(self) -> int:
        """Rank of each of the two low-rank matrices that a LoHa layer multiplies elementwise."""
        return self.factors["w1_b"].shape[0]

    @property
    def scale(self) -> float:
        """Factor alpha / rank by which a LoHa layer's elementwise product is multiplied."""
        return self.alpha / self.rank

    def named_tensors(self) -> Mapping[str, Tensor]:
        """Return the LoHa factors by their names in lycoris files, such as "hada_w1_a"."""
        return {f"hada_{name}": factor for name, factor in self.factors.items()}

    def describe_inconsistent_shapes(self) -> str | None:
        """Describe the first missing or misshapen LoHa factor, or return None."""
        return describe_invalid_factors(self, ("w1_a", "w1_b", "w2_a", "w2_b"), {"t1", "t2"})

    def build_matrix(self) -> Tensor:
        """Compute a LoHa's scaled elementwise product as a matrix (out, in * height * width), in
        float32 or finer.
        """
        get = {
            name: factor.to(choose_compute_dtype(factor.dtype))
            for name, factor in self.factors.items()
        }
        if "t1" in get:
            one = contract_tucker_core(get["t1"], get["w1_a"], get["w1_b"])
            two = contract_tucker_core(get["t2"], get["w2_a"], get["w2_b"])
        else:
            one, two = get["w1_a"] @ get["w1_b"], get["w2_a"] @ get["w2_b"]
        return self.scale * (one * two).flatten(1)


@dataclass(frozen=True, slots=True)
class KroneckerUpdate:
    """LoKr weight update: the Kronecker product of a small and a large matrix (Yeh et al. 2023).

    factors : w1 or w1_a and w1_b; w2, or w2_a and w2_b, with t2 for a convolution with a
        Tucker core. Where neither matrix is factored there is no rank, and alpha is ignored.
    """

    factors: Mapping[str, Tensor]
    alpha: float

    @property
    def kind(self) -> LayerKind:
        """Kind of the LoRA layer, one of lora, loha and lokr: always "lokr"."""
        return "lokr"

    @property
    def rank(self) -> int:
        """Rank of a LoKr layer's factored matrix, or 1 where neither matrix is factored."""
        for name in ("w2_b", "w1_b"):
            if name in self.factors:
                return self.factors[name].shape[0]
        return 1

    @property
    def scale(self) -> float:
        """Factor alpha / rank by which a LoKr layer's Kronecker product is multiplied; 1 where
        neither matrix is factored.
        """
        return 1.0 if {"w1", "w2"} <= self.factors.keys() else self.alpha / self.rank

    def named_tensors(self) -> Mapping[str, Tensor]:
        """Return the LoKr factors by their names in lycoris files, such as "lokr_w1"."""
        return {f"lokr_{name}": factor for name, factor in self.factors.items()}

    def describe_inconsistent_shapes(self) -> str | None:
        """Describe the first missing or misshapen LoKr factor, or return None."""
        first = ("w1",) if "w1" in self.factors else ("w1_a", "w1_b")
        second = ("w2",) if "w2" in self.factors else ("w2_a", "w2_b")
        return describe_invalid_factors(
            self, first + second, set() if "w2" in self.factors else {"t2"}
        )

    def build_matrix(self) -> Tensor:
        """Compute a LoKr's scaled Kronecker product as a matrix (out, in * height * width), in
        float32 or finer.
        """
        get = {
            name: factor.to(choose_compute_dtype(factor.dtype))
            for name, factor in self.factors.items()
        }
        one = get["w1"] if "w1" in get else get["w1_a"] @ get["w1_b"]
        if "w2" in get:
            two = get["w2"]
        elif "t2" in get:
            two = contract_tucker_core(get["t2"], get["w2_a"], get["w2_b"])
        else:
            two = get["w2_a"] @ get["w2_b"]
        if two.dim() == 4:
            return self.scale * torch.kron(one[:, :, None, None], two.contiguous()).flatten(1)
        return self.scale * torch.kron(one, two)


def convert_peft_kronecker(
    factors: Mapping[str, Tensor], alpha: float, rank: float
) -> KroneckerUpdate:
    """Convert the factors of a LoKr layer in peft to a KroneckerUpdate of the same effect: peft
    scales by alpha / rank also where neither matrix is factored.

    Other programs leave those unscaled; the difference goes into the first factor.
    """
    layer = KroneckerUpdate(factors, alpha)
    if layer.scale == alpha / rank:
        return layer
    name = "w1" if "w1" in factors else "w1_b"
    factor = factors[name] * (alpha / rank / layer.scale)
    return KroneckerUpdate({**factors, name: factor}, alpha)


WeightUpdate = LowRankUpdate | HadamardUpdate | KroneckerUpdate


@dataclass(frozen=True, slots=True)
class Lora:
    """Weight updates of one LoRA file, by model part and module.

    parts : name among MODEL_PARTS -> name of a module -> its update
    header : metadata of the safetensors file
    """

    parts: Mapping[str, Mapping[str, WeightUpdate]]
    header: Mapping[str, str] = field(default_factory=dict)

    def iter_layers(self) -> Iterator[tuple[str, str, WeightUpdate]]:
        """Iterate over (model part, module name, weight update) of every layer."""
        for part, layers in self.parts.items():
            for name, layer in layers.items():
                yield part, name, layer

    @property
    def kinds(self) -> set[LayerKind]:
        """Kinds of the layers in the LoRA file: some of lora, loha and lokr."""
        return {layer.kind for _, _, layer in self.iter_layers()}


def choose_compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which to compute a weight update: float32, or the tensor's own dtype if
    finer.
    """
    return torch.promote_types(dtype, torch.float32) if dtype.itemsize > 1 else torch.float32


def contract_tucker_core(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Multiply the Tucker factors of a convolution, core (rank, rank, height, width), a (rank, out)
    and b (rank, in), to a weight (out, in, height, width).
    """
    return torch.einsum("ijkl,ip,jr->prkl", core, a, b)


def describe_invalid_factors(
    layer: HadamardUpdate | KroneckerUpdate, needed: tuple[str, ...], possible: set[str]
) -> str | None:
    """Describe the first fault in the factors of a LoHa or LoKr: missing, unexpected or misshapen;
    return None if there is none.
    """
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
        type(layer)(meta, layer.alpha).build_matrix()
    except RuntimeError:
        return f"the factors {shapes} cannot be multiplied"
    return None
