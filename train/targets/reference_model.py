"""The base model of a fine-tune, computed with the model that is being trained."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from t2i.errors import TrainingError
from train.cache.model_digests import tensor_to_bytes


class ReferenceModel:
    """Base model of a fine-tune, kept as a copy of the weights that are trained; adapters are
    switched off instead of copied.
    """

    def __init__(self, models: Mapping[str, nn.Module], full: Sequence[nn.Parameter]) -> None:
        """full : trained weights that belong to no adapter, at their values before training"""
        self._models = [*models.values()]
        self._kept: list[tuple[nn.Parameter, Tensor]] = [
            (weight, weight.detach().clone()) for weight in full
        ]

    def compute_digest(self) -> str:
        """Return the SHA-256 of the kept weights, in hex; adapters keep none."""
        digest = hashlib.sha256()
        for _, kept in self._kept:
            digest.update(tensor_to_bytes(kept))
        return digest.hexdigest()

    @contextmanager
    def using_base_weights(self) -> Iterator[None]:
        """Make the trained models compute as the base model within the block, without gradients.

        Raises TrainingError if weights were split over processes since.
        """
        layers = [
            layer
            for model in self._models
            for layer in model.modules()
            if isinstance(layer, BaseTunerLayer)
        ]
        for layer in layers:
            layer.enable_adapters(False)
        self._exchange()
        # NOTE a footgun: autocast caches the cast copy of a weight by its identity, and a copy made
        # without gradients would be used again where gradients are needed.
        torch.clear_autocast_cache()
        try:
            with torch.no_grad():
                yield
        finally:
            self._exchange()
            torch.clear_autocast_cache()
            for layer in layers:
                layer.enable_adapters(True)

    def _exchange(self) -> None:
        """Swap the values of each weight with the kept ones.

        The parameter object stays, so that it keeps the gradient of an earlier pass.
        """
        for place, (weight, kept) in enumerate(self._kept):
            if kept.shape != weight.data.shape or type(kept) is not type(weight.data):
                raise TrainingError(
                    "The weights are split over the processes, but the copy of the base model is "
                    "not: train without FSDP, or train a LoRA, which needs no such copy."
                )
            self._kept[place] = (weight, weight.data)
            weight.data = kept.to(weight.device)


@contextmanager
def computing_without_gradients() -> Iterator[None]:
    """Compute what is trained without gradients within the block.

    Weights that autocast casts meanwhile are not used again where gradients are needed.
    """
    try:
        with torch.no_grad():
            yield
    finally:
        torch.clear_autocast_cache()
