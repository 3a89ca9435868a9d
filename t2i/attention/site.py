"""Where attention happens, and which of those places, steps and heads somebody means."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from t2i.errors import ArgumentError, nearest
from t2i.terminal import several

Kind = Literal["self", "cross", "joint"]
Place = Literal["down", "mid", "up", ""]

Window = tuple[float, float] | tuple[int, int] | Sequence[int] | None
"""Steps: None means all, two floats a share of the run, integers the steps [first, end)."""


@dataclass(frozen=True, slots=True)
class Site:
    """A module in whose forward the queries meet the keys.

    kind : "cross" where the keys are the text's, "self" where they are the picture's own, "joint"
        where they are both
    size : H, W of the picture there; None where the queries lie on no grid
    heads, keys : heads, and key positions of one row
    text : first and end of the text among the keys; (0, 0) where there is none
    image : first and end of the picture among the queries
    """

    name: str
    kind: Kind
    place: Place
    size: tuple[int, int] | None
    heads: int
    keys: int
    text: tuple[int, int]
    image: tuple[int, int]

    @property
    def positions(self) -> int:
        """Places of the picture that ask."""
        return self.image[1] - self.image[0]

    def __str__(self) -> str:
        size = "x".join(map(str, self.size)) if self.size else f"{self.positions} positions"
        heads = several(self.heads, "head")
        return f"{self.name} ({self.kind}, {self.place or 'nowhere'}, {size}, {heads})"


@dataclass(frozen=True, slots=True)
class Sites:
    """The sites that fit all that is said here.

    name : a regular expression searched in the site's name, such as "up_blocks.1"
    kind, place : one of them, or several
    size : H, W of the picture there
    max_positions : most places of the picture there, such as 16 * 16
    """

    name: str | None = None
    kind: Kind | tuple[Kind, ...] | None = None
    place: Place | tuple[Place, ...] | None = None
    size: tuple[int, int] | None = None
    max_positions: int | None = None

    def __post_init__(self) -> None:
        for field, known in (("kind", KINDS), ("place", PLACES)):
            for value in _several(getattr(self, field)):
                if value not in known:
                    raise ArgumentError(f"Got {field}={value!r}. {nearest(str(value), known)}")
        try:
            re.compile(self.name or "")
        except re.error as error:
            raise ArgumentError(
                f"Got the site {self.name!r}, which is no regular expression: {error}"
            ) from error

    def fit(self, site: Site) -> bool:
        """Whether all that is said here holds for the site."""
        return (
            (self.name is None or re.search(self.name, site.name) is not None)
            and (self.kind is None or site.kind in _several(self.kind))
            and (self.place is None or site.place in _several(self.place))
            and (self.size is None or site.size == tuple(self.size))
            and (self.max_positions is None or site.positions <= self.max_positions)
        )


KINDS = ("self", "cross", "joint")
PLACES = ("down", "mid", "up")


def sites_of(chosen: "Sites | str | None") -> Sites:
    """A selector from what people write: a part of the name, a Sites, or None for all."""
    if isinstance(chosen, Sites):
        return chosen
    if chosen is None or isinstance(chosen, str):
        return Sites(name=chosen)
    raise ArgumentError(
        f"Got sites={chosen!r}, expected a part of their names, such as 'up_blocks', or a "
        "Sites(kind='cross', place='up')."
    )


def no_site(wanted: object, sites: Iterable[Site]) -> str:
    """The message for a selector that fits none of the sites."""
    found = list(sites)
    lines = "; ".join(map(str, found[:6]))
    more = f"; and {len(found) - 6} more" if len(found) > 6 else ""
    return (
        f"{wanted} fits none of the {several(len(found), 'site')} of this model. There are: "
        f"{lines}{more}. Ask attn.sites() for all of them."
    )


def steps_of(window: Window, num_steps: int, table: int | None = None) -> range:
    """The steps that a window means in a run of `num_steps`.

    A share f of the run ends before step int(f * table); `table` is the number of steps, or one
    more, as prompt-to-prompt counts in cross-attention (Hertz et al. 2022, arXiv 2208.01626).
    """
    check_window("steps", window)
    if window is None:
        return range(num_steps)
    first, end = window
    if isinstance(first, float) or isinstance(end, float):
        table = num_steps if table is None else table
        first, end = int(first * table), int(end * table)
    return range(min(int(first), num_steps), min(int(end), num_steps))


def check_window(name: str, window: object) -> None:
    if window is None:
        return
    example = f"{name}=(0.0, 0.8) for a share of the run or {name}=(0, 10) for steps"
    if not isinstance(window, tuple | list) or len(window) != 2 or not all(map(is_number, window)):
        raise ArgumentError(f"Got {name}={window!r}, expected two numbers: {example}.")
    first, end = window
    shares = any(isinstance(side, float) for side in window)
    if not 0 <= first <= end or (shares and end > 1):
        raise ArgumentError(
            f"Got {name}={window!r}, expected the first to be at most the second"
            f"{', and shares from 0.0 to 1.0' if shares else ''}: {example}."
        )


def is_empty(window: Window) -> bool:
    """Whether nobody could expect it to cover a step."""
    return window is not None and window[0] == window[1]


def is_number(value: object) -> bool:
    """Which True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_heads(heads: object) -> None:
    if heads is not None and not (
        isinstance(heads, tuple)
        and heads
        and all(isinstance(head, int) and head >= 0 for head in heads)
    ):
        raise ArgumentError(
            f"Got heads={heads!r}, expected a tuple of numbers from 0, such as (0, 1), or None for "
            "all of them."
        )


def _several(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)
