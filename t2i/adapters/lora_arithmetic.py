"""Merging LoRAs into weights, extracting them from two models, and changing their rank."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from t2i.adapters.lora_layers import Lora, LowRankUpdate, WeightUpdate, choose_compute_dtype
from t2i.adapters.lora_matching import get_base_layer, require_model_and_match_lora
from t2i.adapters.module_names import printable_name, strip_module_name_prefixes
from t2i.adapters.peft_reading import ModelByPart
from t2i.errors import ArgumentError, ModelError

NEGLIGIBLE_ENERGY_SHARE = 1e-12
"""Share of a weight's squared norm below which a change counts as rounding error."""
CONVOLUTIONS_3X3 = ("conv1", "conv2", "conv", "conv_in", "conv_out")
"""Convolutions of a UNet that have 3 x 3 kernels."""


@dataclass(frozen=True, slots=True)
class LoraApproximation:
    """LoRA that approximates a change of weights, with the fraction of the change's energy (squared
    norm) that it keeps.

    kept_energy : share of the squared norm of all changes that the LoRA represents
    unrepresented : names of changed tensors that no LoRA can represent, such as biases
    """

    lora: Lora
    kept_energy: float
    unrepresented: tuple[str, ...] = ()


@torch.no_grad()
def merge_into_weights(
    models: Mapping[str, nn.Module | None], lora: Lora, scale: float = 1.0
) -> None:
    """Add a LoRA to the weights of the models in place, scaled by `scale`.

    Raises ModelError, before any weight changes, where the LoRA does not fit.
    """
    found = {
        part: require_model_and_match_lora(part, models.get(part), layers)
        for part, layers in lora.parts.items()
    }
    for part, (model, layers) in found.items():
        for name, layer in layers.items():
            weight = get_base_layer(part, name, model.get_submodule(name)).weight
            weight.copy_(
                require_finite_matrix(
                    compute_updated_weight(weight, layer, scale).to(weight.dtype), name
                )
            )


def compute_updated_weight(weight: Tensor, layer: WeightUpdate, scale: float) -> Tensor:
    """Return a layer's weight plus scale times its LoRA update, in float32 or finer, with DoRA's
    norm as peft computes it.
    """
    kind = choose_compute_dtype(weight.dtype)
    product = layer.build_matrix().to(device=weight.device, dtype=kind)
    result = weight.to(kind) + scale * product.reshape(weight.shape)
    if isinstance(layer, LowRankUpdate) and layer.magnitude is not None:
        # Equation 5 of DoRA: the direction of each row from the sum, its length by itself.
        lengths = torch.linalg.vector_norm(result.flatten(1), dim=1)
        factor = layer.magnitude.to(device=weight.device, dtype=kind) / lengths
        result = result * factor.reshape(-1, *[1] * (weight.dim() - 1))
    return result


@torch.no_grad()
def extract_lora(
    before: ModelByPart, after: ModelByPart, *, rank: int | None = None, share: float | None = None
) -> LoraApproximation:
    """Compute the LoRA closest to the difference after - before (truncated SVD, Eckart and Young).

    rank : largest rank of a layer
    share : share of a layer's squared norm to keep, with the lowest rank that reaches it

    Raises ArgumentError for neither or impossible values, ModelError for models of two kinds.
    """
    check_rank_and_energy_share(rank, share)
    parts: dict[str, dict[str, WeightUpdate]] = {}
    unrepresented: list[str] = []
    sums = EnergySums()
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
            kind = choose_compute_dtype(tensor.dtype)
            change = tensor.to(kind) - old[name].to(kind)
            if change.square().sum() <= NEGLIGIBLE_ENERGY_SHARE * tensor.to(kind).square().sum():
                continue
            module, _, field = name.rpartition(".")
            if field != "weight" or not isinstance(
                model.get_submodule(module), nn.Linear | nn.Conv2d
            ):
                unrepresented.append(f"{part}.{name}")
                continue
            found = build_truncated_update(*compute_thin_svd(change.flatten(1)), rank, share, sums)
            parts.setdefault(part, {})[strip_module_name_prefixes(module)] = reshape_to_convolution(
                found, tuple(tensor.shape[2:])
            )
    return LoraApproximation(Lora(parts), sums.kept_fraction, tuple(unrepresented))


@torch.no_grad()
def resize_lora(
    lora: Lora, *, rank: int | None = None, share: float | None = None
) -> LoraApproximation:
    """Approximate a LoRA, LoHa or LoKr by a LoRA of another rank; DoRA magnitudes are kept.

    rank, share : as in `extract_lora`
    """
    check_rank_and_energy_share(rank, share)
    parts: dict[str, dict[str, WeightUpdate]] = {}
    sums = EnergySums()
    for part, name, layer in lora.iter_layers():
        if isinstance(layer, LowRankUpdate):
            found = build_truncated_update(*compute_low_rank_svd(layer, name), rank, share, sums)
            new = reshape_to_convolution(found, tuple(layer.down.shape[2:]))
            resized = LowRankUpdate(
                new.down.to(layer.down.dtype),
                new.up.to(layer.up.dtype),
                new.alpha,
                layer.magnitude,
            )
        else:
            found = build_truncated_update(
                *compute_thin_svd(require_finite_matrix(layer.build_matrix(), name)),
                rank,
                share,
                sums,
            )
            resized = reshape_to_convolution(
                found, find_kernel_size(name, layer, found.down.shape[1])
            )
        parts.setdefault(part, {})[name] = resized
    return LoraApproximation(Lora(parts, lora.header), sums.kept_fraction)


