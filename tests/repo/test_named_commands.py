"""Every command that a message or a page names can be typed: it exists, and so do its options."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import pipelines.text_to_image  # noqa: F401  # libraries set process-wide things when they come
import train.__main__  # noqa: F401
from t2i.cli import app

GROUP: Any = typer.main.get_command(app)
SOURCES = ("t2i", "pipelines", "train")
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "configs/**/*.toml", "docs/*.sh")
QUOTED = re.compile(r"`(t2i [a-z][^`]*)`")
AFTER_COLON = re.compile(r":\s(t2i [a-z][^\n`]*)$", re.MULTILINE)
NAMED = re.compile(r"(?<![\w./-])t2i ([a-z]+)((?:[ \t]+[^\s`.;?,]+)*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def parse(command: str) -> None:
    """As typer does, without running it. Raises typer.TyperException, or SystemExit for --help."""
    _, *words = shlex.split(command)
    context = GROUP.make_context("t2i", list(words))
    group = GROUP
    while hasattr(group, "commands"):
        name, command_, rest = group.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        context = command_.make_context(name, rest, parent=context)
        group = command_


def options_of(command: Any) -> set[str]:
    inner = [options_of(one) for one in getattr(command, "commands", {}).values()]
    own = {opt for param in command.params for opt in (*param.opts, *param.secondary_opts)}
    return own.union(*inner, {"--help"})


def strings(path: Path) -> Iterator[str]:
    """Each text of a file of Python, a placeholder where an f-string has one; docstrings too."""
    tree = ast.parse(path.read_text("utf-8"))
    parts = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for value in ast.walk(node)
        if value is not node
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values
            )


def texts(repo: Path) -> Iterator[tuple[str, str]]:
    for name in SOURCES:
        for path in sorted((repo / name).rglob("*.py")):
            yield from ((str(path.relative_to(repo)), text) for text in strings(path))
    for pattern in PAGES:
        for path in sorted(repo.glob(pattern)):
            yield str(path.relative_to(repo)), path.read_text("utf-8")


def misnamed(text: str) -> list[str]:
    """What is named of t2i in a text and is not there."""
    wrong = []
    quoted = [match[1] for match in (*QUOTED.finditer(text), *AFTER_COLON.finditer(text))]
    for command in quoted:
        if command.split()[1] not in GROUP.commands:
            wrong.append(command)
    for match in (*NAMED.finditer(text), *(NAMED.match(command) for command in quoted)):
        if match is None or match[1] not in GROUP.commands:
            continue  # prose: "an earlier t2i wrote"
        known = options_of(GROUP.commands[match[1]])
        wrong += [f"t2i {match[1]} {opt}" for opt in OPTION.findall(match[2]) if opt not in known]
    return wrong


def test_every_command_that_a_text_names_is_there_with_its_options(repo: Path) -> None:
    wrong = [f"{place}: {what}" for place, text in texts(repo) for what in misnamed(text)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "Type `t2i generte`.",
        "What is here: t2i modles",
        "with `t2i generate --sede 7`",
        "t2i lora info --colour",
        "Next: t2i data chek DIR",
    ],
)
def test_a_text_that_names_what_is_not_there_is_found(text: str) -> None:
    if "chek" in text:
        with pytest.raises(typer.TyperException, match="chek"):
            parse("t2i data chek DIR")
    else:
        assert misnamed(text)


def test_what_is_prose_or_right_is_left_alone() -> None:
    assert misnamed("An earlier t2i wrote it; this t2i reads `t2i.json`; t2i made it.") == []
    assert misnamed('Again: t2i generate "a cat" --seed 7 --out x.png') == []
    parse('t2i generate "a cat" --seed 7')
    with pytest.raises(typer.TyperException, match="--sede"):
        parse('t2i generate "a cat" --sede 7')


ERRORS: dict[str, tuple[str, ...]] = {
    "nothing to draw": ("generate",),
    "no target": ("edit", "a cat"),
    "unknown model": ("generate", "a cat", "--model", "embeded"),
    "no model of that name": ("models", "embeded"),
    "model of a picture": ("generate", "--from", "of tiny.png"),
    "pickled word": ("generate", "a cat", "--embedding", "old word.pt"),
    "pickle to convert": ("convert", "old word.pt", "new.safetensors"),
    "folder as config": ("train", "my pictures"),
    "folder as data set": ("data", "show", "my pictures"),
    "no run": ("ema", "my pictures", "--length", "0.1"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_names_the_command_to_type_next_and_typer_reads_it(
    name: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    from t2i.cli import main
    from t2i.cli.metadata.writing import build_metadata_texts
    from t2i.cli.request.request import Request
    from t2i.pictures import save_picture

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("my pictures").mkdir()
    Path("old word.pt").write_bytes(b"x")
    asked = Request(prompt="a cat", grammar="plain", model="not/here", num_inference_steps=1)
    save_picture(
        Image.new("RGB", (8, 8)), Path("of tiny.png"), build_metadata_texts(asked, 1, "0" * 64)
    )
    assert main(ERRORS[name]) != 0
    said = capfd.readouterr().err
    found = [match[1] for match in (*QUOTED.finditer(said), *AFTER_COLON.finditer(said))]
    assert found, said
    for command in found:
        if command != "t2i train":  # the name of a command, in a sentence
            parse(command)


def test_show_names_the_command_that_draws_a_picture_again(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from PIL import Image

    from t2i.cli import main
    from t2i.pictures import save_picture

    monkeypatch.chdir(tmp_path)
    text = {"parameters": "a cat\nSteps: 20, Sampler: Euler, Seed: 7, Size: 8x8"}
    save_picture(Image.new("RGB", (8, 8)), Path("my cat.png"), text)
    main(["show", "my cat.png"])
    (line,) = re.findall(r"^again +(.*)$", capfd.readouterr().out, re.MULTILINE)
    main(["show", "my cat.png", "--format", "json"])
    assert json.loads(capfd.readouterr().out)["again"] == line == "t2i generate --from 'my cat.png'"
    parse(line)


def test_the_shell_completes_commands_options_and_choices(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from t2i.cli import main

    def completed(words: str) -> list[str]:
        monkeypatch.setenv("_T2I_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        with pytest.raises(SystemExit) as ended:
            main([])
        assert ended.value.code == 0
        return capfd.readouterr().out.split()

    assert completed("t2i gen") == ["generate"]
    assert completed("t2i lora in") == ["info"]
    assert "--embedding" in completed("t2i generate --em")
    assert completed("t2i generate x --grammar ") == ["a1111", "comfy", "plain"]


def test_completion_is_shown_and_installed_for_a_shell(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t2i.cli import main

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    # Read when the command is built, and other tests keep built commands.
    build = getattr(typer.main.get_command, "__wrapped__", typer.main.get_command)
    monkeypatch.setattr(typer.main, "get_command", build)
    for option in ("--show-completion", "--install-completion"):
        with pytest.raises(SystemExit) as ended:
            main([option, "bash"])
        assert ended.value.code == 0
    said = capfd.readouterr().out
    assert "complete -o default -F _t2i_completion t2i" in said
    written = (tmp_path / ".bash_completions" / "t2i.sh").read_text()
    assert "_T2I_COMPLETE=complete_bash" in written
    assert "t2i.sh" in (tmp_path / ".bashrc").read_text()
