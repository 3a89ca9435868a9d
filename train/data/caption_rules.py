"""Caption rules of a subset: at each visit one caption is chosen, shuffled and completed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from train.caption_words import contains_phrase


@dataclass(frozen=True, slots=True)
class CaptionRules:
    """Rules for the captions of a subset: shuffling and dropout of tags, trigger word, prefix,
    suffix.

    shuffle, keep_tokens : shuffle the comma-separated tags after the first `keep_tokens`
    tag_dropout : share of those tags that is left out
    trigger : put before a caption that does not contain it
    """

    shuffle: bool = False
    keep_tokens: int = 0
    tag_dropout: float = 0.0
    trigger: str = ""
    prefix: str = ""
    suffix: str = ""


def compose_caption(captions: Sequence[str], rules: CaptionRules, rng: np.random.Generator) -> str:
    """Compose the caption of one visit: choose one of the picture's captions, shuffle or drop
    tags, add trigger word, prefix and suffix.
    """
    caption = captions[int(rng.integers(len(captions)))] if captions else ""
    if rules.shuffle or rules.tag_dropout:
        tags = _split_tags(caption)
        kept, rest = tags[: rules.keep_tokens], tags[rules.keep_tokens :]
        if rules.shuffle:
            rest = [rest[index] for index in rng.permutation(len(rest))]
        if rules.tag_dropout:
            stays = rng.random(len(rest)) >= rules.tag_dropout
            rest = [tag for tag, stay in zip(rest, stays, strict=True) if stay]
        caption = ", ".join([*kept, *rest])
    return add_trigger_and_affixes(caption, rules)


def list_possible_captions(captions: Sequence[str], rules: CaptionRules) -> set[str] | None:
    """Return every caption that the rules can make of a picture's captions; None if too many."""
    if rules.shuffle or rules.tag_dropout:
        rest = max(
            (len(_split_tags(caption)) - rules.keep_tokens for caption in captions), default=0
        )
        if rest > (0 if rules.tag_dropout else 1):
            return None
        captions = [", ".join(_split_tags(caption)) for caption in captions]
    return {add_trigger_and_affixes(caption, rules) for caption in captions or ("",)}


def add_trigger_and_affixes(caption: str, rules: CaptionRules) -> str:
    """Return a picture's caption with the trigger word added, if it is missing from it, and then
    the prefix before and the suffix behind it.
    """
    trigger = rules.trigger
    if trigger and not contains_phrase(caption, trigger):
        caption = f"{trigger}, {caption}" if caption else trigger
    return join_with_space_if_needed(join_with_space_if_needed(rules.prefix, caption), rules.suffix)


def join_with_space_if_needed(left: str, right: str) -> str:
    """Join two texts by a space, unless one has it already or `right` starts with punctuation."""
    if not left or not right or left[-1].isspace() or right[0].isspace() or right[0] in ",.;:!?":
        return left + right
    return f"{left} {right}"


def _split_tags(caption: str) -> list[str]:
    return [tag for part in caption.split(",") if (tag := part.strip())]
