"""Sums with LoRAs: into the weights of a model, out of the difference of two, at another rank."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from t2i.adapters.lora_layers import Layer, Lora, Low, finer
from t2i.adapters.module_names import plain, shown
from t2i.adapters.peft_layers import Models, base_of, matched
from t2i.errors import ArgumentError, ModelError

NEGLIGIBLE = 1e-12
"""Of a weight's squared length: what no precision of files tells from nothing."""
WIDE = ("conv1", "conv2", "conv", "conv_in", "conv_out")
"""Convolutions of a UNet whose kernels are 3 x 3."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A LoRA that stands for something else.

    kept : the share of the squared length of all changes that it holds
    left : names of tensors that differ, and that no LoRA changes
    """

    lora: Lora
    kept: float
    left: tuple[str, ...] = ()


@torch.no_grad()
def merge(models: Mapping[str, nn.Module | None], lora: Lora, scale: float = 1.0) -> None:
    """Add the changes to the weights themselves, so that the models draw as with the LoRA on them.

    Raises ModelError, leaving the models as they were, where they do not fit.
    """
    found = {part: matched(part, models.get(part), layers) for part, layers in lora.parts.items()}
    for part, (model, layers) in found.items():
        for name, layer in layers.items():
            weight = base_of(part, name, model.get_submodule(name)).weight
            weight.copy_(check_numbers(changed(weight, layer, scale).to(weight.dtype), name))


def changed(weight: Tensor, layer: Layer, scale: float) -> Tensor:
    """The weight under a change, in float32 or finer; DoRA as peft reckons it."""
    kind = finer(weight.dtype)
    product = layer.product().to(device=weight.device, dtype=kind)
    result = weight.to(kind) + scale * product.reshape(weight.shape)
    if isinstance(layer, Low) and layer.magnitude is not None:
        # Equation 5 of DoRA: the direction of each row from the sum, its length by itself.
        lengths = torch.linalg.vector_norm(result.flatten(1), dim=1)
        factor = layer.magnitude.to(device=weight.device, dtype=kind) / lengths
        result = result * factor.reshape(-1, *[1] * (weight.dim() - 1))
    return result


@torch.no_grad()
def extract(
    before: Models, after: Models, *, rank: int | None = None, share: float | None = None
) -> Fit:
    """The LoRA that turns `before` into `after`, as nearly as its rank allows (Eckart and Young).

    rank : of each layer at most
    share : of a layer's squared length that is kept, with as low a rank as does
    """
    check_wish(rank, share)
    parts: dict[str, dict[str, Layer]] = {}
    left: list[str] = []
    sums = Sums()
    for part, model in after.items():
        if part not in before:
            raise ModelError(f"One of the models has a {part} and the other has none.")
        old = dict(before[part].named_parameters())
        new = dict(model.named_parameters())
        if old.keys() != new.keys():
            raise ModelError(f"The models differ in more than the weights of their {part}.")
        for name, tensor in new.items():
            if tensor.shape != old[name].shape:
                raise ModelError(
                    f"{part}.{name} is {list(old[name].shape)} in one and {list(tensor.shape)} in "
                    "the other: expected models of one kind."
                )
            kind = finer(tensor.dtype)
            change = tensor.to(kind) - old[name].to(kind)
            if change.square().sum() <= NEGLIGIBLE * tensor.to(kind).square().sum():
                continue
            module, _, field = name.rpartition(".")
            if field != "weight" or not isinstance(
                model.get_submodule(module), nn.Linear | nn.Conv2d
            ):
                left.append(f"{part}.{name}")
                continue
            found = truncated(*decomposed(change.flatten(1)), rank, share, sums)
            parts.setdefault(part, {})[plain(module)] = shaped(found, tuple(tensor.shape[2:]))
    return Fit(Lora(parts), sums.kept, tuple(left))