@dataclass(slots=True)
class EnergySums:
    """Running sums of the energy (squared singular values) of weight updates, before and after
    their truncation to a lower rank.
    """

    total: float = 0.0
    kept: float = 0.0

    @property
    def kept_fraction(self) -> float:
        """Fraction of the total energy that truncation kept; 1 if the energy is 0."""
        return self.kept / self.total if self.total else 1.0


def require_finite_matrix(matrix: Tensor, name: str) -> Tensor:
    """Return a LoRA's weight update unchanged. Raises ModelError if it has NaN or infinite
    numbers.
    """
    if not bool(torch.isfinite(matrix).all()):
        raise ModelError(
            f"The update of {printable_name(name)} overflows: the alpha or the "
            "tensors of the LoRA are broken. Use an earlier file of it."
        )
    return matrix


def compute_thin_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the thin singular value decomposition U, S, Vh of a matrix."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left, values, right


def compute_low_rank_svd(layer: LowRankUpdate, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the exact SVD (U, S, Vh) of a low-rank update, scale * up @ down, without forming the
    full matrix.
    """
    up, down = layer.up.double().flatten(1), layer.down.double().flatten(1)
    left, inner_left = torch.linalg.qr(up)
    right, inner_right = torch.linalg.qr(down.T)
    inner = require_finite_matrix(layer.scale * inner_left @ inner_right.T, name)
    turn, values, back = torch.linalg.svd(inner)
    return left @ turn, values, back @ right.T


def build_truncated_update(
    left: Tensor,
    values: Tensor,
    right: Tensor,
    rank: int | None,
    share: float | None,
    sums: EnergySums,
) -> LowRankUpdate:
    """Return the low-rank update of a weight update's computed SVD, cut to a rank, or to a fraction
    of its energy.

    Adds the energy before and after to `sums`.
    """
    energy = values.square()
    total = float(energy.sum())
    size = len(values) if rank is None else min(rank, len(values))
    if share is not None and total:
        # rounded, so that a share of 1 is reached
        enough = (energy.cumsum(0) / total >= share - 1e-9).nonzero()
        size = min(size, int(enough[0]) + 1 if len(enough) else len(values))
    sums.total += total
    sums.kept += float(energy[:size].sum())
    half = values[:size].sqrt()
    up, down = left[:, :size] * half, half[:, None] * right[:size]
    return LowRankUpdate(down.float().contiguous(), up.float().contiguous(), float(size))


def reshape_to_convolution(layer: LowRankUpdate, kernel: tuple[int, ...]) -> LowRankUpdate:
    """Reshape the factors of a low-rank update to those of a convolution with this kernel size; for
    (), a linear layer, they stay as they are.
    """
    if not kernel:
        return layer
    down = layer.down.reshape(layer.rank, -1, *kernel)
    return LowRankUpdate(down, layer.up[:, :, None, None], layer.alpha, layer.magnitude)


def find_kernel_size(name: str, layer: WeightUpdate, width: int) -> tuple[int, ...]:
    """Return the kernel size (height, width) of the convolution that a LoHa or LoKr changes; () for
    a linear layer.
    """
    for factor in layer.named_tensors().values():
        if factor.dim() == 4:
            return tuple(factor.shape[2:])
    if name.rpartition(".")[2] in CONVOLUTIONS_3X3 and width % 9 == 0:
        return (3, 3)
    return (1, 1) if name.endswith("conv_shortcut") else ()


def check_rank_and_energy_share(rank: int | None, share: float | None) -> None:
    """Raise ArgumentError unless a LoRA's target rank from 1 on, a share of energy in (0, 1], or
    both are given.
    """
    if rank is None and share is None:
        raise ArgumentError(
            "Missing how much to keep: give a rank, a share of the energy, or both."
        )
    if rank is not None and rank < 1:
        raise ArgumentError(f"Got the rank {rank}: expected a whole number from 1 on.")
    if share is not None and not 0 < share <= 1:
        raise ArgumentError(f"Got the share {share}: expected a number above 0, up to 1.")


def compute_update_norm(layer: WeightUpdate) -> float:
    """Return the Frobenius norm of a LoRA layer's weight update, without the magnitude of DoRA."""
    if not isinstance(layer, LowRankUpdate):
        return float(torch.linalg.vector_norm(layer.build_matrix()))
    up, down = layer.up.double().flatten(1), layer.down.double().flatten(1)
    squared = float(((up.T @ up) * (down @ down.T)).sum())
    return abs(layer.scale) * math.sqrt(max(squared, 0.0))
