"""Cache of the text's keys and values in cross-attention, which are the same at every step.

It patches the linear layers `to_k` and `to_v` and does not pass through the tap of t2i.attention:
it changes no attention, and the tap comes after these layers.

B batch rows, T text tokens, D text width, K width of all heads of a site.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from t2i.attention.hooks.compiled import is_compiled

Project = Callable[[Tensor], Tensor]
MOST_BYTES = 2**28
"""Of keys and values kept at a time; what does not fit is computed at every pass."""


@contextmanager
def text_keys_kept(
    unet: nn.Module, most_bytes: int = MOST_BYTES
) -> Iterator[Mapping[nn.Linear, "Kept"]]:
    """Within the block a cross-attention computes the keys and values of a text only once.

    Exact: what is kept is given again only for the same memory, unchanged since, read by the same
    weights, and only in the thread that keeps it. LoRA layers work on top of it, anew at each pass;
    processors and whoever listens to scaled_dot_product_attention notice nothing. With gradients,
    within torch.inference_mode() and in a compiled model nothing is kept.
    """
    budget = Budget(most_bytes)
    kept: dict[nn.Linear, Kept] = {}
    with ExitStack() as undo:
        if not is_compiled(unet):
            for attention in filter(reads_text, unet.modules()):
                for name in ("to_k", "to_v"):
                    linear = plain_linear(attention, name)
                    if linear is not None:
                        project = undo.enter_context(projection_asked(linear))
                        kept[linear] = Kept(attention, name, linear, project, budget)
        token = _kept.set(kept)
        undo.callback(_kept.reset, token)
        yield kept


_kept: ContextVar[Mapping[nn.Linear, "Kept"]] = ContextVar("kept", default={})  # noqa: B039
"""Of the run that this thread is in; nobody writes into the default."""


def plain_linear(attention: Attention, name: str) -> nn.Linear | None:
    """A projection without its LoRA layers; None for one that is no plain linear layer."""
    layer: Any = getattr(attention, name)
    linear = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    return linear if type(linear) is nn.Linear else None


@contextmanager
def projection_asked(linear: nn.Linear) -> Iterator[Project]:
    """Within the block the layer's forward asks what the thread's run keeps; gives what stood in
    its place. Runs of several threads share it, and the last one to leave takes it away."""
    with _lock:
        asked = _asked.get(linear)
        if asked is None:
            asked = _asked[linear] = Asked(linear.forward, vars(linear).get("forward"))
            vars(linear)["forward"] = forward_of(linear, asked.project)
        asked.runs += 1
    try:
        yield asked.project
    finally:
        with _lock:
            asked.runs -= 1
            if asked.runs == 0:
                del _asked[linear]
                if asked.own is None:
                    del vars(linear)["forward"]
                else:
                    vars(linear)["forward"] = asked.own


def forward_of(linear: nn.Linear, project: Project) -> Project:
    def forward(text_BTD: Tensor) -> Tensor:
        kept = _kept.get().get(linear)
        return project(text_BTD) if kept is None else kept.forward(text_BTD)

    return forward


@dataclass(slots=True)
class Asked:
    """What stood in a layer, and how many runs are in."""

    project: Project
    own: Any
    """As accelerate leaves one in the instance."""
    runs: int = 0


_asked: WeakKeyDictionary[nn.Linear, Asked] = WeakKeyDictionary()
_lock = threading.Lock()


class Budget:
    """Bytes that may still be kept."""

    def __init__(self, most_bytes: int) -> None:
        self.left = most_bytes


class Kept:
    """What a linear layer gave last, and what that followed from."""

    def __init__(
        self, attention: Attention, name: str, linear: nn.Linear, project: Project, budget: Budget
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
