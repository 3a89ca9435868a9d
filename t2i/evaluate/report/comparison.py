"""Comparison of a result with an earlier one: significant changes and all differences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from t2i.evaluate.report.chapter import Block, Cell, Chapter, Estimate, Table
from t2i.evaluate.report.earlier_result import EarlierEstimate, EarlierResult, EarlierTable
from t2i.evaluate.report.number_format import format_cell_with_unit, format_interval
from t2i.evaluate.report.sample_values import format_sample_values, parse_sample_values
from t2i.evaluate.report.statistics import independent_difference, is_significant, paired_difference

CHAPTER_NAME = "against"
"""Name of the comparison's chapter; an earlier result may hold one too."""
DIFFERENCE_UNITS = {"%": "points"}
"""Unit of a figure -> unit of a difference of such figures, where it is another."""
IN_THIS_RESULT, IN_THE_OTHER = "this result", "the other"


def build_comparison_chapter(
    chapters: Sequence[Chapter], scenes: Mapping[str, str], earlier: EarlierResult
) -> Chapter:
    """Build the report chapter that compares a result with an earlier one.

    Significant differences are in a table of their own, all differences in the others.

    scenes : chapter -> digest of its captions and prompts; samples are paired where both
        digests are equal
    """
    changed: list[Table] = []
    lone: list[tuple[str, list[Cell]]] = []
    for chapter in chapters:
        tables = [block for block in chapter.blocks if isinstance(block, Table)]
        before = earlier.parse_tables_of_chapter(chapter.name)
        if before is None:
            lone += [(f"chapter {chapter.title!r}", [IN_THIS_RESULT])] * bool(tables)
            continue
        same = scenes[chapter.name] == earlier.scenes.get(chapter.name)
        for table in tables:
            if table.name not in before:
                lone.append((table.title, [IN_THIS_RESULT]))
                continue
            lone += iter_unmatched_label_rows(table, before[table.name])
            change = build_difference_table(table, before[table.name], same)
            changed += [] if change is None else [change]
        known = {table.name for table in tables}
        lone += [
            (table.title, [IN_THE_OTHER]) for name, table in before.items() if name not in known
        ]
    names = {CHAPTER_NAME, *(chapter.name for chapter in chapters)}
    lone += [
        (f"chapter {name!r}", [IN_THE_OTHER]) for name in earlier.chapters if name not in names
    ]

    rows = [row for table in changed for row in iter_significant_difference_rows(table)]
    title = f"Beyond their intervals: {len(rows)} of {sum(map(count_estimate_cells, changed))}"
    blocks: list[Block] = [Table("sure_changes", title, ["change", "that is"], rows, {}, {})]
    blocks += changed
    if lone:
        blocks.append(
            Table("only_in_one", "Not compared, as only one has it", ["in"], lone, {}, {})
        )
    return Chapter(
        name=CHAPTER_NAME,
        title=f"Against {earlier.model.name}",
        text=f"This result less that of {earlier.model.name}, made on {earlier.machine.date}. "
        f"{describe_sample_pairing(chapters, scenes, earlier)} A change is significant where its "
        "interval does not contain 0; of twenty figures that did not really change, one is "
        "significant by chance.",
        blocks=blocks,
    )


def describe_sample_pairing(
    chapters: Sequence[Chapter], scenes: Mapping[str, str], earlier: EarlierResult
) -> str:
    """Describe whether two results are compared sample by sample or as independent ones."""
    if not earlier.scenes:
        return (
            "It is of an older form, without the samples behind its figures: intervals are those "
            "of independent samples, rather too wide where both used the same scenes."
        )
    both = [chapter for chapter in chapters if chapter.name in earlier.scenes]
    other = [c.title for c in both if scenes[c.name] != earlier.scenes[c.name]]
    if not other:
        return "Both used the same scenes: they are compared sample by sample."
    return (
        f"Other scenes were used in {', '.join(other)}: intervals there are those of independent "
        "samples. The rest is compared sample by sample."
    )


def iter_unmatched_label_rows(
    table: Table, before: EarlierTable
) -> Iterator[tuple[str, list[Cell]]]:
    """Yield, as rows for a comparison table, which columns and rows are in only one of two tables:
    a text with the labels, and the result that has them.
    """
    labels = [label for label, _ in table.rows], [row.label for row in before.rows]
    for what, ours, theirs in (("columns", table.heads, before.heads), ("rows", *labels)):
        for place, some, others in ((IN_THIS_RESULT, ours, theirs), (IN_THE_OTHER, theirs, ours)):
            lone = [name for name in some if name not in others]
            if lone:
                yield f"{table.title}: {what} {', '.join(map(repr, lone))}", [place]


def build_difference_table(table: Table, before: EarlierTable, same_scenes: bool) -> Table | None:
    """Return a report table with the cells of an earlier one subtracted, with intervals; None if
    they have no figures in common.
    """
    old = {row.label: row.cells for row in before.rows}
    rows: list[tuple[str, list[Cell]]] = []
    for label, cells in table.rows:
        there = old.get(label, {})
        change: list[Cell] = [
            subtract_earlier_cell(cell, there.get(head), same_scenes)
            for head, cell in zip(table.heads, cells, strict=True)
        ]
        if any(change):
            rows.append((label, change))
    kept = [n for n in range(len(table.heads)) if any(cells[n] for _, cells in rows)]
    if not kept:
        return None
    return Table(
        name=f"changes_{table.name}",
        title=f"{table.title}: the differences",
        heads=[table.heads[n] for n in kept],
        rows=[(label, [cells[n] for n in kept]) for label, cells in rows],
        units={head: DIFFERENCE_UNITS.get(unit, unit) for head, unit in table.units.items()},
        better=table.better,
    )


def subtract_earlier_cell(
    cell: Cell, before: EarlierEstimate | str | None, same_scenes: bool
) -> Estimate | None:
    """Return a cell's number minus the earlier one, with interval; None unless both exist.

    Samples are compared with the digits that evaluation.json has, so that equal results are equal.
    """
    if not isinstance(cell, Estimate) or not isinstance(before, EarlierEstimate):
        return None
    if not same_scenes:
        return independent_difference(cell, before.estimate)
    text = format_sample_values(cell.samples)
    stored = replace(cell, samples=None if text is None else parse_sample_values(text))
    return paired_difference(stored, before.estimate)


def count_estimate_cells(table: Table) -> int:
    """Count the cells of a table that are estimates, not text or empty."""
    return sum(isinstance(cell, Estimate) for _, cells in table.rows for cell in cells)


def iter_significant_difference_rows(table: Table) -> Iterator[tuple[str, list[Cell]]]:
    """Yield a table row for each significant difference in a table of differences: its label, the
    difference as text, and "better" or "worse".
    """
    for label, cells in table.rows:
        for head, cell in zip(table.heads, cells, strict=True):
            if not isinstance(cell, Estimate) or not is_significant(cell):
                continue
            unit, way = table.units.get(head, ""), table.better.get(head)
            up = cell.value > 0
            verdict = "" if way is None else "better" if up == (way == "higher") else "worse"
            title = table.title.removesuffix(": the differences")
            words = f"{format_cell_with_unit(cell, unit)} ({format_interval(cell, unit)})"
            yield f"{title}: {label}, {head}", [words, verdict]
