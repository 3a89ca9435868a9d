"""The tables of docs/benchmark.md are those of the kept result."""

import pytest

from docs.benchmark_tables import PAGE, TABLE, read_results, with_tables

RESULT_WITHOUT_TABLES = read_results()[0] | {"chapters": {}}
ORIGIN_LINE = "Made by `t2i evaluate embedded` on a day, 2 cores. The whole result is there.\n\n"


def test_the_page_has_the_tables_of_the_kept_result() -> None:
    """After a new evaluation: make docs-tables."""
    page = PAGE.read_text("utf-8")
    assert len(TABLE.findall(page)) >= 5
    assert with_tables(page, read_results()) == page


def test_a_figure_that_was_changed_by_hand_is_replaced() -> None:
    page = PAGE.read_text("utf-8")
    changed = page.replace("| one object | 9", "| one object | 8", 1)
    assert changed != page
    assert with_tables(changed, read_results()) == page


def test_a_table_that_the_result_has_not_is_named() -> None:
    with pytest.raises(SystemExit, match="No result has a table 'Of nothing'"):
        with_tables(f"{ORIGIN_LINE}**Of nothing**\n\n| |\n| --- |\n", [RESULT_WITHOUT_TABLES])


def test_the_origin_is_that_of_the_result_also_on_a_gpu() -> None:
    result = RESULT_WITHOUT_TABLES | {"machine": RESULT_WITHOUT_TABLES["machine"] | {"gpu": "H200"}}
    assert "diffusers 0.42.1, H200. The whole result is" in with_tables(ORIGIN_LINE, [result])


def test_a_page_without_an_origin_is_refused() -> None:
    with pytest.raises(SystemExit, match="Found 0 lines that say how `t2i evaluate embedded` on"):
        with_tables("", [RESULT_WITHOUT_TABLES])
