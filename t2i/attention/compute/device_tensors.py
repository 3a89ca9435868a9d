"""Cache of edit tensors: their copies per device and dtype, and tensors derived from them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


class DeviceTensorCache:
    """Cache of an edit's tensors on each device and in each dtype that attention uses.

    Entries are computed once and live as long as the tensor from which they were made.
    """

    def __init__(self) -> None:
        self._entries: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def to(self, tensor: Tensor, like: Tensor) -> Tensor:
        """Return the tensor on the device and in the dtype of the tensor `like`; a copy is made
        once and cached.
        """
        if tensor.device == like.device and tensor.dtype == like.dtype:
            return tensor
        key = (like.device, like.dtype, torch.is_inference_mode_enabled())
        entries = self._entries_of(tensor)
        if key not in entries:
            entries[key] = tensor.to(like)
        copy: Tensor = entries[key]
        return copy

    def get_or_compute(
        self, name: str, first: Tensor, *others: Tensor | None, make: Callable[[], Tensor]
    ) -> Tensor:
        """Return a tensor derived from other tensors: the result of `make()`, computed once for
        these inputs and cached.

        name : distinguishes several tensors that are derived from the same inputs
        """
        entries = self._entries_of(first)
        key = (name, *map(id, others))
        if key not in entries:
            # The other inputs are kept alive, so that their ids stay theirs. Keeping `first` alive
            # here would keep the entry for ever.
            entries[key] = ([one for one in others if one is not first], make())
        derived: Tensor = entries[key][1]
        return derived

    def _entries_of(self, tensor: Tensor) -> dict[object, Any]:
        entries: dict[object, Any] | None = self._entries.get(tensor)
        if entries is None:
            entries = self._entries[tensor] = {}
        return entries
