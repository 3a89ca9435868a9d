"""Bad input is one clear line and an exit code; for programs it is JSON."""

import re
import shutil
from pathlib import Path

import pytest

from tests.cli.command import Cli, files

REFUSALS = [
    (("--steps", "-3"), 2, r"Got --steps -3: expected a whole number from 1 to 10,000"),
    (("--steps", str(10**9)), 2, r"Got --steps 1000000000: expected a whole number from 1 to 10,"),
    (("--steps", "many"), 2, r"Got --steps 'many': expected a whole number"),
    (("--num", "0"), 2, r"Got --num 0: expected a whole number from 1 to 10000"),
    (("--seed", "-1"), 2, r"Got --seed -1: expected a whole number from 0"),
    (("--guidance", "nan"), 2, r"Got --guidance nan: expected a finite number"),
    (("--size", "12x"), 2, r"Got --size '12x': expected width x height in pixels, as in 512x384"),
    (("--size", "-8"), 2, r"Got --size '-8'"),
    (("--size", "30x32"), 2, r"Got width=30, but this model needs a multiple of 4"),
    (("--size", "0"), 2, r"Got height=0"),
    (("--size", "9000x9000"), 2, r"Got a size of 9000x9000: a picture has at most 64 million"),
    (("--negative", "x" * 20_001), 2, r"--negative is 20,001 letters long, at most 20,000"),
    (("--sampler", "dimm"), 2, r"Unknown sampler 'dimm'\. Did you mean 'ddim'\?"),
    (("--sampler", "[/red]"), 2, r"Unknown sampler '\[/red\]'"),
    (("--model", "embeded"), 3, r"(?s)'embeded'.*[Dd]id you mean 'embedded'"),
    (("--out", "cat.gif"), 2, r"cat\.gif: pictures are written as \.png.*not \.gif"),
    (("--out", "file/below"), 5, r"Cannot write file/below: .*[Cc]hoose another path"),
    (("--format", "yaml"), 2, r"Got --format 'yaml': expected one of text, json"),
    (("--sede", "1"), 2, r"No such option: --sede.*--seed"),
    (("--negative", "\udcff"), 2, r"--negative is not valid UTF-8 at character 0"),
    (("a second prompt",), 2, r"unexpected extra argument.*a second prompt"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"), REFUSALS, ids=lambda value: str(value)[:60]
)
def test_bad_input_is_one_clear_line(
    generate: Cli, arguments: tuple[str, ...], code: int, complaint: str
) -> None:
    Path("file").write_text("not a folder")
    done = generate(*arguments)
    assert re.search(complaint, done.err), done.err
    assert done.err.startswith("Error: ")
    assert done.err.count("\n") == 1
    assert done.out == ""
    assert done.code == code
    assert files(Path()) == ["file"]


def test_what_to_draw_is_asked_for(cli: Cli) -> None:
    done = cli("generate")
    assert done.code == 2
    assert "Missing what to draw: give a PROMPT, a file of them with --prompts FILE" in done.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("x", "--prompts", "p.txt"), r"Got PROMPT and --prompts: give one of them"),
        (("x", "--from", "p.png"), r"Got PROMPT and --from: give one of them"),
        (("--prompts", "p.txt", "--from", "p.png"), r"Got --prompts and --from: give one"),
        (
            ("--prompts", "p.txt", "--out", "p.png"),
            r"Got --out p\.png: the pictures of a file need",
        ),
        (("--prompts", "p.txt", "--num", "0"), r"Got --num 0: expected a whole number from 1"),
        (("--prompts", "p.txt", "--seed", "-1"), r"Got --seed -1: expected a whole number"),
    ],
)
def test_options_that_exclude_each_other_are_named(
    cli: Cli, arguments: tuple[str, ...], complaint: str
) -> None:
    Path("p.txt").write_text("a cat\n")
    done = cli("generate", *arguments)
    assert done.code == 2
    assert re.search(complaint, done.err), done.err
    assert files(Path()) == ["p.txt"]


def test_one_prompt_is_not_shared_among_processes(
    generate: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = generate()
    assert done.code == 2
    assert "2 processes were started for one prompt" in done.err
    assert files(Path()) == []


def test_the_nearest_command_is_named(cli: Cli) -> None:
    done = cli("generat", "x")
    assert done.code == 2
    assert re.search(r"No such command 'generat'. Did you mean 'generate'", done.err)


def test_weights_in_a_pickle_are_refused(cli: Cli, model: Path) -> None:
    folder = Path(shutil.copytree(model, "pickled"))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
        folder / "unet" / "diffusion_pytorch_model.bin"
    )
    done = cli("generate", "x", "--model", folder)
    assert done.code == 3
    assert "diffusion_pytorch_model.bin" in done.err


def test_a_prompt_that_does_not_fit_is_refused_in_one_line(cli: Cli, model: Path) -> None:
    done = cli("generate", "cat " * 600, "--model", model, "--steps", "1")
    assert done.code == 2
    assert re.search(r"The prompt fills \d+ windows of 16 tokens; at most \d+ are read", done.err)
    assert done.err.count("\n") == 1


def test_json_is_one_document_with_paths_and_seeds(generate: Cli) -> None:
    answer = generate("--seed", "7", "--num", "2", "--format", "json").json()
    pictures = answer["pictures"]
    assert [picture["seed"] for picture in pictures] == [7, 8]
    assert all(Path(picture["path"]).is_file() for picture in pictures)
    assert answer["interrupted"] is False


@pytest.mark.parametrize(
    ("arguments", "code", "kind", "message"),
    [
        (("--sampler", "dimm"), 2, "ArgumentError", "Unknown sampler"),
        (("--model", "embeded"), 3, "ModelError", "embeded"),
        (("--sede", "1"), 2, "ArgumentError", "No such option"),
        (("--out", "file/below"), 5, "OutputError", "Cannot write"),
    ],
)
def test_errors_are_json_too(
    generate: Cli, arguments: tuple[str, ...], code: int, kind: str, message: str
) -> None:
    Path("file").write_text("not a folder")
    for spelling in (("--format", "json"), ("--format=json",)):
        done = generate(*arguments, *spelling)
        error = done.json()["error"]
        assert (done.code, error["type"]) == (code, kind)
        assert message in error["message"]
