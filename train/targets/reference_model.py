"""The model that a fine-tune began from, within the one that is trained."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from t2i.errors import TrainingError


class Reference:
    """Adapters are switched off; of all other weights that are trained it keeps what they were."""

    def __init__(self, models: Mapping[str, nn.Module], full: Sequence[nn.Parameter]) -> None:
        """full : the weights that are trained and are no adapter's, as they are before training"""
        self._models = [*models.values()]
        self._kept: list[tuple[nn.Parameter, Tensor]] = [
            (weight, weight.detach().clone()) for weight in full
        ]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the models compute as the base model does, without gradients.

        Raises TrainingError where weights were split over processes since.
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
        # NOTE a footgun: autocast keeps what it made of a weight, by the weight, and without a
        # gradient where it made it so.
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
        """What a weight holds is swapped, and not the weight: the gradient of a pass before is
        still that of the weight."""
        for place, (weight, kept) in enumerate(self._kept):
            if kept.shape != weight.data.shape or type(kept) is not type(weight.data):
                raise TrainingError(
                    "The weights are split over the processes, and what they began as is not: "
                    "train without FSDP, or a LoRA, of which the base model is what is left when "
                    "it is switched off."
                )
            self._kept[place] = (weight, weight.data)
            weight.data = kept.to(weight.device)
