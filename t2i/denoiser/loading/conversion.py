"""diffusers' conversion of a checkpoint's tensors, traced on the meta device."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor, nn

from t2i.denoiser.loading.weight_checks import Shapes

TRANSFORMERS_PREFIX_END = ".transformer."
"""Last component of the prefix of a transformers text encoder; others have OpenCLIP's format."""


@dataclass(frozen=True, slots=True)
class ConvertedShapes:
    """Result of a trial conversion of a checkpoint: the tensor shapes under diffusers' names, and
    the names of unused tensors.

    shapes : by diffusers' names
    dropped : tensors of the file that were not used
    """

    shapes: Shapes
    dropped: Collection[str]


class TracedTensor(Tensor):
    """Tensor that keeps the name it has in the checkpoint through views and copies."""

    origin: str = ""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        call: Callable[..., Any] = super().__torch_function__
        result = call(func, types, args, kwargs or {})
        if isinstance(result, TracedTensor):
            result.origin = args[0].origin
        return result


def trace_conversion(
    part: str, prefix: str, model: nn.Module, config: Mapping[str, object], found: Shapes
) -> ConvertedShapes:
    """Run diffusers' conversion of one part of a checkpoint on meta tensors, to find the names and
    shapes that it gives and the tensors that it drops. Raises whatever diffusers raises.
    """
    tensors: dict[str, Tensor] = {}
    for name, shape in found.items():
        traced = torch.empty(shape, device="meta").as_subclass(TracedTensor)
        traced.origin = name
        tensors[name] = traced
    result: dict[str, TracedTensor]
    if part == "unet":
        result = convert_ldm_unet_checkpoint(tensors, config)
    elif part == "vae":
        result = convert_ldm_vae_checkpoint(tensors, config)
    elif prefix.endswith(TRANSFORMERS_PREFIX_END):
        result = convert_ldm_clip_checkpoint(tensors)
    else:
        result = convert_open_clip_checkpoint(model, tensors, prefix=prefix)
    shapes = {name: tuple(tensor.shape) for name, tensor in result.items()}
    return ConvertedShapes(shapes, found.keys() - {tensor.origin for tensor in result.values()})
