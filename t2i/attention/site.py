"""Sites of attention in a model, and the selection of sites, steps and heads."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

from t2i.errors import ArgumentError, suggest_choice
from t2i.terminal import plural

SiteKind = Literal["self", "cross", "joint"]
SitePlace = Literal["down", "mid", "up", ""]

StepWindow = tuple[float, float] | tuple[int, int] | Sequence[int] | None
"""Steps of a run: None for all, two floats for shares of it, two integers for [first, end)."""


@dataclass(frozen=True, slots=True)
class Site:
    """Attention site: a module whose forward calls attention.

    name : its name in the model; "control.0/..." in the network of control 0 of the run
    kind : "cross" where the keys are the text's, "self" where they are the image's, "joint" where
        they are both
    place : "down", "mid" or "up" of a UNet; "" elsewhere
    size : H, W of the image there; None where the queries lie on no grid
    heads, keys : numbers of heads, and of key positions of one row
    text : first and end of the text among the keys; (0, 0) where there is none
    image : first and end of the image among the queries
    """

    name: str
    kind: SiteKind
    place: SitePlace
    size: tuple[int, int] | None
    heads: int
    keys: int
    text: tuple[int, int]
    image: tuple[int, int]

    @property
    def num_positions(self) -> int:
        """Number of image positions among the queries of an attention site."""
        return self.image[1] - self.image[0]

    @property
    def control_number(self) -> int | None:
        """Number of the control in whose network the site is; None for one of the denoiser."""
        number, _ = split_control_name(self.name)
        return number if isinstance(number, int) else None

    def __str__(self) -> str:
        size = "x".join(map(str, self.size)) if self.size else f"{self.num_positions} positions"
        heads = plural(self.heads, "head")
        return f"{self.name} ({self.kind}, {self.place or 'nowhere'}, {size}, {heads})"


@dataclass(frozen=True, slots=True)
class Sites:
    """Selection of attention sites: those that match every field that is given.

    name : a regular expression searched in the site's name, such as "up_blocks.1". It selects sites
        of the denoiser alone, unless it begins with a control: "control.0/mid_block", "control.0"
        for every site in the network of control 0, "control" for those of all controls
    kind, place : one of them, or several
    size : H, W of the image there
    max_positions : largest number of image positions there, such as 16 * 16

    Raises ArgumentError for unknown kinds and places and for a malformed regular expression.
    """

    name: str | None = None
    kind: SiteKind | tuple[SiteKind, ...] | None = None
    place: SitePlace | tuple[SitePlace, ...] | None = None
    size: tuple[int, int] | None = None
    max_positions: int | None = None

    def __post_init__(self) -> None:
        for field, known in (("kind", SITE_KINDS), ("place", SITE_PLACES)):
            for value in _as_tuple(getattr(self, field)):
                if value not in known:
                    raise ArgumentError(
                        f"Got {field}={value!r}. {suggest_choice(str(value), known)}"
                    )
        try:
            re.compile(split_control_name(self.name or "")[1])
        except re.error as error:
            raise ArgumentError(
                f"Got the site {self.name!r}, which is no regular expression: {error}"
            ) from error

    def matches(self, site: Site) -> bool:
        """Return True if an attention site matches every field of the selection."""
        control, pattern = split_control_name(self.name or "")
        of_control, own_name = split_control_name(site.name)
        return (
            (control == of_control or (control == "any" and of_control is not None))
            and re.search(pattern, own_name) is not None
            and (self.kind is None or site.kind in _as_tuple(self.kind))
            and (self.place is None or site.place in _as_tuple(self.place))
            and (self.size is None or site.size == tuple(self.size))
            and (self.max_positions is None or site.num_positions <= self.max_positions)
        )

    def contains_all_of(self, other: "Sites") -> bool:
        """Return True if this selection surely has every site of another: each of its fields is
        None, or that of the other, or admits it.
        """
        most = self.max_positions
        of_denoiser = split_control_name(other.name or "")[0] is None
        return (
            (self.name == other.name or (self.name is None and of_denoiser))
            and self.size in (None, other.size)
            and (most is None or (other.max_positions is not None and other.max_positions <= most))
            and all(
                mine is None or (its is not None and set(_as_tuple(its)) <= set(_as_tuple(mine)))
                for mine, its in ((self.kind, other.kind), (self.place, other.place))
            )
        )

    @property
    def is_limited_to_control_networks(self) -> bool:
        """True if the selection's name begins with a control, so that it selects sites in control
        networks (ControlNets) and none of the denoiser.
        """
        return split_control_name(self.name or "")[0] is not None

    def selects_control_network(self, number: int) -> bool:
        """Return True if the selection's name selects attention sites in the network of the control
        of this number.
        """
        return split_control_name(self.name or "")[0] in (number, "any")


CONTROL_NAME = re.compile(r"control(?:\.(\d{1,6}))?(?:/|$)")
"""Beginning of the name of a site in a control's network, or of a pattern for such names."""
SITE_KINDS = ("self", "cross", "joint")
SITE_PLACES: tuple[SitePlace, ...] = ("down", "mid", "up")


