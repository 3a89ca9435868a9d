"""Captions of scenes; every statement in them is true of the layout they are generated for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from t2i.scenes.object_placement import Arrangement, PlacedObject, SizeWord, random_choice
from t2i.scenes.recognised_objects import Relation
from t2i.scenes.sprites import load_object_entries_by_name

MAX_CAPTION_WORDS = 22
"""Largest number of words of a caption; a longer one loses its frame, then its positions."""
POSITION_SHARE = 0.75
"""Share of the captions of several objects that state their positions, by default."""

Template = tuple[str, tuple[tuple[int, Relation, int], ...]]
"""Text of a caption, and the relations (subject, relation, object) that it states.

The text names objects by their numbers in the layout, {0}; {the 0} mentions one again.
"""

TEMPLATES_WITHOUT_POSITIONS: dict[int, tuple[Template, ...]] = {
    1: (("{0}", ()),),
    2: (
        ("{0} and {1}", ()),
        ("{1} and {0}", ()),
        ("{0} with {1}", ()),
        ("two objects: {0} and {1}", ()),
        ("two things: {1} and {0}", ()),
    ),
    3: (
        ("{0}, {1} and {2}", ()),
        ("{2}, {0} and {1}", ()),
        ("{1}, {2} and {0}", ()),
        ("three objects: {0}, {1} and {2}", ()),
    ),
}
"""Number of objects -> templates that list them without their positions."""
OPENING_FRAMES = (
    "a picture of {}",
    "a photo of {}",
    "an image of {}",
    "an illustration of {}",
    "there is {}",
)
BACKGROUND_FRAMES = (
    "{} on COLOUR",
    "{} on COLOUR",
    "{} in front of COLOUR",
    "{} against COLOUR",
    "{}, PLAIN",
    "on COLOUR, {}",
    "COLOUR with {}",
)

POSITION_TEMPLATES: dict[tuple[Arrangement, int], tuple[Template, ...]] = {
    ("row", 2): (
        ("{0} to the left of {1}", ((0, "left", 1),)),
        ("{1} to the right of {0}", ((1, "right", 0),)),
        ("{0} left of {1}", ((0, "left", 1),)),
        ("{1} right of {0}", ((1, "right", 0),)),
        ("{0} with {1} to its right", ((1, "right", 0),)),
        ("{1} with {0} to its left", ((0, "left", 1),)),
        ("{0} on the left and {1} on the right", ((0, "left", 1),)),
        ("{0} next to {1}", ()),
        ("{1} beside {0}", ()),
    ),
    ("column", 2): (
        ("{0} above {1}", ((0, "above", 1),)),
        ("{1} below {0}", ((1, "below", 0),)),
        ("{0} over {1}", ((0, "above", 1),)),
        ("{1} under {0}", ((1, "below", 0),)),
        ("{0} with {1} below it", ((1, "below", 0),)),
        ("{1} with {0} above it", ((0, "above", 1),)),
        ("{0} at the top and {1} at the bottom", ((0, "above", 1),)),
    ),
    ("row", 3): (
        ("{0}, {1} and {2} in a row", ()),
        ("from left to right: {0}, {1} and {2}", ((0, "left", 1), (1, "left", 2))),
        ("{1} between {0} and {2}", ()),
        (
            "{0} to the left of {1} and {2} to the right of {the 1}",
            ((0, "left", 1), (2, "right", 1)),
        ),
        ("{1} with {0} to its left and {2} to its right", ((0, "left", 1), (2, "right", 1))),
    ),
    ("column", 3): (
        ("from top to bottom: {0}, {1} and {2}", ((0, "above", 1), (1, "above", 2))),
        ("{0} above {1} and {2} below {the 1}", ((0, "above", 1), (2, "below", 1))),
        ("{1} with {0} above it and {2} below it", ((0, "above", 1), (2, "below", 1))),
        ("{1} between {0} and {2}", ()),
    ),
}


@dataclass(frozen=True, slots=True)
class Mention:
    """Occurrence of an object in a caption; `word` is caption[span[0]:span[1]]."""

    object_index: int
    word: str
    span: tuple[int, int]
    colour: str | None
    size_word: SizeWord | None


@dataclass(frozen=True, slots=True)
class Caption:
    """Caption of a scene: its text, mentions of objects in order, and stated relations."""

    text: str
    mentions: tuple[Mention, ...]
    relations: tuple[tuple[int, Relation, int], ...]


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """Noun phrase of one object: optional size, optional colour, noun."""

    word: str
    colour: str | None
    size_word: SizeWord | None

    def __str__(self) -> str:
        words = " ".join(part for part in (self.size_word, self.colour, self.word) if part)
        return f"{choose_indefinite_article(words)} {words}"


def choose_indefinite_article(words: str) -> str:
    """Return "a" or "an", whichever precedes these words."""
    return "an" if words[0] in "aeiou" and not words.startswith("unicorn") else "a"


def generate_caption(
    rng: np.random.Generator,
    objects: Sequence[PlacedObject],
    arrangement: Arrangement,
    background: str,
    position_share: float = POSITION_SHARE,
) -> Caption:
    """Generate a random caption of a scene; equal states of `rng` give equal captions.

    position_share : probability that the positions of several objects are stated
    """
    phrases = [choose_random_noun_phrase(rng, placed) for placed in objects]
    stated = list_position_templates(objects, arrangement)
    plain = TEMPLATES_WITHOUT_POSITIONS[len(objects)]
    template = (
        random_choice(rng, stated)
        if stated and rng.random() < position_share
        else random_choice(rng, plain)
    )
    shorter = random_choice(rng, plain)
    opening = random_choice(rng, OPENING_FRAMES) if rng.random() < 0.3 else "{}"
    setting = random_choice(rng, BACKGROUND_FRAMES) if rng.random() < 0.6 else "{}"
    if template[0].startswith(("from ", "two ", "three ")) and setting == BACKGROUND_FRAMES[-1]:
        setting = BACKGROUND_FRAMES[0]
    setting = setting.replace(
        "COLOUR", f"{choose_indefinite_article(background)} {background} background"
    )
    setting = setting.replace("PLAIN", f"{background} background")
    if not template[0].startswith("{") or not setting.startswith("{}"):
        opening = "{}"

    for frame, (body, relations) in (
        (setting.format(opening), template),
        (setting, template),
        ("{}", template),
        ("{}", shorter),
    ):
        caption = fill_template(frame, body, relations, phrases)
        if len(caption.text.split()) <= MAX_CAPTION_WORDS:
            break
    return caption


def choose_random_noun_phrase(rng: np.random.Generator, placed: PlacedObject) -> NounPhrase:
    """Choose an object's noun phrase at random: synonym or not, with or without colour and size."""
    thing = load_object_entries_by_name()[placed.name]
    use_synonym, say_natural, say_size = rng.random(), rng.random(), rng.random()
    synonym = random_choice(rng, thing.synonyms or (thing.name,))
    return NounPhrase(
        word=synonym if use_synonym < 0.15 else thing.name,
        colour=placed.colour or (thing.natural_colour if say_natural < 0.2 else None),
        size_word=placed.size_word if say_size < 0.85 else None,
    )


