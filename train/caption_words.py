"""Whole words in captions: finding and replacing them."""

import re


def contains_phrase(caption: str, words: str) -> bool:
    """Return True if the words stand in the caption, and not as a part of longer words."""
    return re.search(_whole_words(words), caption) is not None


def replace_phrase(caption: str, words: str, replacement: str) -> str:
    """Return the caption with every occurrence of the words, as whole words, replaced."""
    return re.sub(_whole_words(words), lambda _: replacement, caption)


def _whole_words(words: str) -> str:
    return rf"(?<!\w){re.escape(words)}(?!\w)"