@lru_cache(maxsize=1024)
def split_control_name(name: str) -> tuple[int | Literal["any"] | None, str]:
    """Split a site's name, or a pattern for names, into the control that it begins with and the
    rest: "control.0/mid_block" into 0 and "mid_block", "control/mid_block" into "any" and
    "mid_block"; None and the name itself where it names no control.
    """
    found = CONTROL_NAME.match(name)
    if found is None:
        return None, name
    return "any" if found[1] is None else int(found[1]), name[found.end() :]


def find_place_in_unet(name: str) -> SitePlace:
    """Return the part of a UNet or ControlNet that a module of this name lies in: "down", "mid" or
    "up"; "" elsewhere.
    """
    name = split_control_name(name)[1]
    return next((place for place in SITE_PLACES if name.startswith(f"{place}_block")), "")


def site_to_dict(site: Site) -> dict[str, Any]:
    """Convert an attention site to a dict of JSON-compatible values."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(site).items()
    }


def site_from_dict(facts: Mapping[str, Any]) -> Site:
    """Build an attention site from the dict that `site_to_dict` returned."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()
    }
    return Site(**values)


def as_sites(chosen: "Sites | str | None") -> Sites:
    """Return a selection of attention sites (Sites) made from a part of their names, a Sites, or
    None for all sites.

    Raises ArgumentError for anything else.
    """
    if isinstance(chosen, Sites):
        return chosen
    if chosen is None or isinstance(chosen, str):
        return Sites(name=chosen)
    raise ArgumentError(
        f"Got sites={chosen!r}, expected a part of their names, such as 'up_blocks', or a "
        "Sites(kind='cross', place='up')."
    )


def build_no_site_message(wanted: object, sites: Iterable[Site]) -> str:
    """Return the error message for a selection that matches none of the attention sites."""
    found = list(sites)
    lines = "; ".join(map(str, found[:6]))
    more = f"; and {len(found) - 6} more" if len(found) > 6 else ""
    return (
        f"{wanted} fits none of the {plural(len(found), 'site')} of this model. There are: "
        f"{lines}{more}. attn.sites() lists all of them."
    )


def list_steps_in_window(window: StepWindow, num_steps: int, table: int | None = None) -> range:
    """Return the steps of a window in a run of `num_steps` steps.

    A share f of the run ends before step int(f * table). `table` is the number of steps, or one
    more, as prompt-to-prompt counts in cross-attention (Hertz et al. 2022, arXiv 2208.01626).
    """
    check_step_window("steps", window)
    if window is None:
        return range(num_steps)
    first, end = window
    if isinstance(first, float) or isinstance(end, float):
        table = num_steps if table is None else table
        first, end = int(first * table), int(end * table)
    return range(min(int(first), num_steps), min(int(end), num_steps))


def check_step_window(name: str, window: object) -> None:
    """Raise ArgumentError unless a step window is None or two numbers in order, (first, end);
    `name` is the argument that it was given as.
    """
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


def is_empty_step_window(window: StepWindow) -> bool:
    """Return True for a step window that was written to cover no step, such as (0, 0)."""
    return window is not None and window[0] == window[1]


def is_number(value: object) -> bool:
    """Return True for an int or a float; bools are neither."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_heads(heads: object) -> None:
    """Raise ArgumentError unless `heads` is None or a tuple of attention head numbers."""
    if heads is not None and not (
        isinstance(heads, tuple)
        and heads
        and all(isinstance(head, int) and head >= 0 for head in heads)
    ):
        raise ArgumentError(
            f"Got heads={heads!r}, expected a tuple of numbers from 0, such as (0, 1), or None for "
            "all of them."
        )


def _as_tuple(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)
