"""Positions and sizes of the objects of a scene, as fractions of the picture's side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

Arrangement = Literal["single", "row", "column", "corner"]
SizeWord = Literal["small", "large"]
Centre = tuple[float, float]
ChoiceT = TypeVar("ChoiceT")

SINGLE_SIDE_RANGES: dict[SizeWord | None, tuple[float, float]] = {
    "small": (0.30, 0.40),
    None: (0.54, 0.66),
    "large": (0.76, 0.86),
}
"""Size word -> range of a lone object's side; the gaps between the ranges keep the words true."""
CONTRAST_SIDE_RANGES: dict[SizeWord, tuple[float, float]] = {
    "small": (0.25, 0.31),
    "large": (0.54, 0.62),
}
"""Size word -> range of the side, of a small and a large object in a row or column."""
LINE_SIDE_RANGES = {2: (0.40, 0.48), 3: (0.29, 0.33)}
"""Number of objects in a row or column, of one size -> range of their sides."""
CORNER_SIDE_RANGE = (0.36, 0.44)
"""Range of the sides of three objects in a corner arrangement."""
MAX_OFFSET_FROM_LINE = 0.12
"""Largest distance of an object's centre from the middle line of its row or column."""


@dataclass(frozen=True, slots=True)
class PlacedObject:
    """Object of a scene with its size and position; `side` is the longer side of its sprite.

    colour : the colour it is painted in, or None for its natural one
    """

    name: str
    colour: str | None
    size_word: SizeWord | None
    side: float
    centre: Centre


@dataclass(frozen=True, slots=True)
class SizeAndPosition:
    """Size and position in a scene for an object that is not chosen yet."""

    size_word: SizeWord | None
    side: float
    centre: Centre

    def place_object(self, name: str, colour: str | None) -> PlacedObject:
        """Return the object with this name and colour, of this size and at this position."""
        return PlacedObject(name, colour, self.size_word, self.side, self.centre)


def choose_random_arrangement_sizes_and_positions(
    rng: np.random.Generator, count: int
) -> tuple[Arrangement, list[SizeAndPosition]]:
    """Return a random arrangement of a scene (such as a row), and non-overlapping random sizes and
    positions for its `count` objects.

    A row is listed from left to right, a column from top to bottom; of a corner first the position
    with two neighbours, then the one beside it, then the one above or below it.
    """
    if count == 1:
        return "single", [choose_random_single_size_and_position(rng)]
    if count == 3 and rng.random() < 0.5:
        return "corner", choose_random_quadrant_sizes_and_positions(rng)
    sides = choose_random_line_sizes(rng, count)
    gaps = [random_between(rng, 0.2, 1.0) for _ in range(count + 1)]
    lying = rng.random() < 0.5
    return "row" if lying else "column", choose_random_line_positions(rng, sides, gaps, lying)


def choose_random_single_size_and_position(rng: np.random.Generator) -> SizeAndPosition:
    """Return a random size and position near the middle, for a scene's only object."""
    u = rng.random()
    word: SizeWord | None = "small" if u < 0.15 else "large" if u < 0.3 else None
    side = random_between(rng, *SINGLE_SIDE_RANGES[word])
    room = min(0.5 - side / 2, 0.25)
    return SizeAndPosition(
        word, side, (0.5 + random_between(rng, -room, room), 0.5 + random_between(rng, -room, room))
    )


def choose_random_quadrant_sizes_and_positions(rng: np.random.Generator) -> list[SizeAndPosition]:
    """Return random sizes and positions for three objects of a scene, each in another quadrant."""
    sides = [random_between(rng, *CORNER_SIDE_RANGE) for _ in range(3)]
    x, y = (0.25 if rng.random() < 0.5 else 0.75), (0.25 if rng.random() < 0.5 else 0.75)
    places = []
    for side, (middle_x, middle_y) in zip(sides, ((x, y), (1 - x, y), (x, 1 - y)), strict=True):
        room = 0.25 - side / 2
        centre = (
            middle_x + random_between(rng, -1, 1) * room,
            middle_y + random_between(rng, -1, 1) * room,
        )
        places.append(SizeAndPosition(None, side, centre))
    return places


def choose_random_line_sizes(
    rng: np.random.Generator, count: int
) -> list[tuple[SizeWord | None, float]]:
    """Choose size word and side length of each object of a row or column at random."""
    if count == 2 and rng.random() < 0.25:
        contrast: list[tuple[SizeWord | None, float]] = [
            (word, random_between(rng, *sides)) for word, sides in CONTRAST_SIDE_RANGES.items()
        ]
        return contrast if rng.random() < 0.5 else contrast[::-1]
    return [(None, random_between(rng, *LINE_SIDE_RANGES[count])) for _ in range(count)]


def choose_random_line_positions(
    rng: np.random.Generator,
    sides: Sequence[tuple[SizeWord | None, float]],
    gaps: Sequence[float],
    lying: bool,
) -> list[SizeAndPosition]:
    """Choose positions of objects of these sizes in a row or column: along it the free space is
    divided in proportion to `gaps`, across it they are random.
    """
    unit = (1.0 - sum(side for _, side in sides)) / sum(gaps)
    places = []
    along = 0.0
    for (word, side), gap in zip(sides, gaps, strict=False):
        along += gap * unit + side / 2
        room = min(0.5 - side / 2, MAX_OFFSET_FROM_LINE)
        across = 0.5 + random_between(rng, -room, room)
        places.append(SizeAndPosition(word, side, (along, across) if lying else (across, along)))
        along += side / 2
    return places


def random_between(rng: np.random.Generator, low: float, high: float) -> float:
    """Return a random number from `low` to `high`, uniformly distributed."""
    return low + (high - low) * float(rng.random())


def random_choice(rng: np.random.Generator, choices: Sequence[ChoiceT]) -> ChoiceT:
    """Return one of the choices at random, each with the same probability."""
    return choices[int(rng.random() * len(choices))]
