"""Keys and values of the text: the same at every step, so computed once.

B batch rows, T text tokens, D text width, K width of all heads of a site.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeGuard

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from t2i.attention.compiled import is_compiled

MOST_BYTES = 2**28
"""Of keys and values kept at a time; what does not fit is computed at every pass."""


@contextmanager
def text_keys_kept(unet: nn.Module, most_bytes: int = MOST_BYTES) -> Iterator[None]:
    """Within the block a cross-attention computes the keys and values of a text only once.

    Exact: what is kept is given again only for the same memory, unchanged since, read by the same
    weights. LoRA layers work on top of it, anew at each pass; processors and whoever listens to
    scaled_dot_product_attention notice nothing. With gradients, within torch.inference_mode()
    and in a compiled model nothing is kept.
    """
    budget = Budget(most_bytes)
    with ExitStack() as undo:
        if not is_compiled(unet):
            for attention in filter(reads_text, unet.modules()):
                for name in ("to_k", "to_v"):
                    undo.enter_context(projection_kept(attention, name, budget))
        yield


@contextmanager
def projection_kept(attention: Attention, name: str, budget: "Budget") -> Iterator[None]:
    """The same for one projection; one that is not a plain linear layer is left alone."""
    layer: Any = getattr(attention, name)
    linear = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    if type(linear) is not nn.Linear:
        yield
        return
    own = vars(linear).get("forward")  # as accelerate leaves one there
    vars(linear)["forward"] = Kept(attention, name, linear, budget).forward
    try:
        yield
    finally:
        if own is None:
            del vars(linear)["forward"]
        else:
            vars(linear)["forward"] = own


class Budget:
    """Bytes that may still be kept."""

    def __init__(self, most_bytes: int) -> None:
        self.left = most_bytes


class Kept:
    """What a linear layer gave last, and what that followed from."""

    def __init__(self, attention: Attention, name: str, linear: nn.Linear, budget: Budget) -> None:
        self.attention = attention
        self.name = name
        self.linear = linear
        self.project = linear.forward
        self.budget = budget
        self.output_BTK: Tensor | None = None
        self.held: tuple[Tensor | None, ...] = ()
        """Kept alive: memory that is freed may become another tensor's."""
        self.state: tuple[object, ...] = ()

    def forward(self, text_BTD: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return self.project(text_BTD)
        weight, bias = self.parameters()
        if text_BTD.is_inference() or weight.is_inference():
            return self.project(text_BTD)  # such tensors do not tell when they are changed

        kept_BTK = self.output_BTK
        if kept_BTK is not None and self.state == self.state_of(text_BTD, weight, bias, kept_BTK):
            return kept_BTK

        self.forget()
        output_BTK = self.project(text_BTD)
        if output_BTK.nbytes <= self.budget.left and not output_BTK.is_inference():
            self.budget.left -= output_BTK.nbytes
            # Asked again: under sequential offload the weights are others after each use.
            weight, bias = self.parameters()
            self.output_BTK = output_BTK
            self.held = (text_BTD.detach(), weight, weight.detach(), bias)
            self.state = self.state_of(text_BTD, weight, bias, output_BTK)
        return output_BTK

    def forget(self) -> None:
        if self.output_BTK is not None:
            self.budget.left += self.output_BTK.nbytes
        self.output_BTK, self.held, self.state = None, (), ()

    def parameters(self) -> tuple[Tensor, Tensor | None]:
        return self.linear.weight, self.linear.bias

    def state_of(
        self, text_BTD: Tensor, weight: Tensor, bias: Tensor | None, output_BTK: Tensor
    ) -> tuple[object, ...]:
        """Equal only if the layer would give the same again: where all that it reads lies, and how
        often that and its output have been written to."""
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


def reads_text(module: nn.Module) -> TypeGuard[Attention]:
    """Whether its keys and values are those of the text as it comes: others change at each pass."""
    return (
        isinstance(module, Attention)
        and module.is_cross_attention
        and module.added_kv_proj_dim is None
        and module.norm_cross is None
    )
