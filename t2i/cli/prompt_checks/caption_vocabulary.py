"""The words of the captions that a model was trained on, as its t2i.json records them."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from t2i.denoiser.loading.t2i_json import read_t2i_json

ALL_WORDS_KEY = "words"
"""Key of the list that holds every word; the other lists hold those of one kind."""
MIN_SIMILARITY = 0.6
"""Similarity from which a word is suggested for another: "yellow" for "yelow", none for "lion"."""
MIN_SUGGESTED_LENGTH = 3
"""Letters of a word that is suggested: "on" is similar to too many."""
WORD_PATTERN = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
T2I_JSON_REMEDY = 'Expected {"knows": {"words": ["a", "cat"]}}; mend the file or remove it.'


class _Trained(BaseModel):
    config: Mapping[str, object] = {}


class _Notes(BaseModel):
    """The keys of a t2i.json that are read here."""

    model_config = ConfigDict(strict=True)

    knows: Mapping[str, list[str]] | None = None
    trained: _Trained = _Trained()


@dataclass(frozen=True, slots=True)
class CaptionVocabulary:
    """Words of the captions that a model was trained on, as its t2i.json records them.

    words_by_kind : "objects", "colours", ... -> their names; and under "words" every word
    """

    words_by_kind: Mapping[str, list[str]]

    def find_unknown_words_with_suggestions(self, texts: Iterable[str]) -> dict[str, str | None]:
        """Return each word of the texts that is unknown, with the most similar known one."""
        known = {word.casefold() for word in self.words_by_kind.get(ALL_WORDS_KEY, ())}
        suggestions = tuple(sorted(word for word in known if len(word) >= MIN_SUGGESTED_LENGTH))
        words = (match[0] for text in texts for match in WORD_PATTERN.finditer(text))
        return {
            word: _closest_word(word.casefold(), suggestions)
            for word in dict.fromkeys(words)
            if word.casefold() not in known
        }


@lru_cache(maxsize=4096)
def _closest_word(word: str, words: tuple[str, ...]) -> str | None:
    return next(iter(difflib.get_close_matches(word, words, 1, MIN_SIMILARITY)), None)


def read_caption_vocabulary(model: Path) -> CaptionVocabulary | None:
    """Read the caption vocabulary from a model's t2i.json; None if it records none.

    For a model that was trained on scenes before vocabularies were recorded it follows from the
    recorded config of the scenes. Raises ModelError for a t2i.json of another format.
    """
    notes = read_t2i_json(model, _Notes, T2I_JSON_REMEDY)
    if notes is None:
        return None
    if notes.knows is not None:
        return CaptionVocabulary(notes.knows) if ALL_WORDS_KEY in notes.knows else None
    return _words_of_scenes(notes.trained.config.get("data"))


def _words_of_scenes(data: object) -> CaptionVocabulary | None:
    if not isinstance(data, dict) or data.get("kind") != "scenes":
        return None
    from t2i.scenes.caption_vocabulary import list_caption_vocabulary_by_category
    from t2i.scenes.scenes import SceneDatasetConfig

    try:
        return CaptionVocabulary(
            list_caption_vocabulary_by_category(SceneDatasetConfig.model_validate(data))
        )
    except (ValidationError, ValueError):
        return None  # scenes of another version of t2i, whose captions are not known here
