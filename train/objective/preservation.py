"""Differential output preservation: what a fine-tune is not about, it leaves as it was.

In the same step and on the same noisy latents, the denoiser is told a caption without the new word,
once as it is trained and once as the base model, and the difference is a part of the loss.
DreamBooth's prior needs pictures of the class for that; this needs none.
"""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from t2i.randomness import derive_seed
from train.caption_words import contains_words, replace_words


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
            chosen = derive_seed(seed, step, slot, "preserve") % len(self.preserve_captions)
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
    found = [word for word in words if contains_words(caption, word)]
    for word in sorted(found, key=len, reverse=True):
        caption = replace_words(caption, word, words[word])
    return caption if found else None
