"""Words for the subject that a starter config teaches: trigger word, name in prompts, class."""

import re
from typing import NamedTuple

from t2i.scenes.captions import choose_indefinite_article
from train.caption_words import contains_phrase
from train.starter_config.options import (
    METHODS_WITH_CLASS_PICTURES,
    METHODS_WITH_NEW_WORDS,
    StarterConfigOptions,
)
from train.starter_config.picture_folder import PictureFolderStats
from train.starter_config.template_values import CONTROL_METHODS

RARE_WORD = "sks"
"""A word that means nothing to most models, so that it can be given a meaning."""


class SubjectWords(NamedTuple):
    """Words for the subject of a fine-tune: its trigger word, its name in prompts ("a sks mug"),
    and its class with an article ("a mug"; "a cat" where the class is not known).
    """

    trigger: str
    name_in_prompts: str
    class_phrase: str


def choose_subject_words(options: StarterConfigOptions) -> SubjectWords:
    """Choose the words for the subject of a fine-tune from the options and the folder's name."""
    kind = f"{choose_indefinite_article(options.kind)} {options.kind}" if options.kind else "a cat"
    if options.method in METHODS_WITH_NEW_WORDS:
        plain = re.sub(r"[^a-z0-9]+", "-", options.folder.resolve().name.lower()).strip("-")
        word = options.word or f"<{plain or 'thing'}>"
        return SubjectWords(word, word, kind)
    word = options.word or RARE_WORD
    name = f"{choose_indefinite_article(word)} {word} {options.kind}" if options.kind else word
    return SubjectWords(word, name, kind)


def teaches_trigger_word(options: StarterConfigOptions) -> bool:
    """Return True if the starter config teaches a trigger word for the subject."""
    named = options.word is not None or options.kind is not None
    return named or options.method in METHODS_WITH_CLASS_PICTURES + METHODS_WITH_NEW_WORDS


def explain_omitted_trigger(options: StarterConfigOptions, facts: PictureFolderStats) -> str | None:
    """Return the reason why a starter config sets no trigger word; None if it sets one, or if
    pictures lack captions.
    """
    if facts.captioned < facts.pictures or options.method in CONTROL_METHODS:
        return None
    word = choose_subject_words(options).trigger
    if not teaches_trigger_word(options):
        return "neither --class nor --word was given"
    if all(contains_phrase(caption, word) for caption in facts.captions):
        return f"each says {word} already"
    return None


def build_default_trigger_comment(options: StarterConfigOptions) -> list[str]:
    """Build comment lines of a starter config on the default trigger word and how to choose
    another.
    """
    word, name, _ = choose_subject_words(options)
    if options.method in CONTROL_METHODS:
        return []
    if options.word is not None or word != RARE_WORD or not teaches_trigger_word(options):
        return []
    return [
        f'Prompts should call it "{name}": {RARE_WORD} means nothing to most models, so it can get',
        "a new meaning, while the model keeps its knowledge of the class. Another one: --word.",
    ]
