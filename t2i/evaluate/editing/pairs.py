"""A prompt and the same prompt changed in one thing: what there is to edit, from seeds alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from t2i.attention.prompts.prompt_tokens import Words
from t2i.errors import ArgumentError
from t2i.evaluate.generation.judge import Said, said
from t2i.scenes.captions import MAX_WORDS, Caption, Mention, describe, phrase
from t2i.scenes.held_out import fits, trained_colours
from t2i.scenes.layout import Spot, pick
from t2i.scenes.recognised_objects import Relation
from t2i.scenes.scenes import Layout, Scenes, shared_backgrounds

Kind = Literal["swap", "recolour", "background", "addition", "strengthen"]
KINDS: dict[Kind, str] = {
    "swap": "another object",
    "recolour": "another colour",
    "background": "another background",
    "addition": "one more object",
    "strengthen": "a stronger word",
}
"""What is changed -> what people read."""
JOINTS: dict[Relation, tuple[str, ...]] = {
    "left": ("and", "and", "to the left of"),
    "above": ("and", "and", "above"),
}
"""How the object that is there stands to the one that is added -> what may join them."""
TRIES = 1000
"""Scenes that a pair may be made of."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A source, a target, and what became of what.

    spot : number of the object that changes, is added, or is told more strongly; None for the
        background
    source_word, target_word : what the captions call it; "background"; () for one that is not there
    strong : the word that is told more strongly, in a target that reads as the source
    """

    kind: Kind
    source: Layout
    target: Layout
    spot: int | None
    source_word: Words
    target_word: Words
    strong: str | None = None

    @property
    def texts(self) -> tuple[str, str]:
        return self.source.caption.text, self.target.caption.text

    @property
    def said(self) -> Said:
        """What the target states."""
        return said(self.target)

    @property
    def names(self) -> tuple[str, ...]:
        """The objects of which one becomes the other, or the one that is added; none where the
        background changes."""
        if self.spot is None:
            return ()
        both = (layout.spots[self.spot : self.spot + 1] for layout in (self.source, self.target))
        return tuple(dict.fromkeys(spot.name for spots in both for spot in spots))

    @property
    def kept(self) -> tuple[str, ...]:
        """The objects that nothing is asked to become of."""
        return tuple(
            spot.name for number, spot in enumerate(self.source.spots) if number != self.spot
        )


def pair(scenes: Scenes, kind: Kind, number: int) -> Pair:
    """Pair `number` of a kind: the first of TRIES scenes that the change can be made to."""
    for attempt in range(TRIES):
        index = number * TRIES + attempt
        found = CHANGES[kind](scenes, scenes.layout(index), f"{kind}/{index}")
        if found is not None:
            return found
    raise ArgumentError(
        f"None of {TRIES} scenes can be changed in {KINDS[kind]!r} with the objects "
        f"{', '.join(scenes.vocabulary)}: leave out that kind of edit."
    )


def swap(scenes: Scenes, layout: Layout, key: str) -> Pair | None:
    rng = seeded(scenes, key)
    spot = int(rng.random() * len(layout.spots))
    others = [one.name for number, one in enumerate(layout.spots) if number != spot]
    old = layout.spots[spot]
    fitting = [name for name in scenes.vocabulary if name != old.name and fits(name, others)]
    if not fitting:
        return None
    return changed(
        scenes, layout, key, "swap", spot, replace(old, name=pick(rng, fitting), colour=None)
    )


def recolour(scenes: Scenes, layout: Layout, key: str) -> Pair | None:
    rng = seeded(scenes, key)
    spot = int(rng.random() * len(layout.spots))
    old = layout.spots[spot]
    colours = [colour for colour in trained_colours(old.name) if colour != old.colour]
    if not colours:
        return None
    return changed(scenes, layout, key, "recolour", spot, replace(old, colour=pick(rng, colours)))


def background(scenes: Scenes, layout: Layout, key: str) -> Pair | None:
    rng = seeded(scenes, key)
    names, colours = zip(*((spot.name, spot.colour) for spot in layout.spots), strict=True)
    others = [name for name in shared_backgrounds(names, colours) if name != layout.background]
    if not others:
        return None
    source = told(scenes, layout, key)
    target = told(scenes, replace(layout, background=pick(rng, others)), key)
    if not all(f"{one.background} background" in one.caption.text for one in (source, target)):
        return None
    return Pair("background", source, target, None, "background", "background")


def addition(scenes: Scenes, layout: Layout, key: str) -> Pair | None:
    """The first object of two alone, then both: its caption, with the other put in behind it."""
    if len(layout.spots) != 2:
        return None
    first, second = layout.spots
    alone = replace(layout, spots=(first,), arrangement="single")
    source = told(scenes, alone, key)
    mention = mention_of(source, 0)
    rng = seeded(scenes, f"{key}/added")
    relation: Relation = "left" if layout.arrangement == "row" else "above"
    joint = pick(rng, JOINTS[relation])
    added = phrase(rng, second)
    begin, end = source.caption.text[: mention.span[1]], source.caption.text[mention.span[1] :]
    text = f"{begin} {joint} {added}{end}"
    at = len(begin) + len(f" {joint} {added}")
    other = Mention(1, added.word, (at - len(added.word), at), added.colour, added.size_word)
    relations = () if joint == "and" else ((0, relation, 1),)
    if len(text.split()) > MAX_WORDS:
        return None
    target = replace(layout, caption=Caption(text, (mention, other), relations))
    return Pair("addition", source, target, 1, (), added.word)


def strengthen(scenes: Scenes, layout: Layout, key: str) -> Pair | None:
    """Of one object alone, told to be large or small."""
    source = told(scenes, layout, key)
    mention = mention_of(source, 0)
    if len(layout.spots) > 1 or mention.size_word is None:
        return None
    word = mention.word
    return Pair("strengthen", source, source, 0, word, word, strong=mention.size_word)


CHANGES: dict[Kind, Callable[[Scenes, Layout, str], Pair | None]] = {
    "swap": swap,
    "recolour": recolour,
    "background": background,
    "addition": addition,
    "strengthen": strengthen,
}


def changed(
    scenes: Scenes, layout: Layout, key: str, kind: Kind, spot: int, new: Spot
) -> Pair | None:
    """The pair in which `new` takes a place, if it can be seen there and the captions differ."""
    spots = tuple(new if number == spot else one for number, one in enumerate(layout.spots))
    names, colours = zip(*((one.name, one.colour) for one in spots), strict=True)
    if layout.background not in shared_backgrounds(names, colours):
        return None
    source = told(scenes, layout, key)
    target = told(scenes, replace(layout, spots=spots), key)
    order = [mention.spot for mention in source.caption.mentions]
    if [mention.spot for mention in target.caption.mentions] != order:
        return None  # one of them had to be shortened
    words = mention_of(source, spot).word, mention_of(target, spot).word
    return Pair(kind, source, target, spot, *words)


def told(scenes: Scenes, layout: Layout, key: str) -> Layout:
    """With a caption of its own; the same key chooses the same form."""
    rng = seeded(scenes, f"{key}/caption")
    caption = describe(rng, layout.spots, layout.arrangement, layout.background)
    return replace(layout, caption=caption)


def mention_of(layout: Layout, spot: int) -> Mention:
    return next(mention for mention in layout.caption.mentions if mention.spot == spot)


def seeded(scenes: Scenes, key: str) -> np.random.Generator:
    words: Sequence[int] = [scenes.config.seed, *key.encode()]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
