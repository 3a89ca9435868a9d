"""Output preservation: a loss that ties a fine-tune to its base model where the new word is absent.

In the same step and on the same noisy latents, the denoiser and the base model both get a caption
without the new word, and their difference is added to the loss. Unlike DreamBooth's prior
preservation it needs no class pictures.
"""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from t2i.randomness import derive_seed
from train.caption_words import contains_phrase, replace_phrase


class OutputPreservationConfig(BaseModel):
    """Configuration of output preservation, a loss that keeps predictions without the new word near
    the base model's; its keys are part of a target's configuration, which inherits them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preserve_weight: float = Field(0.0, ge=0)
    """Weight of the difference to the base model without the new word; 0 turns it off."""
    preserve_words: dict[str, str] = {}
    """Replacement of each new word, mostly its class: {"<my-mug>" = "mug"}."""
    preserve_captions: tuple[str, ...] = ()
    """Captions to preserve, instead of the pictures' captions without the new word."""

    def choose_preserved_caption(self, caption: str, seed: int, step: int, slot: int) -> str | None:
        """Choose the caption under which a row's output is preserved: one of `preserve_captions` at
        random, else its own with new words replaced; None if it has none of them.
        """
        if self.preserve_captions:
            chosen = derive_seed(seed, step, slot, "preserve") % len(self.preserve_captions)
            return self.preserve_captions[chosen]
        return replace_new_words(caption, self.preserve_words)

    def list_preserved_captions(self, captions: Iterable[str]) -> set[str]:
        """List every caption that `choose_preserved_caption` may return for these captions."""
        if not self.preserve_weight:
            return set()
        replaced = (replace_new_words(caption, self.preserve_words) for caption in captions)
        return set(self.preserve_captions) or {one for one in replaced if one is not None}


def replace_new_words(caption: str, words: dict[str, str]) -> str | None:
    """Return the caption with each new word of a fine-tune replaced by its given replacement; None
    if it contains no new word.
    """
    found = [word for word in words if contains_phrase(caption, word)]
    for word in sorted(found, key=len, reverse=True):
        caption = replace_phrase(caption, word, words[word])
    return caption if found else None
