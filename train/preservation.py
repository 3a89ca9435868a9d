"""Differential output preservation: what a fine-tune is not about, it leaves as it was.

In the same step and on the same noisy latents, the denoiser is told a caption without the new word,
once with the adapters that are trained and once without them, and the difference is a part of the
loss. DreamBooth's prior needs pictures of the class for that; this needs none.

B batch rows, C channels, H W latent size.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from train.data.wording import put_in_place, says
from train.randomness import key


class PreservationConfig(BaseModel):
    """Base of the targets that can be held to the model they start from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preserve_weight: float = Field(0.0, ge=0)
    """Weight of the difference to the base model where the new word is not said; 0 is without."""
    preserve_words: dict[str, str] = {}
    """New word -> what captions say in its place, most often the class: {"<my-mug>" = "mug"}."""
    preserve_captions: tuple[str, ...] = ()
    """Captions of one's own that are to draw what they drew, in place of the pictures'."""

    def preserved(self, caption: str, seed: int, step: int, slot: int) -> str | None:
        """The caption of a row that is to stay as it is; None where there is none for it."""
        if self.preserve_captions:
            chosen = key(seed, step, slot, "preserve") % len(self.preserve_captions)
            return self.preserve_captions[chosen]
        return without(caption, self.preserve_words)

    def all_preserved(self, captions: Iterable[str]) -> set[str]:
        """Every caption that `preserved` may give for these."""
        if not self.preserve_weight:
            return set()
        replaced = (without(caption, self.preserve_words) for caption in captions)
        return set(self.preserve_captions) or {one for one in replaced if one is not None}


def without(caption: str, words: dict[str, str]) -> str | None:
    """The caption with other words in the place of new ones; None where it says none of them."""
    found = [word for word in words if says(caption, word)]
    for word in sorted(found, key=len, reverse=True):
        caption = put_in_place(caption, word, words[word])
    return caption if found else None


@contextmanager
def without_adapters(models: Sequence[nn.Module]) -> Iterator[None]:
    """Within the block the models compute as if no adapter were there, without gradients."""
    layers = [
        layer for model in models for layer in model.modules() if isinstance(layer, BaseTunerLayer)
    ]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        with torch.no_grad():
            yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
