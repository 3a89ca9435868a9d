"""Tables of a report as Markdown, for pages such as a README."""

from collections.abc import Mapping, Sequence
from typing import Any

from t2i.evaluate.report.chapter import Cell, Chapter, Estimate, Table
from t2i.evaluate.report.number_format import format_cell_with_unit, format_interval


def render_markdown(chapters: Sequence[Chapter], document: Mapping[str, Any]) -> str:
    """Render the tables of a report as Markdown, after a line on model and hardware."""
    parts = [f"Made by {describe_result_origin(document)}."]
    for chapter in chapters:
        tables = [block for block in chapter.blocks if isinstance(block, Table)]
        if tables:
            parts += [f"## {chapter.title}", *(render_table(table) for table in tables)]
    return "\n\n".join(parts) + "\n"


def describe_result_origin(document: Mapping[str, Any]) -> str:
    """Describe how a result was made, in one line: command, date, versions and hardware."""
    machine, model = document["machine"], document["model"]
    hardware = machine["gpu"] or f"{machine['processor']}, {machine['cores']} cores"
    libraries = ", ".join(f"{name} {machine[name]}" for name in ("torch", "diffusers"))
    return (
        f"`{document['command']}` on {machine['date']}: model {model['name']} "
        f"({model['digest'][:10]}), recogniser {document['recogniser'][:10]}, "
        f"t2i {document['libraries']['t2i']}, {libraries}, {hardware}"
    )


def render_table(table: Table) -> str:
    """Render one table of a report as Markdown, with its title."""
    heads = ["", *map(escape_pipe_characters, table.heads)]
    lines = [
        f"**{table.title}**",
        "",
        format_row(heads),
        format_row(["---"] + ["---:"] * len(table.heads)),
    ]
    for label, cells in table.rows:
        figures = [
            format_cell(cell, table.units.get(head, ""))
            for head, cell in zip(table.heads, cells, strict=True)
        ]
        lines.append(format_row([escape_pipe_characters(label), *figures]))
    return "\n".join(lines)


def format_row(cells: Sequence[str]) -> str:
    """Return the texts of table cells as one row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def format_cell(cell: Cell, unit: str) -> str:
    """Format a cell of a report for Markdown, with unit and interval."""
    text = escape_pipe_characters(format_cell_with_unit(cell, unit))
    ends = format_interval(cell, unit) if isinstance(cell, Estimate) else ""
    return f"{text} ({ends})" if ends else text


def escape_pipe_characters(text: str) -> str:
    """Escape the characters | in the text of a Markdown table cell."""
    return text.replace("|", "\\|")