@torch.no_grad()
def resize(lora: Lora, *, rank: int | None = None, share: float | None = None) -> Fit:
    """The LoRA at another rank; a LoHa or LoKr as the LoRA that is nearest to it.

    rank, share : as in `extract`. Magnitudes of DoRA stay what they are.
    """
    check_wish(rank, share)
    parts: dict[str, dict[str, Layer]] = {}
    sums = Sums()
    for part, name, layer in lora.layers():
        if isinstance(layer, Low):
            found = truncated(*decomposed_low(layer, name), rank, share, sums)
            new = shaped(found, tuple(layer.down.shape[2:]))
            kept = Low(
                new.down.to(layer.down.dtype),
                new.up.to(layer.up.dtype),
                new.alpha,
                layer.magnitude,
            )
        else:
            found = truncated(*decomposed(check_numbers(layer.product(), name)), rank, share, sums)
            kept = shaped(found, kernel(name, layer, found.down.shape[1]))
        parts.setdefault(part, {})[name] = kept
    return Fit(Lora(parts, lora.header), sums.kept)


@dataclass(slots=True)
class Sums:
    """Squared lengths so far."""

    whole: float = 0.0
    part: float = 0.0

    @property
    def kept(self) -> float:
        return self.part / self.whole if self.whole else 1.0


def check_numbers(matrix: Tensor, name: str) -> Tensor:
    """Raise ModelError where a product of finite numbers is too large for any."""
    if not bool(torch.isfinite(matrix).all()):
        raise ModelError(
            f"What the LoRA adds to {shown(name)} is too large for a number: its alpha or its "
            "tensors are broken. Take an earlier file of it."
        )
    return matrix


def decomposed(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left, values, right


def decomposed_low(layer: Low, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """The same of a product that is known by its factors: exact, and without the whole matrix."""
    up, down = layer.up.double().flatten(1), layer.down.double().flatten(1)
    left, inner_left = torch.linalg.qr(up)
    right, inner_right = torch.linalg.qr(down.T)
    inner = check_numbers(layer.scale * inner_left @ inner_right.T, name)
    turn, values, back = torch.linalg.svd(inner)
    return left @ turn, values, back @ right.T


def truncated(
    left: Tensor,
    values: Tensor,
    right: Tensor,
    rank: int | None,
    share: float | None,
    sums: Sums,
) -> Low:
    """The first singular vectors, with half of each value on either side."""
    energy = values.square()
    whole = float(energy.sum())
    size = len(values) if rank is None else min(rank, len(values))
    if share is not None and whole:
        # rounded, so that a share of 1 is reached
        enough = (energy.cumsum(0) / whole >= share - 1e-9).nonzero()
        size = min(size, int(enough[0]) + 1 if len(enough) else len(values))
    sums.whole += whole
    sums.part += float(energy[:size].sum())
    half = values[:size].sqrt()
    up, down = left[:, :size] * half, half[:, None] * right[:size]
    return Low(down.float().contiguous(), up.float().contiguous(), float(size))


def shaped(layer: Low, kernel: tuple[int, ...]) -> Low:
    """For a convolution, as files have it."""
    if not kernel:
        return layer
    down = layer.down.reshape(layer.rank, -1, *kernel)
    return Low(down, layer.up[:, :, None, None], layer.alpha, layer.magnitude)


def kernel(name: str, layer: Layer, width: int) -> tuple[int, ...]:
    """Height and width of the kernel that a LoHa or LoKr is for; () for a linear layer."""
    for factor in layer.tensors().values():
        if factor.dim() == 4:
            return tuple(factor.shape[2:])
    if name.rpartition(".")[2] in WIDE and width % 9 == 0:
        return (3, 3)
    return (1, 1) if name.endswith("conv_shortcut") else ()


def check_wish(rank: int | None, share: float | None) -> None:
    if rank is None and share is None:
        raise ArgumentError("Missing what to keep: give a rank, a share of the energy, or both.")
    if rank is not None and rank < 1:
        raise ArgumentError(f"Got the rank {rank}: expected a whole number from 1 on.")
    if share is not None and not 0 < share <= 1:
        raise ArgumentError(f"Got the share {share}: expected a number above 0, up to 1.")


def length(layer: Layer) -> float:
    """Of the change (Frobenius), without the magnitude of DoRA."""
    if not isinstance(layer, Low):
        return float(torch.linalg.vector_norm(layer.product()))
    up, down = layer.up.double().flatten(1), layer.down.double().flatten(1)
    squared = float(((up.T @ up) * (down @ down.T)).sum())
    return abs(layer.scale) * math.sqrt(max(squared, 0.0))
