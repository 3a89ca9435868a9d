"""Prompt pairs that differ in one thing, derived from seeds alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from t2i.attention.prompts.prompt_tokens import Words
from t2i.errors import ArgumentError
from t2i.evaluate.generation.judge import CaptionStatement, build_caption_statement
from t2i.scenes.captions import (
    MAX_CAPTION_WORDS,
    Caption,
    Mention,
    choose_random_noun_phrase,
    generate_caption,
)
from t2i.scenes.held_out import list_training_colours, may_appear_together_in_training
from t2i.scenes.layout import SceneLayout
from t2i.scenes.object_placement import PlacedObject, random_choice
from t2i.scenes.recognised_objects import Relation
from t2i.scenes.scenes import SceneDataset, list_shared_contrasting_backgrounds

ChangeKind = Literal["swap", "recolour", "background", "addition", "strengthen"]
CHANGE_TITLES: dict[ChangeKind, str] = {
    "swap": "another object",
    "recolour": "another colour",
    "background": "another background",
    "addition": "one more object",
    "strengthen": "a stronger word",
}
"""Kind of change -> its title in reports."""
JOINING_PHRASES: dict[Relation, tuple[str, ...]] = {
    "left": ("and", "and", "to the left of"),
    "above": ("and", "and", "above"),
}
"""Relation of the present object to the added one -> phrases that may stand between them."""
MAX_SCENES_TRIED = 1000
"""Scenes that are tried in order until one of them allows a pair."""


@dataclass(frozen=True, slots=True)
class PromptPair:
    """Pair of a source and a target scene, whose captions are the prompts of an edit.

    object_index : of the object that changes, is added or strengthened; None for the background
    source_word, target_word : its words in the captions; "background"; () if it is absent
    strengthened_word : word to be weighted, in a target whose text equals the source's
    """

    kind: ChangeKind
    source: SceneLayout
    target: SceneLayout
    object_index: int | None
    source_word: Words
    target_word: Words
    strengthened_word: str | None = None

    @property
    def captions(self) -> tuple[str, str]:
        """Captions of the source and the target scene, the prompts of the edit."""
        return self.source.caption.text, self.target.caption.text

    @property
    def target_prompt_display_text(self) -> str:
        """Target prompt as records and galleries show it: the target's caption, followed by ", more
        WORD" if a word is strengthened.
        """
        if self.strengthened_word is None:
            return self.captions[1]
        return f"{self.captions[1]}, more {self.strengthened_word}"

    @property
    def target_statement(self) -> CaptionStatement:
        """Statements of the target's caption, by which an edited picture is judged."""
        return build_caption_statement(self.target)

    @property
    def changed_object_names(self) -> tuple[str, ...]:
        """Names of the changed object in source and target; () if the background changes."""
        if self.object_index is None:
            return ()
        both = (
            layout.objects[self.object_index : self.object_index + 1]
            for layout in (self.source, self.target)
        )
        return tuple(dict.fromkeys(placed.name for objects in both for placed in objects))

    @property
    def unchanged_object_names(self) -> tuple[str, ...]:
        """Names of the source's objects that an edit should leave as they are."""
        return tuple(
            placed.name
            for number, placed in enumerate(self.source.objects)
            if number != self.object_index
        )


def build_nth_prompt_pair(scenes: SceneDataset, kind: ChangeKind, number: int) -> PromptPair:
    """Return the prompt pair with this number for a kind of change, built from the first scene that
    allows such a change. Raises ArgumentError if none of MAX_SCENES_TRIED scenes does.
    """
    for attempt in range(MAX_SCENES_TRIED):
        index = number * MAX_SCENES_TRIED + attempt
        found = PAIR_BUILDERS[kind](scenes, scenes.compose_layout(index), f"{kind}/{index}")
        if found is not None:
            return found
    raise ArgumentError(
        f"None of {MAX_SCENES_TRIED} scenes can be changed in {CHANGE_TITLES[kind]!r} with the "
        f"objects {', '.join(scenes.vocabulary)}: leave out that kind of edit."
    )


def build_replaced_object_pair(
    scenes: SceneDataset, layout: SceneLayout, key: str
) -> PromptPair | None:
    """Return a prompt pair whose target replaces one object of a scene by another; None if the
    scene allows no such change.
    """
    rng = build_seeded_numpy_generator(scenes, key)
    index = int(rng.random() * len(layout.objects))
    others = [one.name for number, one in enumerate(layout.objects) if number != index]
    old = layout.objects[index]
    fitting = [
        name
        for name in scenes.vocabulary
        if name != old.name and may_appear_together_in_training(name, others)
    ]
    if not fitting:
        return None
    return build_pair_from_replacement_object(
        scenes,
        layout,
        key,
        "swap",
        index,
        replace(old, name=random_choice(rng, fitting), colour=None),
    )


def build_recolour_pair(scenes: SceneDataset, layout: SceneLayout, key: str) -> PromptPair | None:
    """Return a prompt pair whose target paints an object of a scene in another colour; None if the
    scene allows no such change.
    """
    rng = build_seeded_numpy_generator(scenes, key)
    index = int(rng.random() * len(layout.objects))
    old = layout.objects[index]
    colours = [colour for colour in list_training_colours(old.name) if colour != old.colour]
    if not colours:
        return None
    return build_pair_from_replacement_object(
        scenes, layout, key, "recolour", index, replace(old, colour=random_choice(rng, colours))
    )


