"""What is printed goes through t2i.terminal, which lets nothing through that a terminal obeys."""

import ast
from pathlib import Path

import pytest

from tests.repo.test_layers import modules

PRINTS = {"print", "echo", "secho", "Console", "print_exc"}
STREAMS = ("stdout.write", "stderr.write", "console.print")
ALLOWED = {
    "t2i.terminal": {"print", "Console"},
    "t2i.cli.output": {"secho"},
    # typer's help, in which nothing is others'.
    "t2i.cli": {"echo"},
    "t2i.cli.commands.data.data": {"echo"},
    "t2i.cli.commands.lora": {"echo"},
    # Bars; and a line beside one, made visible there.
    "train.reporting.training_logger": {"Console", "print"},
}


def prints_in(source: str) -> list[tuple[int, str]]:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [(call.lineno, ast.unparse(call.func)) for call in calls]
    return [
        (line, name)
        for line, name in named
        if name.endswith(STREAMS) or name.rpartition(".")[2] in PRINTS
    ]


def test_nothing_is_printed_past_the_one_way_out(repo: Path) -> None:
    wrong = [
        f"{module}:{line} calls {name}: print it with t2i.terminal"
        for module, path in modules(repo).items()
        for line, name in prints_in(path.read_text("utf-8"))
        if name.rpartition(".")[2] not in ALLOWED.get(module, set())
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "print(1)",
        "typer.echo(1)",
        "sys.stdout.write('a')",
        "Console().print(table)",
        "click.secho('a')",
        "traceback.print_exc()",
    ],
)
def test_the_test_sees_another_way_out(source: str) -> None:
    assert prints_in(source)
