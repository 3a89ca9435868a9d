"""Outputs of text models kept across calls, so that a prompt that comes again is not encoded again.

R rows that the model reads, W tokens of a window, D width of an embedding.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import PreTrainedModel

DEFAULT_MAX_BYTES = 64 << 20
"""Bytes of some 280 prompts of Stable Diffusion 1 in float32, or 160 of SDXL in float16."""
INERT_HOOKS_MODULE = "transformers.utils.output_capturing"
"""Its hooks stay on a model once hidden states were asked for, and collect them when they are."""
ModelOutput: TypeAlias = tuple[Tensor, Tensor | None]
"""Embeddings (R, W, D), and pooled vectors (R, D) where the model has them."""


@dataclass(frozen=True, slots=True)
class KeptOutput:
    """Output of a text model, and the bytes that it takes."""

    text_RWD: Tensor
    pooled_RD: Tensor | None

    @property
    def num_bytes(self) -> int:
        """Bytes of both tensors."""
        return self.text_RWD.nbytes + (0 if self.pooled_RD is None else self.pooled_RD.nbytes)

    def copy(self) -> ModelOutput:
        """Return copies, which the caller may change."""
        return self.text_RWD.clone(), None if self.pooled_RD is None else self.pooled_RD.clone()


class TextOutputCache:
    """Cache of the outputs of text models, least recently used first, within a budget of bytes.

    An output is found again for the same batch of token windows and the same state of the model:
    equal embeddings of its tokens, the very other parameters and buffers, unchanged since, and the
    scales of its LoRA layers. It is the same bit for bit, as far as the settings of the process
    (threads, precision of products) are. What is changed through `tensor.data` in place is seen of
    the tokens' embeddings alone, which learned words are written into in this way.

    max_bytes : of the outputs together; 0 keeps none
    hits, misses : calls that were answered from the cache, and outputs that were computed for it
    """

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.hits = self.misses = 0
        self._outputs: OrderedDict[Hashable, KeptOutput] = OrderedDict()
        self._versions: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._numbers = count()

    @property
    def num_bytes(self) -> int:
        """Bytes of all outputs."""
        return sum(output.num_bytes for output in self._outputs.values())

    def get_or_run(
        self,
        model: PreTrainedModel,
        ids_RW: Tensor,
        batch: Hashable,
        run: Callable[[], ModelOutput],
    ) -> ModelOutput:
        """Return the output of a text model for a batch of token windows, computed by `run` unless
        it is kept.

        A model that is trained, or has hooks, is always run.

        batch : what the output depends on beside the model's state and the token ids
        """
        state = self._read_state(model)
        if state is None:
            return run()
        key = (state, *_read_tokens(model, ids_RW), batch)
        if (kept := self._outputs.get(key)) is not None:
            self._outputs.move_to_end(key)
            self.hits += 1
            return kept.copy()
        self.misses += 1
        text_RWD, pooled_RD = run()
        self._keep(key, KeptOutput(*KeptOutput(text_RWD.detach(), pooled_RD).copy()))
        return text_RWD, pooled_RD

    def _keep(self, key: Hashable, output: KeptOutput) -> None:
        free = self.max_bytes - output.num_bytes
        if free < 0:
            return
        while self.num_bytes > free:
            self._outputs.popitem(last=False)
        self._outputs[key] = output

    def _read_state(self, model: PreTrainedModel) -> Hashable | None:
        """Return what of a model beside its table of embeddings its output depends on; None if it
        may depend on more.
        """
        if torch.is_grad_enabled() or module_hooks._has_any_global_hook():
            return None
        state: list[Hashable] = [torch.is_autocast_enabled()]
        table = model.get_input_embeddings()
        if not isinstance(table, nn.Embedding):  # one with a LoRA of its own computes its rows
            return None
        for module in model.modules():
            if _is_hooked(module) or _is_trained(module):
                return None
            if module is not table:
                state += map(self._number, module._parameters.values())
            state += map(self._number, module._buffers.values())
            if isinstance(scaling := getattr(module, "scaling", None), dict):  # of LoRA layers
                merged = tuple(getattr(module, "merged_adapters", ()))
                active = tuple(getattr(module, "active_adapters", ()))
                disabled = bool(getattr(module, "disable_adapters", False))
                state.append((tuple(scaling.items()), active, merged, disabled))
        return tuple(state)

    def _number(self, tensor: Tensor | None) -> int | None:
        """Return a number that this tensor alone has, until it is changed: the place of one that is
        gone may be another's.
        """
        if tensor is None:
            return None
        version = (tensor._version, tensor.data_ptr(), tensor.dtype)
        known: tuple[object, int] | None = self._versions.get(tensor)
        if known is None or known[0] != version:
            known = self._versions[tensor] = (version, next(self._numbers))
        return known[1]


def _read_tokens(model: PreTrainedModel, ids_RW: Tensor) -> tuple[Hashable, ...]:
    """Return token ids, and a digest of the embeddings that the model has for them."""
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    rows_KD = table.weight[ids_RW.unique().to(table.weight.device)].cpu()
    digest = hashlib.blake2b(rows_KD.view(torch.uint8).numpy().tobytes(), digest_size=16).digest()
    return ids_RW.shape, ids_RW.numpy().tobytes(), table.weight.dtype, digest


def _is_hooked(module: nn.Module) -> bool:
    """Return True if something listens to a module, or has replaced its forward pass."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    listens = any(getattr(hook, "__module__", None) != INERT_HOOKS_MODULE for hook in hooks)
    return listens or "forward" in vars(module)


def _is_trained(module: nn.Module) -> bool:
    """Return True if a module is in training mode and may compute something else there: layers of
    the model itself, which have its config, and dropout. LoRA layers are always in it.
    """
    drops = isinstance(module, nn.Dropout) and module.p > 0
    return module.training and (drops or hasattr(module, "config"))


_ACTIVE: ContextVar[TextOutputCache | None] = ContextVar("text_output_cache", default=None)


def get_text_output_cache() -> TextOutputCache | None:
    """Return the cache of the block that runs, None outside of one."""
    return _ACTIVE.get()


@contextmanager
def keeping_text_outputs(cache: TextOutputCache) -> Iterator[None]:
    """Look up the outputs of text models in a cache within the block, and keep them there."""
    token = _ACTIVE.set(cache)
    try:
        yield
    finally:
        _ACTIVE.reset(token)
