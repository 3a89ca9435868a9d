"""The tables of docs/benchmark.md are those of the kept result."""

import json

import pytest

from docs.benchmark_tables import PAGE, RESULT, TABLE, with_tables


def test_the_page_has_the_tables_of_the_kept_result() -> None:
    """After a new evaluation: make docs-tables."""
    page = PAGE.read_text("utf-8")
    assert len(TABLE.findall(page)) >= 5
    assert with_tables(page, json.loads(RESULT.read_text("utf-8"))) == page


def test_a_figure_that_was_changed_by_hand_is_replaced() -> None:
    page, result = PAGE.read_text("utf-8"), json.loads(RESULT.read_text("utf-8"))
    changed = page.replace("| one object | 9", "| one object | 8", 1)
    assert changed != page
    assert with_tables(changed, result) == page


def test_a_table_that_the_result_has_not_is_named() -> None:
    with pytest.raises(SystemExit, match="The result has no table 'Of nothing'"):
        with_tables("**Of nothing**\n\n| |\n| --- |\n", {"chapters": {}})
