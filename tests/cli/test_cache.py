"""`--cache`: the pictures of Python, in metadata, prompts files and edits, and made again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import t2i
from t2i.denoiser.caches import DeepBlocks
from tests.cli.command import Cli, Result, pixels, request, same, text_of

PROMPT = "a red cat"
DEEP = "deep:every=2"


@pytest.fixture
def generate(cli: Cli, model: Path) -> Cli:
    """`t2i generate` on the tiny model in four steps."""

    def run(*arguments: str | Path) -> Result:
        return cli("generate", *arguments, "--model", model, "--steps", "4", "--seed", "7")

    return run


def test_the_picture_is_the_one_of_python_and_says_how_it_was_made(
    generate: Cli, model: Path
) -> None:
    done = generate(PROMPT, "--cache", DEEP, "--out", "cut.png")
    assert done.code == 0, done.err
    generate(PROMPT, "--out", "full.png")
    assert not same("cut.png", "full.png")
    assert request("cut.png")["cache"] == [DEEP]
    assert f'Cache: "{DEEP}"' in text_of(Path("cut.png"))["parameters"]
    assert "Cache" not in text_of(Path("full.png"))["parameters"]
    image = t2i.load(model)(
        PROMPT,
        num_inference_steps=4,
        generator=torch.Generator("cpu").manual_seed(7),
        cache=[DeepBlocks(every=2)],
    ).images[0]
    assert np.array_equal(np.asarray(image), pixels(Path("cut.png")))


def test_a_picture_with_a_cache_is_made_again_exactly(generate: Cli, cli: Cli) -> None:
    generate(PROMPT, "--cache", DEEP, "--out", "cut.png")
    cli("generate", "--from", "cut.png", "--out", "again.png")
    assert same("cut.png", "again.png")
    assert request("again.png") == request("cut.png")
    assert f"cache       {DEEP}" in cli("show", "cut.png").out
    cli("generate", "--from", "cut.png", "--cache", "deep:every=3", "--out", "other.png")
    assert request("other.png")["cache"] == ["deep:every=3"]
    assert not same("cut.png", "other.png")


def test_lines_of_a_prompts_file_have_caches_of_their_own(generate: Cli) -> None:
    lines = [
        {"prompt": PROMPT, "name": "line"},
        {"prompt": PROMPT, "name": "own", "cache": "deep:every=3"},
        {"prompt": PROMPT, "name": "list", "cache": ["deep:full=0/3"]},
    ]
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = generate("--prompts", "prompts.jsonl", "--cache", DEEP, "--out", "all")
    assert done.code == 0, done.err
    found = {name: request(f"all/{name}.png")["cache"] for name in ("line", "own", "list")}
    assert found == {"line": [DEEP], "own": ["deep:every=3"], "list": ["deep:full=0/3"]}
    generate(PROMPT, "--cache", DEEP, "--out", "cut.png")
    assert same("cut.png", "all/line.png")


def test_lines_of_edits_and_heat_maps_have_a_cache(generate: Cli, cli: Cli, model: Path) -> None:
    lines = [
        {"prompt": "a red dog", "source": PROMPT, "seed": 7, "name": "edited"},
        {"prompt": PROMPT, "task": "inspect", "seed": 7, "name": "own", "cache": "deep:every=3"},
    ]
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = generate("--prompts", "prompts.jsonl", "--cache", DEEP, "--out", "all")
    assert done.code == 0, done.err
    assert request("all/edited.png")["cache"] == [DEEP]
    assert request("all/own.png")["cache"] == ["deep:every=3"]
    options = ("--model", model, "--steps", "4", "--seed", "7", "--cache", DEEP)
    cli("edit", PROMPT, "a red dog", *options, "--out", "e.png")
    assert same(str(max(Path().glob("e-*.png"))), "all/edited.png")


def test_another_cache_is_another_bulk_run(generate: Cli) -> None:
    Path("prompts.txt").write_text(PROMPT)
    generate("--prompts", "prompts.txt", "--cache", DEEP, "--out", "all")
    again = generate("--prompts", "prompts.txt", "--cache", "deep:every=3", "--out", "all")
    assert again.code != 0
    assert "--cache" in again.err


def test_source_and_target_of_an_edit_have_the_cache(cli: Cli, model: Path) -> None:
    options = ("--model", model, "--steps", "4", "--seed", "7")
    done = cli("edit", PROMPT, "a red dog", "--cache", DEEP, *options, "--out", "e.png")
    assert done.code == 0, done.err
    source, target = sorted(Path().glob("e-*.png"))
    assert [request(str(one))["cache"] for one in (source, target)] == [[DEEP], [DEEP]]
    cli("generate", PROMPT, "--cache", DEEP, *options, "--out", "alone.png")
    assert same(str(source), "alone.png")
    cli("generate", "--from", target, "--out", "again.png")
    assert same(str(target), "again.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--cache", "dep"), "Unknown cache 'dep'. Did you mean 'deep'"),
        (("--cache", "deep:every=1"), "expected a whole number from 2 on"),
        (("--cache", "deep:full=2/3"), "skips the first pass of the run"),
        (("--cache", DEEP, "--cache", "deep"), "which exclude one another"),
        (("--cache", "deep:full=0/40"), "Got full=0/40 for a run of 4 passes, whose last is 3"),
        (("--cache", "deep:schedule=power,power=30000"), "a number above 1, up to 10"),
        (("--cache", "deep:branch=9"), "this UNet has 4 skip connections"),
    ],
    ids=str,
)
def test_a_cache_that_no_run_can_have_is_refused(
    generate: Cli, options: tuple[str, ...], message: str
) -> None:
    done = generate(PROMPT, *options, "--out", "cut.png")
    assert done.code == 2
    assert message in done.err.replace("\n", " ")
    assert not Path("cut.png").exists()


def test_a_photo_is_inverted_without_a_cache(cli: Cli, model: Path, photo: Path) -> None:
    options = ("--model", model, "--cache", DEEP, "--out", "e.png")
    done = cli("edit", "--image", photo, PROMPT, "a red dog", *options)
    assert done.code == 2
    assert "Got --cache deep:every=2 for a photo that is inverted" in done.err.replace("\n", " ")


def test_the_cache_is_left_out_of_the_upscaling(generate: Cli, cli: Cli) -> None:
    options = ("--cache", "cross", "--size", "32", "--upscale", "2:0.25")
    done = generate(PROMPT, *options, "--out", "large.png")
    assert done.code == 0, done.err
    assert request("large.png")["cache"] == ["cross"]
    again = cli("generate", "--from", "large.png", "--out", "again.png")
    assert again.code == 0, again.err
    assert same("again.png", "large.png")


def test_none_takes_the_recorded_cache_away(generate: Cli, cli: Cli) -> None:
    generate(PROMPT, "--cache", DEEP, "--out", "cut.png")
    generate(PROMPT, "--out", "full.png")
    done = cli("generate", "--from", "cut.png", "--cache", "none", "--out", "again.png")
    assert done.code == 0, done.err
    assert request("again.png")["cache"] == []
    assert same("again.png", "full.png")
    Path("prompts.jsonl").write_text(json.dumps({"prompt": PROMPT, "name": "a", "cache": "none"}))
    done = generate("--prompts", "prompts.jsonl", "--cache", DEEP, "--out", "all")
    assert done.code == 0, done.err
    assert same("all/a.png", "full.png")
    both = generate(PROMPT, "--cache", "none", "--cache", DEEP, "--out", "both.png")
    assert "Unknown cache 'none'" in both.err