def list_position_templates(
    objects: Sequence[PlacedObject], arrangement: Arrangement
) -> tuple[Template, ...]:
    """Return the caption templates that state the positions of these objects in this arrangement;
    () if there are none.
    """
    if arrangement != "corner":
        return POSITION_TEMPLATES.get((arrangement, len(objects)), ())
    corner, beside, stacked = objects
    across: Relation = "left" if corner.centre[0] < beside.centre[0] else "right"
    along: Relation = "above" if corner.centre[1] < stacked.centre[1] else "below"
    opposite: dict[Relation, Relation] = {
        "left": "right",
        "right": "left",
        "above": "below",
        "below": "above",
    }
    beyond, off = opposite[across], opposite[along]
    return (
        (f"{{0}} with {{1}} to its {beyond} and {{2}} {off} it", ((1, beyond, 0), (2, off, 0))),
        (f"{{0}} to the {across} of {{1}} and {along} {{2}}", ((0, across, 1), (0, along, 2))),
        (
            f"{{0}} {along} {{2}} and {{1}} to the {beyond} of {{the 0}}",
            ((0, along, 2), (1, beyond, 0)),
        ),
        (
            f"{{2}} {off} {{0}}, with {{1}} to the {beyond} of {{the 0}}",
            ((2, off, 0), (1, beyond, 0)),
        ),
    )


def fill_template(
    frame: str,
    body: str,
    relations: tuple[tuple[int, Relation, int], ...],
    phrases: Sequence[NounPhrase],
) -> Caption:
    """Fill a template with noun phrases: the caption, with the span of each object's word.

    frame : text with {} for the body, such as one of OPENING_FRAMES
    body, relations : text of the template, and the relations that it states
    """
    text = ""
    mentions = []
    for piece in frame.replace("{}", body).replace("{", "\0{").replace("}", "}\0").split("\0"):
        if piece.startswith("{the "):
            text += f"the {phrases[int(piece[5:-1])].word}"
        elif piece.startswith("{"):
            index = int(piece[1:-1])
            called = phrases[index]
            text += str(called)
            span = (len(text) - len(called.word), len(text))
            mentions.append(Mention(index, called.word, span, called.colour, called.size_word))
        else:
            text += piece
    return Caption(text, tuple(mentions), relations)
