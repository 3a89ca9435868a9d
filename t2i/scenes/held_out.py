"""Combinations that training never sees, so that what a model makes of them is its own doing."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from t2i.scenes.sprites import assets, things


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Pairs of objects, whatever their order, and objects painted in a colour."""

    pairs: frozenset[frozenset[str]]
    colours: frozenset[tuple[str, str]]


@cache
def held_out() -> HeldOut:
    """What `t2i/assets/scenes/held_out.json` lists."""
    listed = json.loads(assets().joinpath("held_out.json").read_text(encoding="utf-8"))
    return HeldOut(
        pairs=frozenset(frozenset(pair) for pair in listed["pairs"]),
        colours=frozenset((name, colour) for name, colour in listed["colours"]),
    )


def fits(name: str, others: Sequence[str]) -> bool:
    """Whether training may show `name` together with `others`."""
    pairs = held_out().pairs
    return name not in others and not any(frozenset((name, other)) in pairs for other in others)


def trained_colours(name: str) -> list[str]:
    """The colours training may paint `name` in."""
    return [c for c in things()[name].new_colours if (name, c) not in held_out().colours]
