"""What is made of a picture's captions at a visit: one is drawn, shuffled, completed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from train.caption_words import contains_words


@dataclass(frozen=True, slots=True)
class Wording:
    """The rules for the captions of a subset.

    shuffle, keep_tokens : the tags between commas change places, but for the first ones
    tag_dropout : share of those tags that is left out
    trigger : goes before a caption that does not name it
    """

    shuffle: bool = False
    keep_tokens: int = 0
    tag_dropout: float = 0.0
    trigger: str = ""
    prefix: str = ""
    suffix: str = ""


def worded(captions: Sequence[str], wording: Wording, rng: np.random.Generator) -> str:
    """The caption of one visit; no caption counts as an empty one."""
    caption = captions[int(rng.integers(len(captions)))] if captions else ""
    if wording.shuffle or wording.tag_dropout:
        tags = tags_of(caption)
        kept, rest = tags[: wording.keep_tokens], tags[wording.keep_tokens :]
        if wording.shuffle:
            rest = [rest[place] for place in rng.permutation(len(rest))]
        if wording.tag_dropout:
            stays = rng.random(len(rest)) >= wording.tag_dropout
            rest = [tag for tag, stay in zip(rest, stays, strict=True) if stay]
        caption = ", ".join([*kept, *rest])
    return completed(caption, wording)


def every_wording(captions: Sequence[str], wording: Wording) -> set[str] | None:
    """All that `worded` may give, or None where shuffling or leaving out makes too many to list."""
    if wording.shuffle or wording.tag_dropout:
        rest = max((len(tags_of(caption)) - wording.keep_tokens for caption in captions), default=0)
        if rest > (0 if wording.tag_dropout else 1):
            return None
        captions = [", ".join(tags_of(caption)) for caption in captions]
    return {completed(caption, wording) for caption in captions or ("",)}


def completed(caption: str, wording: Wording) -> str:
    """With trigger, prefix and suffix."""
    trigger = wording.trigger
    if trigger and not contains_words(caption, trigger):
        caption = f"{trigger}, {caption}" if caption else trigger
    return joined(joined(wording.prefix, caption), wording.suffix)


def joined(left: str, right: str) -> str:
    """With one space between, unless either brings it or `right` goes on with punctuation."""
    if not left or not right or left[-1].isspace() or right[0].isspace() or right[0] in ",.;:!?":
        return left + right
    return f"{left} {right}"


def tags_of(caption: str) -> list[str]:
    return [tag for part in caption.split(",") if (tag := part.strip())]
