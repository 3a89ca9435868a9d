"""`t2i generate --region`: words bound to boxes, alone, in prompts files, and made again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import t2i
from t2i import attend
from t2i.attention import Region, Regions
from tests.cli.command import Cli, Result, pixels, request, same, text_of

PROMPT = "a red cat"
BOX = "cat:0.5,0,1,1"


@pytest.fixture
def generate(cli: Cli, model: Path) -> Cli:
    """`t2i generate` on the tiny model in two steps."""

    def run(*arguments: str | Path) -> Result:
        return cli("generate", *arguments, "--model", model, "--steps", "2", "--seed", "7")

    return run


def test_a_word_is_bound_to_its_box_as_python_binds_it(generate: Cli, model: Path) -> None:
    done = generate(PROMPT, "--region", BOX, "--out", "bound.png")
    assert done.code == 0, done.err
    generate(PROMPT, "--out", "free.png")
    assert not same("bound.png", "free.png")
    assert request("bound.png")["regions"] == [{"words": "cat", "box": [0.5, 0.0, 1.0, 1.0]}]
    assert "Regions: " in text_of(Path("bound.png"))["parameters"]
    assert "Regions" not in text_of(Path("free.png"))["parameters"]
    pipe = t2i.load(model)
    with attend(pipe) as attn:
        attn.edit(Regions([Region(words="cat", box=(0.5, 0, 1, 1))]))
        image = pipe(
            PROMPT, num_inference_steps=2, generator=torch.Generator("cpu").manual_seed(7)
        ).images[0]
    assert np.array_equal(np.asarray(image), pixels(Path("bound.png")))


def test_a_picture_with_boxes_is_made_again_exactly(generate: Cli, cli: Cli) -> None:
    generate(PROMPT, "--region", BOX, "--region", "red:0,0,.5,.5", "--out", "bound.png")
    cli("generate", "--from", "bound.png", "--out", "again.png")
    assert same("bound.png", "again.png")
    assert request("again.png") == request("bound.png")
    assert "regions     cat:0.5,0,1,1\n            red:0,0,0.5,0.5" in cli("show", "bound.png").out
    cli("generate", "--from", "bound.png", "--region", "cat:0,0,.5,1", "--out", "moved.png")
    assert not same("bound.png", "moved.png")
    assert [one["words"] for one in request("moved.png")["regions"]] == ["cat"]


def test_both_runs_of_an_enlarged_picture_are_bound(generate: Cli) -> None:
    for name, words in (("free", ()), ("bound", ("--region", BOX))):
        done = generate(PROMPT, "--upscale", "2:0.9", *words, "--out", f"{name}.png")
        assert done.code == 0, done.err
    assert not same("free.png", "bound.png")
    assert pixels(Path("bound.png")).shape == (64, 64, 3)


def test_lines_of_a_prompts_file_have_boxes_of_their_own(generate: Cli) -> None:
    lines = [{"prompt": PROMPT, "seed": 7, "name": name} for name in ("free", "bound")]
    lines[1]["region"] = [BOX]
    Path("p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = generate("--prompts", "p.jsonl", "--out", "all")
    assert done.code == 0, done.err
    generate(PROMPT, "--region", BOX, "--out", "alone.png")
    assert same("all/bound.png", "alone.png")
    assert not same("all/free.png", "alone.png")
    # A folder is continued with the boxes it was begun with.
    done = generate("--prompts", "p.jsonl", "--region", BOX, "--out", "all")
    assert done.code == 2
    assert "--region None -> ['cat:0.5,0,1,1']" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PROMPT, "--region", "cat"), "Got --region 'cat': expected words, and left, top"),
        ((PROMPT, "--region", "cat:0,0,2,1"), "expected left < right and top < bottom"),
        ((PROMPT, "--region", "cow:0,0,1,1"), "'cow' is not in the prompt"),
        (("a cat AND a dog", "--region", BOX), "its parts joined by AND are encoded alone"),
        ((PROMPT, *("--region", BOX) * 17), "Got --region 17 times: at most 16 are taken"),
    ],
)
def test_what_cannot_be_bound_is_refused(
    generate: Cli, arguments: tuple[str, ...], message: str
) -> None:
    done = generate(*arguments)
    assert done.code == 2
    assert message in " ".join(done.err.split())
    assert not Path("outputs").exists() or not list(Path("outputs").iterdir())


def test_an_edited_picture_has_its_boxes_among_its_edits(cli: Cli, model: Path) -> None:
    cli("edit", PROMPT, "a red dog", "--model", model, "--steps", "1", "--out", "e.png")
    done = cli("generate", "--from", "e-target.png", "--region", "dog:0,0,1,1")
    assert done.code == 2
    assert "Bind words with t2i edit --region" in " ".join(done.err.split())
