"""Reading of adapters' safetensors files from untrusted sources, and writing of them."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from t2i.adapters.module_names import printable_name
from t2i.atomic_files import write_atomically
from t2i.denoiser.loading.model_location import PICKLE_SUFFIXES
from t2i.denoiser.loading.weight_checks import read_tensor_shapes
from t2i.errors import ArgumentError, ModelError
from t2i.safe_reading.tensors import open_tensors
from t2i.terminal import plural

MAX_TENSORS = 20_000
"""Largest number of tensors in a file; a LoRA on every layer of SDXL has some ten thousand."""

FLOAT_DTYPES = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16}
    | {torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz}
)
INTEGER_DTYPES = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})


def read_tensors_and_metadata(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read an adapter's safetensors file; return its tensors by name and the header's metadata.

    kind : what the file should be, for messages

    Raises ArgumentError for a missing file, ModelError for a broken one or for tensors that are
    not finite numbers.
    """
    check_adapter_path(path, kind)
    shapes = read_tensor_shapes(path)
    if not 0 < len(shapes) <= MAX_TENSORS:
        raise ModelError(
            f"Refused {path}: it has {plural(len(shapes), 'tensor')}, expected 1 to "
            f"{MAX_TENSORS:,} of a {kind}."
        )
    try:
        with open_tensors(path) as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in shapes}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"Cannot read {path}: {error}.") from error
    check_tensors_finite_floats(path, tensors)
    return tensors, header


def check_adapter_path(path: Path, kind: str) -> None:
    """Raise ArgumentError or ModelError unless the path is an existing .safetensors file."""
    if path.suffix in PICKLE_SUFFIXES:
        raise ModelError(
            f"Refused the pickled {kind} {path}: loading it can run any code. Get its safetensors "
            "version, or convert it where you trust it."
        )
    if not path.is_file():
        raise ArgumentError(f"No such {kind}: {path}. Check the path.")
    if path.suffix != ".safetensors":
        raise ArgumentError(f"{path} is no {kind}: expected a .safetensors file.")


def check_tensors_finite_floats(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise ModelError for tensors that are not dense, floating-point or finite.

    An alpha may be an integer.
    """
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise ModelError(f"{path}: {printable_name(name)} is not a dense tensor of numbers.")
        if tensor.dtype in INTEGER_DTYPES and is_lora_alpha(name, tensor):
            continue
        if tensor.dtype not in FLOAT_DTYPES:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"{path}: {printable_name(name)} holds {dtype}, expected floating-point numbers "
                "of 8 to 64 bits."
            )
        if not bool(torch.isfinite(tensor.float()).all()):
            raise ModelError(
                f"{path}: {printable_name(name)} has numbers that are NaN or infinite. The "
                "training that made it "
                "failed: use an earlier file of it."
            )


def is_lora_alpha(name: str, tensor: Tensor) -> bool:
    """Return True for a LoRA file's tensor that is a layer's alpha, which may be an integer."""
    return tensor.numel() == 1 and name.rpartition(".")[2] == "alpha"


def extract_single_number(tensor: Tensor) -> float:
    """Return the only number in a tensor as a float. Raises ValueError unless the tensor has
    exactly one number, and it is finite.
    """
    value = float(tensor.item()) if tensor.numel() == 1 else math.nan
    if not math.isfinite(value):
        raise ValueError(f"is {list(tensor.shape)}, expected one finite number")
    return value


def make_contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous CPU copies of tensors, each in memory of its own, as safetensors
    requires.
    """
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def write_tensor_file(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file atomically. Raises OutputError for a failed write."""
    # Not save_file: its files are readable by their owner only.
    content = save(make_contiguous(tensors), dict(header))
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
