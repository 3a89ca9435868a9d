"""The doors into the project open, and open at once."""

import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

COMMANDS = (
    (),
    ("generate",),
    ("evaluate",),
    ("serve",),
    ("models",),
    ("env",),
    ("train",),
    ("data",),
    ("data", "show"),
)
# Seconds each: the command line imports them only once a command runs.
HEAVY = ("torch", "diffusers", "transformers", "accelerate", "numpy", "PIL")


def python(repo: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=repo, timeout=60)


def test_console_scripts_name_functions_that_exist(repo: Path) -> None:
    scripts = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts
    for target in scripts.values():
        module, name = target.split(":")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_answers_without_loading_anything_heavy(repo: Path, command: tuple[str, ...]) -> None:
    code = (
        "import sys; from t2i.cli import main; code = main()\n"
        f"print('loaded:', *(name for name in {HEAVY} if name in sys.modules))\n"
        "sys.exit(code)"
    )
    done = python(repo, code, *command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: t2i" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded:"


LIGHT = (
    ["models"],
    ["models", "--format", "json"],
    ["show", "docs/images/car.webp"],
    ["data", "show", "scenes", "--num", "1"],
    ["data", "check", "docs/images", "--num", "1"],
    ["lora", "--help"],
    ["generate"],
    ["generate", "a cat", "--size", "x"],
    ["generate", "--from", "docs/images/edits.png"],
    ["generate", "--prompts", "none.txt"],
    ["edit", "a cat"],
    ["inspect", "a cat", "--words", ","],
    ["train", "docs/images", "--init", "lora", "--dry-run"],
)
"""Commands, and slips, that need none of the libraries of SLOW_IMPORTS."""


def test_commands_that_need_no_model_import_no_large_library(repo: Path, tmp_path: Path) -> None:
    code = (
        "import sys, json; from t2i.cli import main\n"
        "from t2i.cli.startup.loading_notice import SLOW_IMPORTS\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    main(command)\n"
        "    for name in {*SLOW_IMPORTS} & {*sys.modules}:\n"
        "        sys.exit(f'{command} imports {name}')\n"
    )
    commands = [
        [*command, "--out", str(tmp_path / "out")] if command[0] == "data" else command
        for command in LIGHT
    ]
    done = python(repo, code, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    assert "loading ..." not in done.stderr


def test_a_command_that_needs_a_large_library_says_so_before_it_is_imported(repo: Path) -> None:
    code = (
        "import sys; import t2i.cli.startup.loading_notice as loading; from t2i.cli import main\n"
        "loading.print_remark = lambda text: print(text, 'torch' in sys.modules)\n"
        "sys.exit(main())"
    )
    assert python(repo, code, "env").stdout.startswith("loading ... False\nt2i ")
    told = python(repo, "from t2i.cli import main; main()", "env", "--format", "json")
    assert "loading" not in told.stdout + told.stderr


def test_help_lists_every_command_and_the_exit_codes(repo: Path) -> None:
    help_text = python(repo, "from t2i.cli import main; main(['--help'])").stdout
    for command in ("generate", "evaluate", "models", "env", "train", "data"):
        assert f" {command} " in help_text
    assert "Exit codes:" in help_text
    assert "130 interrupted" in " ".join(help_text.split())


def test_training_starts_as_a_module_for_accelerate_launch(repo: Path) -> None:
    command = [sys.executable, "-m", "train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repo, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--set" in done.stdout
