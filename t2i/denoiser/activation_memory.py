"""Memory that a denoiser or decoder pass needs beside the weights, counted on the meta device.

Every tensor that a pass makes is counted while it lives. Attention is counted as fused kernels
compute it, without its map. The rest is proportional to the number of positions, so that one small
pass gives the need of any size.

C channels, H W latent size.
"""

import json
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from t2i.denoiser.loading.meta_models import build_meta_model
from t2i.denoiser.loading.trial_pass import min_latent_side, run_unet_on_zeros

BYTES_USED_PER_BYTE_COUNTED = 2.0
"""Bytes really used for each byte counted: convolutions need workspace. Measured on one CPU
core in float32, of the embedded model and of Stable Diffusion 1's sizes: 0.9 to 2.2 for
passes, 1.7 to 2.0 for decoding."""


class AttentionStub(torch.autograd.Function):
    """A stand-in for fused attention, for counting memory: it saves query, key and value for the
    gradient and computes nothing.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Save query, key and value for the gradient and return an empty output (..., queries,
        value width), in place of computing attention.
        """
        ctx.save_for_backward(query, key, value)
        return query.new_empty(*query.shape[:-1], value.shape[-1])


class AttentionStubMode(TorchFunctionMode):
    """A torch function mode that replaces scaled_dot_product_attention by `AttentionStub`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is FUSED_ATTENTION:
            given = args[:3] if len(args) >= 3 else [(kwargs or {})[n] for n in ATTENTION_ARGUMENTS]
            return AttentionStub.apply(*given)  # type: ignore[no-untyped-call]  # torch has no types for it
        return func(*args, **(kwargs or {}))


class LiveMemoryCounter(TorchDispatchMode):
    """Torch dispatch mode that counts the bytes of all living tensors except the model's
    weights.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types for it
        self.now = 0
        self.peak = 0
        self.weights = [weight.untyped_storage() for weight in model.state_dict().values()]
        self.known = {id(storage) for storage in self.weights}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.add_storage(tensor.untyped_storage())
        return made

    def add_storage(self, storage: torch.UntypedStorage) -> None:
        """Count the bytes of a tensor's storage as living memory until it is freed."""
        if id(storage) in self.known:
            return
        self.known.add(id(storage))
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.subtract_storage, id(storage), storage.nbytes())

    def subtract_storage(self, number: int, size: int) -> None:
        """Subtract the bytes of a freed tensor's storage from the living memory."""
        self.known.discard(number)
        self.now -= size


FUSED_ATTENTION = torch._C._nn.scaled_dot_product_attention
"""torch's own function. `nn.functional.scaled_dot_product_attention` is another one while an
attention session is open."""
ATTENTION_ARGUMENTS = ("query", "key", "value")
MAX_CACHED_PEAKS = 256
PEAK_BYTES_CACHE: dict[str, int] = {}
"""Peaks that were counted in this process, by what the model is: one is asked for again for every
picture."""


def measure_pass_peak_bytes(
    model: nn.Module, run: Callable[[], object], *, gradients: bool = False
) -> int:
    """Measure the peak memory in bytes, beside the weights, of a forward pass of a model on the
    meta device.

    gradients : count what is kept for the backward pass as well
    """
    living = LiveMemoryCounter(model)
    with torch.device("meta"), torch.set_grad_enabled(gradients), AttentionStubMode(), living:
        run()
    return living.peak


def estimate_unet_bytes_per_position(unet: Any) -> float:
    """Estimate the activation bytes of a UNet's pass per latent position of one batch row."""
    side = 4 * min_latent_side(unet)

    def run(model: Any) -> object:
        return run_unet_on_zeros(model, {}, side)

    return (
        BYTES_USED_PER_BYTE_COUNTED
        * get_model_element_bytes(unet)
        / 4
        * measure_pass_peak_bytes_once_per_config(unet, run)
        / side**2
    )


def estimate_decoder_bytes_per_position(vae: Any, **options: Any) -> float:
    """Estimate the activation bytes of VAE decoding per latent position of one image."""
    side = 16

    def decode(model: Any) -> object:
        return model.decode(torch.zeros(1, vae.config["latent_channels"], side, side), **options)

    return (
        BYTES_USED_PER_BYTE_COUNTED
        * get_model_element_bytes(vae)
        / 4
        * measure_pass_peak_bytes_once_per_config(vae, decode, str(options))
        / side**2
    )


def get_model_element_bytes(model: Any) -> int:
    """Return the bytes of one number in the model's dtype."""
    return torch.empty((), dtype=model.dtype).element_size()


def measure_pass_peak_bytes_once_per_config(
    model: Any, run: Callable[[Any], object], way: str = ""
) -> int:
    """Return the peak memory in bytes of a forward pass of the model, measured on a copy without
    weights, once per config.

    way : distinguishes different passes of one model
    """
    model = getattr(model, "_orig_mod", model)  # of a compiled one
    kind = json.dumps([type(model).__name__, dict(model.config), way], default=repr)
    if kind not in PEAK_BYTES_CACHE:
        if len(PEAK_BYTES_CACHE) == MAX_CACHED_PEAKS:
            PEAK_BYTES_CACHE.clear()
        without_memory = build_meta_copy(model)
        PEAK_BYTES_CACHE[kind] = measure_pass_peak_bytes(
            without_memory, lambda: run(without_memory)
        )
    return PEAK_BYTES_CACHE[kind]


def build_meta_copy(model: Any) -> Any:
    """Build a model of the same class and config on the meta device."""
    return build_meta_model(type(model).__name__, dict(model.config))
