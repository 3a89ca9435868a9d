"""A cache of the text's keys and values in cross-attention, which are constant over the steps.

B batch rows, T text tokens, D text width, K width of all heads of a site.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeGuard

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from t2i.attention.hooks.compiled import is_compiled
from t2i.method_patches import MethodPatches

ProjectionForward = Callable[[Tensor], Tensor]
MAX_CACHED_BYTES = 2**28
"""Most bytes of keys and values cached at a time; the rest is computed at every pass."""


@contextmanager
def caching_text_keys_values(
    unet: nn.Module, most_bytes: int = MAX_CACHED_BYTES
) -> Iterator[Mapping[nn.Linear, "CachedProjection"]]:
    """Cache the keys and values that cross-attention projects from the text, within the block.

    Exact: a cached output is returned only for the same unchanged memory and the same weights, and
    only in the thread that computed it. LoRA layers are applied on top at each pass; attention
    processors and the tap are unaffected. Nothing is cached with gradients, within
    torch.inference_mode() or in a compiled model.
    """
    budget = ByteBudget(most_bytes)
    cache: dict[nn.Linear, CachedProjection] = {}
    with ExitStack() as undo:
        if not is_compiled(unet):
            for attention in filter(is_text_cross_attention, unet.modules()):
                for name in ("to_k", "to_v"):
                    linear = find_base_linear(attention, name)
                    if linear is not None:
                        build = partial(build_caching_forward, linear)
                        project = undo.enter_context(_forward_patches.replacing(linear, build))
                        cache[linear] = CachedProjection(attention, name, linear, project, budget)
        token = _current_cache.set(cache)
        undo.callback(_current_cache.reset, token)
        yield cache


_current_cache: ContextVar[Mapping[nn.Linear, "CachedProjection"]] = ContextVar("kept", default={})  # noqa: B039
"""The cache of the run in this thread; the default is never written to."""
_forward_patches = MethodPatches("forward")
"""Forwards of layers that use the cache of their thread."""


def find_base_linear(attention: Attention, name: str) -> nn.Linear | None:
    """Return a cross-attention's key or value projection without LoRA layers, or None unless it is
    an nn.Linear.
    """
    layer: Any = getattr(attention, name)
    linear = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    return linear if type(linear) is nn.Linear else None


def build_caching_forward(linear: nn.Linear, project: ProjectionForward) -> ProjectionForward:
    """Return a replacement for a key or value projection's forward that uses the current thread's
    cache, if it has one for this layer.
    """

    def forward(text_BTD: Tensor) -> Tensor:
        cache = _current_cache.get().get(linear)
        return project(text_BTD) if cache is None else cache.forward(text_BTD)

    return forward


class ByteBudget:
    """Budget of the cache of text keys and values: the number of bytes that it may still use."""

    def __init__(self, most_bytes: int) -> None:
        self.left = most_bytes


class CachedProjection:
    """Cache of the output of one cross-attention key or value projection, valid while text and
    weights are unchanged.
    """

    def __init__(
        self,
        attention: Attention,
        name: str,
        linear: nn.Linear,
        project: ProjectionForward,
        budget: ByteBudget,
    ) -> None:
        self.attention = attention
        self.name = name
        self.linear = linear
        self.project = project
        self.budget = budget
        self.output_BTK: Tensor | None = None
        self.held: tuple[Tensor | None, ...] = ()
        """Kept alive: memory that is freed may become another tensor's."""
        self.state: tuple[object, ...] = ()

    def forward(self, text_BTD: Tensor) -> Tensor:
        """Return the key or value projection of a text: the cached output if text and weights are
        unchanged, otherwise a new one, which is cached.
        """
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return self.project(text_BTD)
        weight, bias = self.read_weight_and_bias()
        if text_BTD.is_inference() or weight.is_inference():
            return self.project(text_BTD)  # such tensors do not tell when they are changed

        kept_BTK = self.output_BTK
        if kept_BTK is not None and self.state == self.build_state_key(
            text_BTD, weight, bias, kept_BTK
        ):
            return kept_BTK

        self.drop_output()
        output_BTK = self.project(text_BTD)
        if output_BTK.nbytes <= self.budget.left and not output_BTK.is_inference():
            self.budget.left -= output_BTK.nbytes
            # Asked again: under sequential offload the weights are others after each use.
            weight, bias = self.read_weight_and_bias()
            self.output_BTK = output_BTK
            self.held = (text_BTD.detach(), weight, weight.detach(), bias)
            self.state = self.build_state_key(text_BTD, weight, bias, output_BTK)
        return output_BTK

    def drop_output(self) -> None:
        """Drop the cached output of a key or value projection and return its bytes to the cache's
        budget.
        """
        if self.output_BTK is not None:
            self.budget.left += self.output_BTK.nbytes
        self.output_BTK, self.held, self.state = None, (), ()

    def read_weight_and_bias(self) -> tuple[Tensor, Tensor | None]:
        """Return the current weight and bias of the projection layer."""
        return self.linear.weight, self.linear.bias

    def build_state_key(
        self, text_BTD: Tensor, weight: Tensor, bias: Tensor | None, output_BTK: Tensor
    ) -> tuple[object, ...]:
        """Return a key for comparison: it stays equal only as long as text, weights and LoRAs are
        unchanged, so that the projection would give the same output.

        It consists of address and version of all tensors read, and the output's version.
        """
        return (
            text_BTD.data_ptr(),
            text_BTD._version,
            text_BTD.shape,
            text_BTD.stride(),
            text_BTD.dtype,
            id(weight),
            weight.data_ptr(),
            weight._version,
            None if bias is None else (id(bias), bias.data_ptr(), bias._version),
            output_BTK._version,
            torch.is_autocast_enabled(text_BTD.device.type),
            # peft fuses LoRA layers into a weight without a trace on the weight.
            tuple(getattr(self.attention._modules[self.name], "merged_adapters", ())),
        )


def is_text_cross_attention(module: nn.Module) -> TypeGuard[Attention]:
    """Return True for a cross-attention whose keys and values depend on the text alone."""
    return (
        isinstance(module, Attention)
        and module.is_cross_attention
        and module.added_kv_proj_dim is None
        and module.norm_cross is None
    )
