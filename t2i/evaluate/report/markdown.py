"""The tables as Markdown, to be put on a page such as a README."""

from collections.abc import Mapping, Sequence
from typing import Any

from t2i.evaluate.report.chapter import Cell, Chapter, Figure, Table
from t2i.evaluate.report.number_format import interval, with_unit


def markdown(chapters: Sequence[Chapter], document: Mapping[str, Any]) -> str:
    """Every table, each under its title, and the line that says what they were measured on."""
    parts = [f"Made by {origin(document)}."]
    for chapter in chapters:
        tables = [block for block in chapter.blocks if isinstance(block, Table)]
        if tables:
            parts += [f"## {chapter.title}", *(as_markdown(table) for table in tables)]
    return "\n\n".join(parts) + "\n"


def origin(document: Mapping[str, Any]) -> str:
    """The command, date, versions and hardware, in one line."""
    machine, model = document["machine"], document["model"]
    hardware = machine["gpu"] or f"{machine['processor']}, {machine['cores']} cores"
    libraries = ", ".join(f"{name} {machine[name]}" for name in ("torch", "diffusers"))
    return (
        f"`{document['command']}` on {machine['date']}: model {model['name']} "
        f"({model['digest'][:10]}), recogniser {document['recogniser'][:10]}, "
        f"t2i {document['libraries']['t2i']}, {libraries}, {hardware}"
    )


def as_markdown(table: Table) -> str:
    heads = ["", *map(escaped, table.heads)]
    lines = [f"**{table.title}**", "", row(heads), row(["---"] + ["---:"] * len(table.heads))]
    for label, cells in table.rows:
        figures = [
            shown(cell, table.units.get(head, ""))
            for head, cell in zip(table.heads, cells, strict=True)
        ]
        lines.append(row([escaped(label), *figures]))
    return "\n".join(lines)


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def shown(cell: Cell, unit: str) -> str:
    text = escaped(with_unit(cell, unit))
    ends = interval(cell, unit) if isinstance(cell, Figure) else ""
    return f"{text} ({ends})" if ends else text


def escaped(text: str) -> str:
    return text.replace("|", "\\|")
