"""Others' words reach the terminal as text: names, captions, members, configs, cards, headers."""

import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import t2i
from t2i.pictures import save_picture
from tests.cli.command import Cli
from tests.test_terminal import HOSTILE, commands_in

NAME = HOSTILE.replace("\r", "")
"""Some of it in a file's name, which may have all but a slash and a NUL."""


def picture(path: Path, size: int = 64) -> Path:
    Image.new("RGB", (size, size), "red").save(path, "PNG")
    return path


def folder_of_pictures(_: Path) -> tuple[str | Path, ...]:
    folder = Path(f"pictures {NAME}")
    folder.mkdir()
    picture(folder / f"{NAME}.png")
    picture(folder / f"same {NAME}.png")
    (folder / f"{NAME}.txt").write_text(HOSTILE)
    (folder / f"broken {NAME}.png").write_bytes(b"no picture")
    (folder / f"other.{NAME}").touch()
    below = folder / f"10_{NAME}"
    below.mkdir()
    picture(below / "c.png", 32)
    return "data", "check", folder


def archive(_: Path) -> tuple[str | Path, ...]:
    with tarfile.open("a.tar", "w") as tar:
        for name, data in (
            (f"{NAME}.png", picture(Path("a.png")).read_bytes()),
            (f"{NAME}.json", json.dumps({"text": [HOSTILE]}).encode()),
            (f"b{NAME}/b.png", b"none"),
            (f"c{NAME}/c.txt", b"alone"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return "data", "check", "a.tar"


def toml(text: str) -> tuple[str | Path, ...]:
    path = Path(f"{NAME}.toml")
    path.write_text(text)
    return "train", path


def key(_: Path) -> tuple[str | Path, ...]:
    return toml('[train]\n"\\u001b]0;owned\\u0007\\u009b31m\\u202e" = 1\n')


def value(_: Path) -> tuple[str | Path, ...]:
    return toml('[train]\nprecision = "\\u001b]0;owned\\u0007\\u009b31m\\u202e"\n')


def kohya(_: Path) -> tuple[str | Path, ...]:
    Path("k.toml").write_text('[[datasets]]\n"\\u001b[31m\\u0085" = 1\n[[datasets.subsets]]\n')
    return "data", "check", "k.toml"


def prompts(_: Path) -> tuple[str | Path, ...]:
    path = Path(f"{NAME}.jsonl")
    path.write_text(json.dumps({"prompt": HOSTILE, "sampler": HOSTILE, HOSTILE: 1}) + "\n")
    return "generate", "--prompts", path


def header(_: Path) -> tuple[str | Path, ...]:
    tensors = {f"unet.{HOSTILE}.lora_A.weight": torch.ones(1, 4)}
    save_file(tensors, "l.safetensors", {HOSTILE: HOSTILE})
    return "lora", "info", "l.safetensors"


def story(_: Path) -> tuple[str | Path, ...]:
    text = f"{HOSTILE}\nSteps: 1, {HOSTILE}: {HOSTILE}, Sampler: {HOSTILE}"
    save_picture(Image.new("RGB", (8, 8)), Path("s.png"), {"parameters": text})
    return "show", "s.png"


def model(model: Path) -> tuple[str | Path, ...]:
    folder = Path(f"model {NAME}")
    folder.mkdir()
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": HOSTILE, HOSTILE: [HOSTILE, HOSTILE]})
    )
    return "generate", "a cat", "--model", folder


def card(_: Path) -> tuple[str | Path, ...]:
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE) / "models--a--b"
    snapshot = place / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text("{}")
    (snapshot / "README.md").write_text(f"# a\n\n{HOSTILE}\n")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(snapshot.name)
    return ("models",)


def typed(_: Path) -> tuple[str | Path, ...]:
    return "generate", "a cat", f"--{NAME}"


def out(_: Path) -> tuple[str | Path, ...]:
    Path(f"{NAME}.png").touch()
    return "generate", "a cat", "--out", f"{NAME}.png"


CASES = (
    folder_of_pictures, archive, key, value, kohya, prompts, header, story, model, card, typed, out
)  # fmt: skip


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_no_command_prints_a_control_character_of_others(
    cli: Cli,
    model: Path,
    case: object,
    format: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    arguments = case(model)  # type: ignore[operator]
    if arguments[0] == "train" and format == "json":
        arguments += ("--dry-run",)
    done = cli(*arguments, *(("--format", "json") if format == "json" else ()))
    assert "31m" in done.out + done.err  # it was printed
    assert not commands_in(done.out + done.err)
    if format == "json":
        json.loads(done.out)


def test_what_stdout_does_not_take_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "s.png"
    save_picture(Image.new("RGB", (8, 8)), path, {"parameters": "a cat\nSteps: 1"})
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "t2i.cli", "show", path],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
    assert "Cannot write the result to the standard output: No space left on device" in done.stderr


@pytest.mark.parametrize(
    ("redirected", "complaint"),
    [
        (
            "--help >/dev/full",
            "Cannot write the result: the disk is full. Free some space, or send",
        ),
        ("show s.png >&-", "Cannot write the result to the standard output: it is closed. Send it"),
        ("show s.png >&- 0>&-", "to the standard output: it is closed"),
    ],
)
def test_no_result_is_lost_without_a_word(tmp_path: Path, redirected: str, complaint: str) -> None:
    save_picture(Image.new("RGB", (8, 8)), tmp_path / "s.png", {"parameters": "a cat\nSteps: 1"})
    line = f"{shlex.quote(sys.executable)} -m t2i.cli {redirected}"
    path = {"PYTHONPATH": str(Path(t2i.__file__).parents[1])}
    done = subprocess.run(
        line, shell=True, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ | path
    )
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
    assert complaint in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "x", "--out", "LONG"),
        ("generate", "x", "--model", "LONG"),
        ("generate", "x", "--image", "LONG"),
        ("generate", "x", "--lora", "LONG"),
        ("generate", "--prompts", "LONG.txt"),
        ("generate", "--from", "LONG"),
        ("inspect", "x", "--out", "LONG"),
        ("edit", "x", "y", "--out", "LONG"),
        ("evaluate", "LONG"),
        ("evaluate", "embedded", "--out", "LONG"),
        ("show", "LONG"),
        ("train", "LONG"),
        ("train", "LONG", "--init", "lora"),
        ("data", "check", "LONG"),
        ("lora", "info", "LONG"),
        ("lora", "merge", "LONG", "LONG", "--out", "LONG"),
        ("convert", "LONG", "LONG"),
        ("ema", "LONG", "--length", "0.1"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_a_path_longer_than_a_file_system_takes_is_one_clear_line(
    cli: Cli, arguments: tuple[str, ...]
) -> None:
    done = cli(*(word.replace("LONG", "x" * 300) for word in arguments))
    assert done.code in (2, 3, 4, 5), done.err
    assert done.err.startswith("Error: ")
    assert "xxx" in done.err
    assert len(done.err) < 1500
