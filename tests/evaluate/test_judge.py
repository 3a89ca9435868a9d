"""What a caption says, and whether a picture written down by hand shows it."""

from t2i.evaluate.generation.judge import (
    CRITERION_TITLES,
    CaptionStatement,
    build_caption_statement,
    judge_by_other_captions,
    judge_by_statement,
)
from t2i.scenes.recognised_objects import OWN_COLOUR, Recognition
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig
from t2i.scenes.sprites import PAINT_COLOURS, load_object_entries_by_name
from tests.evaluate.recognitions import at, seen_of

APPLE_AND_CAT = CaptionStatement(
    text="a blue apple to the left of a cat on a white background",
    objects=("apple", "cat"),
    colours=(("apple", "blue", True),),
    relations=(("apple", "left", "cat"),),
    background="white",
)


def truth(scenes: SceneDataset, number: int) -> Recognition:
    """A real scene, as a recogniser without errors would tell of it."""
    scene, layout = scenes.render_scene(number), scenes.compose_layout(number)
    places = {}
    for placed in scene.objects:
        (one,) = (one for one in layout.objects if one.name == placed.name)
        colour = one.colour or load_object_entries_by_name()[placed.name].natural_colour
        places[placed.name] = (colour if colour in PAINT_COLOURS else OWN_COLOUR, one.centre)
    return seen_of(scene.background, **places)


def test_what_captions_say_is_true_of_their_scenes() -> None:
    for split in ("train", "held_out"):
        scenes = SceneDataset(SceneDatasetConfig(size=32, seed=9, split=split, length=300))
        met: set[str] = set()
        for number in range(300):
            judged = judge_by_statement(
                build_caption_statement(scenes.compose_layout(number)), truth(scenes, number)
            )
            assert all(all(flags) for flags in judged.values()), scenes.compose_layout(
                number
            ).caption
            met |= judged.keys()
        assert met == CRITERION_TITLES.keys()


def test_only_what_is_said_is_asked() -> None:
    lone = CaptionStatement("a cat", ("cat",), (), (), None)
    assert judge_by_statement(lone, seen_of("teal", cat=at(0.5, 0.5, "blue"))) == {
        "one": [True],
        "nothing_else": [True],
        "everything": [True],
    }
    assert judge_by_statement(
        APPLE_AND_CAT, seen_of("white", apple=at(0.2, 0.5, "blue"), cat=at(0.8, 0.5))
    ) == {
        "each": [True, True],
        "both": [True],
        "relation": [True],
        "placed": [True],
        "background": [True],
        "recolour": [True],
        "nothing_else": [True],
        "everything": [True],
    }


def test_each_mistake_is_counted_where_it_belongs() -> None:
    def wrong(seen: Recognition) -> set[str]:
        return {
            kind
            for kind, flags in judge_by_statement(APPLE_AND_CAT, seen).items()
            if not all(flags)
        }

    apple, cat = at(0.2, 0.5, "blue"), at(0.8, 0.5)
    assert wrong(seen_of("white", apple=at(0.9, 0.5, "blue"), cat=cat)) == {
        "relation",
        "placed",
        "everything",
    }
    assert wrong(seen_of("black", apple=apple, cat=cat)) == {"background", "everything"}
    swapped = seen_of("white", apple=at(0.2, 0.5), cat=at(0.8, 0.5, "blue"))
    assert wrong(swapped) == {"recolour", "everything"}
    assert wrong(seen_of("white", apple=apple, cat=cat, dog=at(0.5, 0.9))) == {"nothing_else"}
    assert wrong(seen_of("white", apple=apple)) == {"each", "both", "relation", "everything"}
    # A relation of what is not there is wrong, but not asked among those where all are there.
    assert judge_by_statement(APPLE_AND_CAT, seen_of("white", apple=apple))["placed"] == []


def test_a_relation_asks_for_no_touching_centres() -> None:
    seen = seen_of("white", apple=at(0.50, 0.5, "blue"), cat=at(0.53, 0.5))
    assert judge_by_statement(APPLE_AND_CAT, seen)["relation"] == [False]


def test_an_own_colour_is_asked_for_where_the_recogniser_has_a_name_for_it() -> None:
    assert load_object_entries_by_name()["apple"].natural_colour == "red"
    red = CaptionStatement("a red apple", ("apple",), (("apple", "red", False),), (), None)
    for colour, right in ((OWN_COLOUR, False), ("red", True), ("blue", False)):
        assert judge_by_statement(red, seen_of(apple=at(0.5, 0.5, colour)))["natural"] == [right]
    brown = CaptionStatement("a brown dog", ("dog",), (("dog", "brown", False),), (), None)
    assert judge_by_statement(brown, seen_of(dog=at(0.5, 0.5, OWN_COLOUR)))["natural"] == [True]
    assert "recolour" not in judge_by_statement(red, seen_of())


def test_the_control_asks_what_the_next_such_caption_says() -> None:
    cat, dog = (CaptionStatement(f"a {name}", (name,), (), (), None) for name in ("cat", "dog"))
    statements = [cat, APPLE_AND_CAT, dog]
    seen = seen_of("white", cat=at(0.5, 0.5))
    assert judge_by_statement(cat, seen)["one"] == [True]
    assert judge_by_other_captions(statements, 0, seen)["one"] == [False]
    # The next one with one object is found around the end.
    assert judge_by_other_captions(statements, 2, seen)["one"] == [True]
    # No other caption states a relation: there is nothing to be held against.
    control = judge_by_other_captions(statements, 1, seen)
    assert "relation" not in control
    assert control["everything"] == [False]
