"""Held-out combinations: pairs of objects, and objects in a colour, that training never shows."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from t2i.scenes.sprites import find_scene_assets_folder, load_object_entries_by_name


@dataclass(frozen=True, slots=True)
class HeldOutCombinations:
    """Combinations that training never shows: pairs of objects, and an object in a colour."""

    pairs: frozenset[frozenset[str]]
    colours: frozenset[tuple[str, str]]


@cache
def load_held_out_combinations() -> HeldOutCombinations:
    """Load the held-out combinations from `t2i/assets/scenes/held_out.json`."""
    listed = json.loads(
        find_scene_assets_folder().joinpath("held_out.json").read_text(encoding="utf-8")
    )
    return HeldOutCombinations(
        pairs=frozenset(frozenset(pair) for pair in listed["pairs"]),
        colours=frozenset((name, colour) for name, colour in listed["colours"]),
    )


def may_appear_together_in_training(name: str, others: Sequence[str]) -> bool:
    """Return True if scenes for training may show the object `name` together with `others`: no pair
    of them is held out.
    """
    pairs = load_held_out_combinations().pairs
    return name not in others and not any(frozenset((name, other)) in pairs for other in others)


def list_training_colours(name: str) -> list[str]:
    """Return the colours in which training scenes may paint the object `name`."""
    return [
        c
        for c in load_object_entries_by_name()[name].paint_colours
        if (name, c) not in load_held_out_combinations().colours
    ]