def build_background_pair(scenes: SceneDataset, layout: SceneLayout, key: str) -> PromptPair | None:
    """Return a prompt pair whose target changes the background of a scene; None unless both
    captions mention the background.
    """
    rng = build_seeded_numpy_generator(scenes, key)
    names, colours = zip(*((placed.name, placed.colour) for placed in layout.objects), strict=True)
    others = [
        name
        for name in list_shared_contrasting_backgrounds(names, colours)
        if name != layout.background
    ]
    if not others:
        return None
    source = copy_layout_with_random_caption(scenes, layout, key)
    target = copy_layout_with_random_caption(
        scenes, replace(layout, background=random_choice(rng, others)), key
    )
    if not all(f"{one.background} background" in one.caption.text for one in (source, target)):
        return None
    return PromptPair("background", source, target, None, "background", "background")


def build_added_object_pair(
    scenes: SceneDataset, layout: SceneLayout, key: str
) -> PromptPair | None:
    """Return a prompt pair whose target adds a scene's second object to its first; None for scenes
    that do not allow it.
    """
    if len(layout.objects) != 2:
        return None
    first, second = layout.objects
    alone = replace(layout, objects=(first,), arrangement="single")
    source = copy_layout_with_random_caption(scenes, alone, key)
    mention = find_mention(source, 0)
    rng = build_seeded_numpy_generator(scenes, f"{key}/added")
    relation: Relation = "left" if layout.arrangement == "row" else "above"
    joint = random_choice(rng, JOINING_PHRASES[relation])
    added = choose_random_noun_phrase(rng, second)
    begin, end = source.caption.text[: mention.span[1]], source.caption.text[mention.span[1] :]
    text = f"{begin} {joint} {added}{end}"
    at = len(begin) + len(f" {joint} {added}")
    other = Mention(1, added.word, (at - len(added.word), at), added.colour, added.size_word)
    relations = () if joint == "and" else ((0, relation, 1),)
    if len(text.split()) > MAX_CAPTION_WORDS:
        return None
    target = replace(layout, caption=Caption(text, (mention, other), relations))
    return PromptPair("addition", source, target, 1, (), added.word)


def build_strengthened_size_word_pair(
    scenes: SceneDataset, layout: SceneLayout, key: str
) -> PromptPair | None:
    """Return a prompt pair of equal captions whose target gives the size word ("small" or "large")
    more weight; None unless the scene has a single object and the caption states its size.
    """
    source = copy_layout_with_random_caption(scenes, layout, key)
    mention = find_mention(source, 0)
    if len(layout.objects) > 1 or mention.size_word is None:
        return None
    word = mention.word
    return PromptPair(
        "strengthen", source, source, 0, word, word, strengthened_word=mention.size_word
    )


PAIR_BUILDERS: dict[ChangeKind, Callable[[SceneDataset, SceneLayout, str], PromptPair | None]] = {
    "swap": build_replaced_object_pair,
    "recolour": build_recolour_pair,
    "background": build_background_pair,
    "addition": build_added_object_pair,
    "strengthen": build_strengthened_size_word_pair,
}


def build_pair_from_replacement_object(
    scenes: SceneDataset,
    layout: SceneLayout,
    key: str,
    kind: ChangeKind,
    index: int,
    new: PlacedObject,
) -> PromptPair | None:
    """Return a prompt pair whose target has `new` in place of the scene's object of this index;
    None if an object would not stand out from the background, or the captions mention objects
    differently.
    """
    objects = tuple(new if number == index else one for number, one in enumerate(layout.objects))
    names, colours = zip(*((one.name, one.colour) for one in objects), strict=True)
    if layout.background not in list_shared_contrasting_backgrounds(names, colours):
        return None
    source = copy_layout_with_random_caption(scenes, layout, key)
    target = copy_layout_with_random_caption(scenes, replace(layout, objects=objects), key)
    order = [mention.object_index for mention in source.caption.mentions]
    if [mention.object_index for mention in target.caption.mentions] != order:
        return None  # one of them had to be shortened
    words = find_mention(source, index).word, find_mention(target, index).word
    return PromptPair(kind, source, target, index, *words)


def copy_layout_with_random_caption(
    scenes: SceneDataset, layout: SceneLayout, key: str
) -> SceneLayout:
    """Return a scene's layout with a new random caption; equal keys give equal wording."""
    rng = build_seeded_numpy_generator(scenes, f"{key}/caption")
    caption = generate_caption(rng, layout.objects, layout.arrangement, layout.background)
    return replace(layout, caption=caption)


def find_mention(layout: SceneLayout, index: int) -> Mention:
    """Return the caption's mention of the object of this index in the layout."""
    return next(mention for mention in layout.caption.mentions if mention.object_index == index)


def build_seeded_numpy_generator(scenes: SceneDataset, key: str) -> np.random.Generator:
    """Return a NumPy random generator that is seeded with the seed of the scenes and a text key."""
    words: Sequence[int] = [scenes.config.seed, *key.encode()]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
