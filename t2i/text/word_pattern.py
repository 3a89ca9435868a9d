"""Regular expression that finds a whole word in a text. Imports no torch."""

import re

from t2i.errors import ArgumentError

# A letter of a script that puts spaces between words: not Thai, Lao, Burmese, Khmer, kana, Han.
LETTER_OF_SPACED_SCRIPT = (
    r"[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
)


def build_word_pattern(word: str) -> re.Pattern[str]:
    """Return the regular expression of a whole word or phrase, with any space between its words."""
    spelled = r"\s+".join(re.escape(part) for part in word.split())
    if not spelled:
        raise ArgumentError(f"Got {word!r} where a word of the prompt is expected.")
    start = (
        f"(?<!{LETTER_OF_SPACED_SCRIPT})" if re.match(LETTER_OF_SPACED_SCRIPT, word.strip()) else ""
    )
    end = (
        f"(?!{LETTER_OF_SPACED_SCRIPT})"
        if re.match(LETTER_OF_SPACED_SCRIPT, word.strip()[-1])
        else ""
    )
    return re.compile(start + spelled + end, re.IGNORECASE)
