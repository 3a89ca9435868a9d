"""Data model of a report: chapters of tables, plots and galleries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Estimate:
    """Measured number with its confidence interval.

    low, high : ends of the 95 % interval; None where there is none
    count : number of samples
    samples : the samples in a fixed order, None where one could not be measured; a figure of the
        same scenes can be compared with this one sample by sample
    """

    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None
    samples: Sequence[float | None] | None = field(default=None, compare=False, repr=False)


Cell = Estimate | str | None


@dataclass(frozen=True, slots=True)
class Table:
    """Table of a report; its cells are estimates or text.

    name : a key in the JSON, such as "objects"
    units : column head -> unit of its figures, "" for none; those of "%" are shares of 1
    better : column head -> direction in which it is better; heads without one are missing
    """

    name: str
    title: str
    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    units: Mapping[str, str]
    better: Mapping[str, Literal["higher", "lower"]]


@dataclass(frozen=True, slots=True)
class Plot:
    """Plot of a report: lines over a common axis; each point (x, estimate) has its interval."""

    name: str
    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[tuple[float, Estimate]]]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Gallery of a report: (file name, label) of each picture."""

    name: str
    title: str
    pictures: Sequence[tuple[str, str]]
    columns: int = 6


Block = Table | Plot | Gallery


@dataclass(frozen=True, slots=True)
class Chapter:
    """Chapter of a report; `text` explains how to read its tables, plots and galleries."""

    name: str
    title: str
    text: str
    blocks: Sequence[Block]
