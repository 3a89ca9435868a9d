"""Tensors out of a small safetensors file that somebody else wrote."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from t2i.adapters.module_names import shown
from t2i.denoiser.loading.address import PICKLES
from t2i.denoiser.loading.weight_checks import read_shapes
from t2i.errors import ArgumentError, ModelError
from t2i.safe_reading.tensors import open_tensors
from t2i.terminal import several

MOST_TENSORS = 20_000
"""Of a file; a LoRA on every layer of SDXL and its text encoders has some ten thousand."""

FRACTIONS = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16}
    | {torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz}
)
WHOLE_NUMBERS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})


def read_tensors(path: Path, word: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file, and the texts in its header. Raises ArgumentError where there is no
    such file, ModelError for what is no whole safetensors file of finite numbers.

    word : what the file is said to be
    """
    check_name(path, word)
    shapes = read_shapes(path)
    if not 0 < len(shapes) <= MOST_TENSORS:
        raise ModelError(
            f"Refused {path}: it has {several(len(shapes), 'tensor')}, expected 1 to "
            f"{MOST_TENSORS:,} of a {word}."
        )
    try:
        with open_tensors(path) as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in shapes}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"Cannot read {path}: {error}.") from error
    check_finite(path, tensors)
    return tensors, header


def check_name(path: Path, word: str) -> None:
    if path.suffix in PICKLES:
        raise ModelError(
            f"Refused the pickled {word} {path}: loading it can run any code. Get its safetensors "
            "version, or convert it where you trust it."
        )
    if not path.is_file():
        raise ArgumentError(f"No such {word}: {path}. Check the path.")
    if path.suffix != ".safetensors":
        raise ArgumentError(f"{path} is no {word}: expected a .safetensors file.")


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise ModelError(f"{path}: {shown(name)} is no plain tensor of numbers.")
        if tensor.dtype in WHOLE_NUMBERS and is_alpha(name, tensor):
            continue
        if tensor.dtype not in FRACTIONS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"{path}: {shown(name)} holds {kind}, expected fractions of 8 to 64 bits."
            )
        if not bool(torch.isfinite(tensor.float()).all()):
            raise ModelError(
                f"{path}: {shown(name)} holds what is no finite number. The training that made it "
                "failed: take an earlier file of it."
            )


def is_alpha(name: str, tensor: Tensor) -> bool:
    """Alpha may be a whole number."""
    return tensor.numel() == 1 and name.rpartition(".")[2] == "alpha"


def number(tensor: Tensor) -> float:
    """The one number in a tensor. Raises ValueError where there are more, or it is not finite."""
    value = float(tensor.item()) if tensor.numel() == 1 else math.nan
    if not math.isfinite(value):
        raise ValueError(f"is {list(tensor.shape)}, expected one finite number")
    return value
