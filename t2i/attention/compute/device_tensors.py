"""What edits say, where the model computes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


class DeviceTensors:
    """Tensors of edits on the devices and in the precisions that asked for them, and what chains of
    edits make of them: each once, and kept for as long as the tensor itself.
    """

    def __init__(self) -> None:
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def to(self, tensor: Tensor, like: Tensor) -> Tensor:
        """The tensor as `like` has it."""
        if tensor.device == like.device and tensor.dtype == like.dtype:
            return tensor
        place = (like.device, like.dtype, torch.is_inference_mode_enabled())
        known = self._of(tensor)
        if place not in known:
            known[place] = tensor.to(like)
        made: Tensor = known[place]
        return made

    def chained(
        self, name: str, first: Tensor, *others: Tensor | None, make: Callable[[], Tensor]
    ) -> Tensor:
        """What `make` gives for these tensors."""
        known = self._of(first)
        key = (name, *map(id, others))
        if key not in known:
            # The others are kept, so that their ids stay theirs; itself would never be let go.
            known[key] = ([one for one in others if one is not first], make())
        made: Tensor = known[key][1]
        return made

    def _of(self, tensor: Tensor) -> dict[object, Any]:
        known: dict[object, Any] | None = self._known.get(tensor)
        if known is None:
            known = self._known[tensor] = {}
        return known
