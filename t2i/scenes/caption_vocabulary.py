"""Vocabulary of the captions of scenes, stored beside a model that was trained on them."""

import re
from typing import get_args

from t2i.scenes.captions import (
    BACKGROUND_FRAMES,
    OPENING_FRAMES,
    POSITION_TEMPLATES,
    TEMPLATES_WITHOUT_POSITIONS,
)
from t2i.scenes.held_out import list_training_colours
from t2i.scenes.object_placement import SizeWord
from t2i.scenes.scenes import SceneDatasetConfig, resolve_object_names
from t2i.scenes.sprites import BACKGROUND_COLOURS, load_object_entries_by_name

INDEFINITE_ARTICLES = ("a", "an")
WORD_PATTERN = re.compile(r"[a-z]+")


def list_caption_vocabulary_by_category(config: SceneDatasetConfig) -> dict[str, list[str]]:
    """Return the vocabulary of the captions of a configuration's scenes, by category.

    Categories: objects, their other names, colours, sizes, relations of an A and a B, backgrounds;
    "words" lists every word of every caption.
    """
    objects = resolve_object_names(config.vocabulary)
    natural = {
        colour for name in objects if (colour := load_object_entries_by_name()[name].natural_colour)
    }
    painted = {
        colour for name in objects for colour in list_training_colours(name) if config.repainted
    }
    others = sorted(
        other for name in objects for other in load_object_entries_by_name()[name].synonyms
    )
    sizes, backgrounds = list(get_args(SizeWord)), list(BACKGROUND_COLOURS)
    most = range(1, config.max_objects + 1)
    stated = [
        template
        for (_, count), templates in POSITION_TEMPLATES.items()
        for template in templates
        if count in most and config.stated
    ]
    plain = [template for count in most for template in TEMPLATES_WITHOUT_POSITIONS[count]]
    texts = [
        *(text for text, _ in (*plain, *stated)),
        *OPENING_FRAMES,
        *(
            text.replace("COLOUR", "background").replace("PLAIN", "background")
            for text in BACKGROUND_FRAMES
        ),
        *(*objects, *others, *natural, *painted, *sizes, *backgrounds, *INDEFINITE_ARTICLES),
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
        "words": sorted(
            {
                word
                for text in texts
                for word in WORD_PATTERN.findall(strip_template_placeholders(text))
            }
        ),
    }


def strip_template_placeholders(text: str) -> str:
    """Return a caption template without its placeholders for objects, such as {0} or {the 1}, but
    with the word "the" of those that have it.
    """
    return re.sub(r"\{(the )?\d?\}", r" \1 ", text)
