"""How much memory a pass needs beside the weights, counted on a model without memory.

Every tensor that a pass makes is counted while it lives. Attention is counted as the fused kernels
compute it, without its map. All that is left grows with the number of positions, so that one small
pass tells what any size needs.

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

from t2i.denoiser.loading.meta_models import skeleton
from t2i.denoiser.loading.trial_pass import fewest, pass_of

FACTOR = 2.0
"""What is really taken for each byte counted here: convolutions need room to work in. Measured on
one CPU core in float32, of the embedded model and of Stable Diffusion 1's sizes: 0.9 to 2.2 for
passes, 1.7 to 2.0 for decoding."""


class Kept(torch.autograd.Function):
    """What fused attention keeps for its gradient: what it was given."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        return query.new_empty(*query.shape[:-1], value.shape[-1])


class Fused(TorchFunctionMode):
    """Attention gives its output and nothing beside."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            given = args[:3] if len(args) >= 3 else [(kwargs or {})[n] for n in NAMES]
            return Kept.apply(*given)  # type: ignore[no-untyped-call]  # torch has no types for it
        return func(*args, **(kwargs or {}))


class Living(TorchDispatchMode):
    """Counts the bytes of all tensors that were made and are still there."""

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
                self.add(tensor.untyped_storage())
        return made

    def add(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self.known:
            return
        self.known.add(id(storage))
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.drop, id(storage), storage.nbytes())

    def drop(self, number: int, size: int) -> None:
        self.known.discard(number)
        self.now -= size


NAMES = ("query", "key", "value")
MOST_KNOWN = 256
KNOWN: dict[str, int] = {}
"""Peaks that were counted in this process, by what the model is: one is asked for again for every
picture."""


def peak_of(model: nn.Module, run: Callable[[], object], *, gradients: bool = False) -> int:
    """Bytes that a pass of a model without memory needs beside its weights.

    gradients : with all that the pass keeps for the gradient of what is trained
    """
    living = Living(model)
    with torch.device("meta"), torch.set_grad_enabled(gradients), Fused(), living:
        run()
    return living.peak


def of_unet(unet: Any) -> float:
    """Bytes of a pass for each position of the latents of one row."""
    side = 4 * fewest(unet)

    def run(model: Any) -> object:
        return pass_of(model, {}, side)

    return FACTOR * bytes_of(unet) / 4 * known_peak(unet, run) / side**2


def of_decoder(vae: Any, **options: Any) -> float:
    """Bytes of decoding for each position of the latents of one picture."""
    side = 16

    def decode(model: Any) -> object:
        return model.decode(torch.zeros(1, vae.config["latent_channels"], side, side), **options)

    return FACTOR * bytes_of(vae) / 4 * known_peak(vae, decode, str(options)) / side**2


def bytes_of(model: Any) -> int:
    """Of one of its numbers."""
    return torch.empty((), dtype=model.dtype).element_size()


def known_peak(model: Any, run: Callable[[Any], object], way: str = "") -> int:
    """The peak of a pass of the same model without memory, counted once in a process.

    way : tells passes of one kind of model apart
    """
    model = getattr(model, "_orig_mod", model)  # of a compiled one
    kind = json.dumps([type(model).__name__, dict(model.config), way], default=repr)
    if kind not in KNOWN:
        if len(KNOWN) == MOST_KNOWN:
            KNOWN.clear()
        without_memory = bare(model)
        KNOWN[kind] = peak_of(without_memory, lambda: run(without_memory))
    return KNOWN[kind]


def bare(model: Any) -> Any:
    """The same without memory."""
    return skeleton(type(model).__name__, dict(model.config))
