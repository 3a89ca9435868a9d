"""A result held against an earlier one: what became better, what worse, and what may be chance."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from t2i.errors import ArgumentError
from t2i.evaluate.telling.chapter import Block, Cell, Chapter, Figure, Table
from t2i.evaluate.telling.shown import interval, with_unit
from t2i.evaluate.telling.statistics import difference, is_sure

WIDER = {"%": "points"}
"""The unit of a difference, where it is another."""
Earlier = Mapping[str, Any]
"""What evaluation.json holds."""


def read_earlier(path: Path, facts: Mapping[str, Any], version: int) -> Earlier:
    """An earlier evaluation.json. Raises ArgumentError for one that cannot be compared with.

    facts : of the result at hand
    """
    try:
        earlier = json.loads(path.read_bytes())
        if earlier["version"] != version:
            raise ValueError(f"its layout is {earlier['version']}, expected {version}")
        judged_by = earlier["recogniser"]
        _ = earlier["chapters"], earlier["model"]["name"], earlier["config"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArgumentError(
            f"Cannot compare with {path}: {error}. Give the evaluation.json of another result."
        ) from error
    if judged_by != facts["recogniser"]:
        raise ArgumentError(
            f"{path} was judged by another recogniser ({judged_by[:10]}, here "
            f"{facts['recogniser'][:10]}): its figures mean something else. Evaluate that model "
            "again with this one."
        )
    return dict(earlier)


def against(chapters: Sequence[Chapter], earlier: Earlier, same_scenes: bool) -> Chapter:
    """The differences of all tables that both have, those that are sure in a table of their own.

    same_scenes : whether both were measured with one configuration
    """
    tables = [
        changed
        for chapter in chapters
        for block in chapter.blocks
        if isinstance(block, Table) and (changed := changes(chapter.name, block, earlier))
    ]
    rows = [row for table in tables for row in sure(table)]
    blocks: list[Block] = [
        Table(
            name="sure_changes",
            title=f"Beyond their intervals: {len(rows)} of {sum(map(figures, tables))}",
            heads=["change", "that is"],
            rows=rows,
            units={},
            better={},
        ),
        *tables,
    ]
    name = earlier["model"]["name"]
    told = "on the same scenes" if same_scenes else "with another configuration: on other scenes"
    return Chapter(
        name="against",
        title=f"Against {name}",
        text=f"This result less that of {name}, made on {earlier['machine']['date']} {told}. A "
        "change is sure where its interval does not contain 0; of twenty that are none, one will "
        "look sure.",
        blocks=blocks,
    )


def changes(chapter: str, table: Table, earlier: Earlier) -> Table | None:
    """The table with each figure less the earlier one; None where the earlier result lacks it."""
    block = earlier["chapters"].get(chapter, {}).get("blocks", {}).get(table.name)
    if block is None or block["kind"] != "table":
        return None
    before = {row["label"]: row["cells"] for row in block["rows"]}
    rows: list[tuple[str, list[Cell]]] = []
    for label, cells in table.rows:
        old = before.get(label, {})
        change = [less(cell, old.get(head)) for head, cell in zip(table.heads, cells, strict=True)]
        if any(change):
            rows.append((label, [*change]))
    if not rows:
        return None
    return Table(
        name=f"changes_{table.name}",
        title=f"{table.title}: the differences",
        heads=table.heads,
        rows=rows,
        units={head: WIDER.get(unit, unit) for head, unit in table.units.items()},
        better=table.better,
    )


def less(cell: Cell, before: object) -> Figure | None:
    if not isinstance(cell, Figure) or not isinstance(before, Mapping):
        return None
    return difference(cell, Figure(**before))


def figures(table: Table) -> int:
    return sum(isinstance(cell, Figure) for _, cells in table.rows for cell in cells)


def sure(table: Table) -> Iterator[tuple[str, list[Cell]]]:
    for label, cells in table.rows:
        for head, cell in zip(table.heads, cells, strict=True):
            if not isinstance(cell, Figure) or not is_sure(cell):
                continue
            unit, way = table.units.get(head, ""), table.better.get(head)
            up = cell.value > 0
            verdict = "" if way is None else "better" if up == (way == "higher") else "worse"
            title = table.title.removesuffix(": the differences")
            words = f"{with_unit(cell, unit)} ({interval(cell, unit)})"
            yield f"{title}: {label}, {head}", [words, verdict]
