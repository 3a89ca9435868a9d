"""Statements of a caption, and whether a picture fulfils them.

Only what the caption states is judged: a background where it names one, a colour where a
mention has one. The words small and large are not judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from t2i.scenes.layout import SceneLayout
from t2i.scenes.recognised_objects import OWN_COLOUR, Recognition, Relation
from t2i.scenes.sprites import PAINT_COLOURS, load_object_entries_by_name

CRITERION_TITLES: dict[str, str] = {
    "one": "one object",
    "each": "each of several objects",
    "both": "both of two objects",
    "three": "all of three objects",
    "relation": "relation",
    "placed": "relation, where all are there",
    "background": "background",
    "recolour": "new colour on its object",
    "natural": "own colour, where said",
    "nothing_else": "nothing else",
    "everything": "everything said",
}
"""Criterion by which a picture is judged -> its title in reports; in the order of the tables."""


@dataclass(frozen=True, slots=True)
class CaptionStatement:
    """Statement of a caption about its scene: objects, colours, relations and background, by which
    a picture of the caption is judged.

    objects : in the order of their mentions
    colours : (object, colour, True if that is not its natural colour)
    relations : (subject, relation, object)
    """

    text: str
    objects: tuple[str, ...]
    colours: tuple[tuple[str, str, bool], ...]
    relations: tuple[tuple[str, Relation, str], ...]
    background: str | None

    @property
    def criteria(self) -> frozenset[str]:
        """Keys in CRITERION_TITLES of the criteria by which a picture of this caption is judged."""
        several = {2: {"each", "both"}, 3: {"each", "three"}}
        found = several.get(len(self.objects), {"one"}) | {"nothing_else", "everything"}
        if self.relations:
            found |= {"relation", "placed"}
        if self.background is not None:
            found.add("background")
        found |= {"recolour" if new else "natural" for _, _, new in self.colours}
        return frozenset(found)


def build_caption_statement(layout: SceneLayout) -> CaptionStatement:
    """Build the statement of a scene's caption: what a picture of this caption must show."""
    caption = layout.caption
    names = {
        mention.object_index: layout.objects[mention.object_index].name
        for mention in caption.mentions
    }
    colours = tuple(
        (
            names[mention.object_index],
            mention.colour,
            mention.colour
            != load_object_entries_by_name()[names[mention.object_index]].natural_colour,
        )
        for mention in caption.mentions
        if mention.colour is not None
    )
    named = f"{layout.background} background" in caption.text
    return CaptionStatement(
        text=caption.text,
        objects=tuple(names[mention.object_index] for mention in caption.mentions),
        colours=colours,
        relations=tuple((names[a], relation, names[b]) for a, relation, b in caption.relations),
        background=layout.background if named else None,
    )


def judge_by_statement(statement: CaptionStatement, seen: Recognition) -> dict[str, list[bool]]:
    """Judge a recognised picture by what a caption states: criterion -> results, True if met.

    A criterion has one result for each object or colour that it is about, else one; "placed" has
    none unless all related objects are present.
    """
    there = {name: name in seen.objects for name in statement.objects}
    related = {name for one, _, other in statement.relations for name in (one, other)}
    in_place = all(seen.has_relation(*relation) for relation in statement.relations)
    behind = statement.background in (None, seen.background)
    painted: dict[bool, list[bool]] = {True: [], False: []}
    for name, colour, new in statement.colours:
        # The recogniser has no name for some colours that objects are of by themselves.
        right = seen.has_colour(name, colour if colour in PAINT_COLOURS else OWN_COLOUR)
        painted[new].append(right)

    everything = all(there.values()) and in_place and behind and all(painted[True] + painted[False])
    flags = {
        "one": list(there.values()),
        "each": list(there.values()),
        "both": [all(there.values())],
        "three": [all(there.values())],
        "relation": [in_place],
        "placed": [in_place] * all(there[name] for name in related),
        "background": [behind],
        "recolour": painted[True],
        "natural": painted[False],
        "nothing_else": [seen.objects.keys() <= there.keys()],
        "everything": [everything],
    }
    return {kind: flags[kind] for kind in CRITERION_TITLES if kind in statement.criteria}


def judge_by_other_captions(
    statements: Sequence[CaptionStatement], number: int, seen: Recognition
) -> dict[str, list[bool]]:
    """Judge a recognised picture by the captions of other pictures, as a control: how often a wrong
    caption is met by chance.

    Each criterion is judged by the next caption, cyclically, to which it applies, and left out if
    it applies to no other.
    """
    judged = {}
    for kind in CRITERION_TITLES:
        if kind not in statements[number].criteria:
            continue
        for step in range(1, len(statements)):
            other = statements[(number + step) % len(statements)]
            if kind in other.criteria:
                judged[kind] = judge_by_statement(other, seen)[kind]
                break
    return judged
