"""What the captions of scenes can say: recorded beside a model that has learned from them."""

import re
from typing import get_args

from t2i.scenes.captions import (
    OPENINGS,
    PLAIN_THREE,
    PLAIN_TWO,
    SETTINGS,
    SINGLE,
    STATED,
    Template,
)
from t2i.scenes.held_out import trained_colours
from t2i.scenes.layout import SizeWord
from t2i.scenes.scenes import ScenesConfig, vocabulary
from t2i.scenes.sprites import BACKGROUNDS, things

PLAIN: dict[int, tuple[Template, ...]] = {1: SINGLE, 2: PLAIN_TWO, 3: PLAIN_THREE}
ARTICLES = ("a", "an")
WORD = re.compile(r"[a-z]+")


def spoken(config: ScenesConfig) -> dict[str, list[str]]:
    """Objects and their other names, colours, sizes, relations of an A and a B, backgrounds; and
    under "words" every word that stands in any caption."""
    objects = vocabulary(config.vocabulary)
    natural = {colour for name in objects if (colour := things()[name].colour)}
    painted = {colour for name in objects for colour in trained_colours(name) if config.repainted}
    others = sorted(other for name in objects for other in things()[name].synonyms)
    sizes, backgrounds = list(get_args(SizeWord)), list(BACKGROUNDS)
    most = range(1, config.max_objects + 1)
    stated = [
        template
        for (_, count), templates in STATED.items()
        for template in templates
        if count in most and config.stated
    ]
    plain = [template for count in most for template in PLAIN[count]]
    texts = [
        *(text for text, _ in (*plain, *stated)),
        *OPENINGS,
        *(text.replace("COLOUR", "background").replace("PLAIN", "background") for text in SETTINGS),
        *(*objects, *others, *natural, *painted, *sizes, *backgrounds, *ARTICLES),
    ]
    return {
        "objects": list(objects),
        "other names": others,
        "colours": sorted(natural | painted),
        "sizes": sizes,
        "relations": [
            text.replace("{0}", "A").replace("{1}", "B") for text, _ in stated if "{2}" not in text
        ],
        "backgrounds": backgrounds,
        "words": sorted({word for text in texts for word in WORD.findall(gone(text))}),
    }


def gone(text: str) -> str:
    """Without the places where a template names objects, but with the words in them."""
    return re.sub(r"\{(the )?\d?\}", r" \1 ", text)
