"""What a model says it knows: the words of the captions that it was trained on."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from t2i.denoiser.loading.address import NOTES
from t2i.errors import ModelError
from t2i.safe_reading import MODEL_CONFIG, read_bytes

ALL_WORDS = "words"
"""The list that holds every word; the other ones say what they stand for."""
MIN_SIMILARITY = 0.6
"""How alike a word must be to be offered for another: "yelow" is to "yellow", a lion to nothing."""
MIN_SUGGESTED_LETTERS = 3
"""Letters of a word that is offered: "on" is like too many."""
WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


class Trained(BaseModel):
    config: Mapping[str, object] = {}


class Notes(BaseModel):
    """What is read of a model's t2i.json here."""

    model_config = ConfigDict(strict=True)

    knows: Mapping[str, list[str]] | None = None
    trained: Trained = Trained()


@dataclass(frozen=True, slots=True)
class KnownWords:
    """kinds : "objects", "colours", ... -> their names; and under "words" every word"""

    kinds: Mapping[str, list[str]]

    def unknown(self, texts: Iterable[str]) -> dict[str, str | None]:
        """Each word of the texts that it does not know, and the nearest that it does."""
        words = {word.casefold() for word in self.kinds.get(ALL_WORDS, ())}
        offered = tuple(sorted(word for word in words if len(word) >= MIN_SUGGESTED_LETTERS))
        said = (match[0] for text in texts for match in WORD.finditer(text))
        return {
            word: _closest_word(word.casefold(), offered)
            for word in dict.fromkeys(said)
            if word.casefold() not in words
        }


@lru_cache(maxsize=4096)
def _closest_word(word: str, words: tuple[str, ...]) -> str | None:
    return next(iter(difflib.get_close_matches(word, words, 1, MIN_SIMILARITY)), None)


def read_known_words(model: Path) -> KnownWords | None:
    """None for a model that says nothing: most models.

    One that was trained on scenes before its words were recorded says which scenes: they tell.
    """
    path = model / NOTES
    if not path.is_file():
        return None
    try:
        notes = Notes.model_validate_json(read_bytes(path, MODEL_CONFIG))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ModelError(
            f'Cannot use {path}: {place}: {first["msg"]}. Expected {{"knows": {{"words": ["a", '
            '"cat"]}}; mend the file or remove it.'
        ) from error
    if notes.knows is not None:
        return KnownWords(notes.knows) if ALL_WORDS in notes.knows else None
    return _words_of_scenes(notes.trained.config.get("data"))


def _words_of_scenes(data: object) -> KnownWords | None:
    if not isinstance(data, dict) or data.get("kind") != "scenes":
        return None
    from t2i.scenes.caption_vocabulary import spoken
    from t2i.scenes.scenes import ScenesConfig

    try:
        return KnownWords(spoken(ScenesConfig.model_validate(data)))
    except (ValidationError, ValueError):
        return None  # scenes of another t2i, whose captions are not known here
