"""<lora:ink:0.8> in a prompt: as --lora, wherever prompts are read."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i.adapters import KohyaMetadata, read_lora_from_models, write_kohya_lora
from t2i.cli.request.prompt_loras import (
    build_lora_finder,
    check_no_lora_tags,
    remove_network_tags,
    set_prompt_and_extract_loras,
)
from t2i.cli.request.request import Request
from t2i.errors import ArgumentError
from tests.adapters.made import ATTENTION, CONFIGS, components, models_of, train
from tests.cli.carrying import png
from tests.cli.command import Cli, pixels, text_of
from tests.sweeps import sweep

PROMPT = "a red apple"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("named") / "loras"
    for seed, name in enumerate(("ink", "gold", "styles/oil")):
        models = models_of(components("sd1"))
        train(models, CONFIGS["alpha is not the rank"], ATTENTION, seed)
        path = place / f"{name}.safetensors"
        write_kohya_lora(
            path,
            read_lora_from_models(models, "mine"),
            KohyaMetadata(family="sd1", layers_per_block=1),
        )
    return place


@pytest.fixture(autouse=True)
def _here(cli: Cli, folder: Path, model: Path) -> None:
    Path("loras").symlink_to(folder)
    Path("base").symlink_to(model)


@pytest.fixture
def draw(cli: Cli) -> Cli:
    def run(prompt: str, *more: str) -> Path:
        options = ("--model", "base", "--steps", "2", "--seed", "7")
        done = cli("generate", prompt, *options, *more)
        assert done.code == 0, done.err
        path: Path = done.paths[0]
        return path

    return run


@pytest.mark.parametrize(
    ("prompt", "options"),
    sweep(  # a weight, another word for it, and several; what else can be typed is read below
        [
            (
                f"{PROMPT}<lora:ink:0.8> <LORA: styles/oil : .5 >",
                (
                    *("--lora", "loras/ink.safetensors:0.8"),
                    *("--lora", "loras/styles/oil.safetensors:0.5"),
                ),
            ),
            (f"{PROMPT} <lyco:ink:0.8>", ("--lora", "loras/ink.safetensors:0.8")),
            ("a <lora:ink:-0.5> red apple", ("--lora", "loras/ink.safetensors:-0.5")),
            (f"{PROMPT} <lora:ink:0.8>", ("--lora", "loras/ink.safetensors:0.8")),
            (f"<lora:ink>{PROMPT}", ("--lora", "loras/ink.safetensors")),
        ],
        quick=3,
    ),
)
def test_it_draws_what_the_option_draws_and_is_recorded_like_it(
    draw: Cli, prompt: str, options: tuple[str, ...]
) -> None:
    one, other = draw(prompt, "--steps", "1"), draw(PROMPT, "--steps", "1", *options)
    assert np.array_equal(pixels(one), pixels(other))
    assert text_of(one) == text_of(other)
    record = json.loads(text_of(one)["t2i"])["request"]
    assert record["prompt"] == PROMPT
    assert re.fullmatch(r"[0-9a-f]{64}", record["loras"][0]["sha256"])


def test_it_changes_the_picture_which_is_made_again_exactly(draw: Cli, cli: Cli) -> None:
    one = draw(f"{PROMPT}<lora:ink:0.8> <lora:styles/oil:.5>")
    assert not np.array_equal(pixels(one), pixels(draw(PROMPT)))
    assert not np.array_equal(pixels(one), pixels(draw(f"{PROMPT}<lora:ink:0.8>")))
    again = cli("generate", "--from", one, "--out", "again")
    assert again.code == 0, again.err
    assert again.paths[0].read_bytes() == one.read_bytes()


def test_it_adds_to_the_option(draw: Cli) -> None:
    both = draw(f"{PROMPT} <lora:gold:0.5>", "--lora", "loras/ink.safetensors:0.8")
    typed = draw(
        PROMPT, "--lora", "loras/ink.safetensors:0.8", "--lora", "loras/gold.safetensors:0.5"
    )
    assert np.array_equal(pixels(both), pixels(typed))


def test_the_folder_may_be_another(draw: Cli, folder: Path) -> None:
    Path("loras").unlink()
    named = draw(f"{PROMPT} <lora:oil>", "--lora-dir", str(folder / "styles"))
    path = str(folder / "styles/oil.safetensors")
    assert np.array_equal(pixels(named), pixels(draw(PROMPT, "--lora", path)))


def test_in_plain_grammar_every_letter_stands_for_itself(draw: Cli) -> None:
    path = draw(f"{PROMPT} <lora:nothing:0.8>", "--grammar", "plain")
    assert json.loads(text_of(path)["t2i"])["request"]["prompt"] == f"{PROMPT} <lora:nothing:0.8>"


def test_lines_of_a_file_name_their_own(cli: Cli, draw: Cli) -> None:
    lines: list[dict[str, object]] = [
        {"name": "plain", "prompt": PROMPT},
        {"name": "named", "prompt": f"{PROMPT} <lora:ink:0.8>"},
        {"name": "both", "prompt": f"{PROMPT} <lora:ink:0.8>", "lora": "loras/gold.safetensors"},
    ]
    Path("p.jsonl").write_text("".join(json.dumps(line | {"seed": 7}) + "\n" for line in lines))
    begin = ("generate", "--prompts", "p.jsonl", "--model", "base", "--steps", "2", "--out", "out")
    done = cli(*begin)
    assert done.code == 0, done.err
    assert np.array_equal(pixels(Path("out/plain.png")), pixels(draw(PROMPT)))
    single = draw(PROMPT, "--lora", "loras/ink.safetensors:0.8")
    assert text_of(Path("out/named.png")) == text_of(single)
    assert np.array_equal(pixels(Path("out/named.png")), pixels(single))
    both = draw(f"{PROMPT} <lora:ink:0.8>", "--lora", "loras/gold.safetensors")
    assert np.array_equal(pixels(Path("out/both.png")), pixels(both))
    assert "0 made, 3 made before" in cli(*begin).err


def test_broken_lines_are_named(cli: Cli) -> None:
    Path("p.txt").write_text("a cat\na cat <lora:inc>\na <lora:ink:x> cat\na cat <lora:ink>\n")
    done = cli("generate", "--prompts", "p.txt", "--model", "base")
    assert done.code == 4
    assert re.findall(r"p\.txt:(\d): (No LoRA 'inc'|Got <lora:ink:x>)", done.err) == [
        ("2", "No LoRA 'inc'"),
        ("3", "Got <lora:ink:x>"),
    ]


def test_a_picture_of_a1111_names_its_loras(cli: Cli) -> None:
    text = "a red apple <lora:{}:0.8>\nSteps: 2, Sampler: DDIM, CFG scale: 4, Seed: 7, Size: 32x32"
    for name, number in (("ink", 0), ("lost", 1)):
        png(Path(f"{number}.png"), {"parameters": text.format(name)})
    done = cli("generate", "--from", "0.png", "--model", "base", "--out", "made.png")
    assert done.code == 0, done.err
    request = json.loads(text_of(Path("made.png"))["t2i"])["request"]
    assert request["prompt"] == PROMPT
    assert request["loras"][0]["scale"] == 0.8
    done = cli("generate", "--from", "1.png", "--model", "base")
    assert done.code == 2
    assert "No LoRA 'lost' in loras." in done.err
    done = cli("generate", "--from", "1.png", "--model", "base", "--lora", "none", "--out", "x.png")
    assert done.code == 0, done.err
    assert json.loads(text_of(Path("x.png"))["t2i"])["request"]["prompt"] == PROMPT


def test_looking_and_editing_take_them_too(cli: Cli, draw: Cli) -> None:
    options = ("--model", "base", "--steps", "2", "--seed", "7", "--format", "json")
    document = cli("inspect", f"{PROMPT} <lora:ink:0.8>", "--words", "apple", *options).json()
    assert document["request"]["prompt"] == PROMPT
    assert document["request"]["loras"][0]["path"] == "loras/ink.safetensors"
    document = cli("edit", f"{PROMPT} <lora:ink>", "a red cat", *options).json()
    assert document["request"]["edited"]["prompts"] == [PROMPT, "a red cat"]
    done = cli("edit", PROMPT, "a red cat <lora:ink>", *options)
    assert done.code == 2
    assert "Got <lora:ink> in a TARGET: what is drawn together shares its LoRAs" in done.out


@pytest.mark.parametrize(
    ("prompt", "code", "complaint"),
    [
        ("a <lora:inkk:0.8>", 2, r"No LoRA 'inkk' in loras\. Did you mean ink\? Another folder is"),
        ("a <lora:zzz>", 2, r"No LoRA 'zzz' in loras\. It holds 3 LoRAs"),
        ("a <lora:oil>", 2, r"Did you mean .*styles/oil"),
        ("a <lora:>", 2, r"Got <lora:>: expected <lora:NAME>, or <lora:NAME:0\.8>"),
        ("a <lora:ink:big>", 2, r"Got <lora:ink:big>: expected"),
        ("a <lora:ink:0.8:0.5>", 2, r"Got <lora:ink:0\.8:0\.5>: expected .* with one strength"),
        ("a <lora:ink:1e9>", 2, r"Got the scale 1000000000\.0 of 'loras/ink"),
        ("a <lora:ink:0.8", 2, r"Got <lora:ink:0\.8 in the prompt, which nothing ends"),
        ("a <lora:ink:nan>", 2, r"Got the scale nan"),
        (
            "a <hypernet:ink:0.8>",
            2,
            r"Got <hypernet:ink:0\.8> in the prompt: hypernetworks are not",
        ),
        ("a <lyco:ink:te=1>", 2, r"Got <lyco:ink:te=1>: expected .* with one strength"),
        ("a < lora:ink:0.8>", 2, r"Got < lora:ink:0\.8> in the prompt: expected <lora:NAME:0\.8>"),
        (
            "a <controlnet:x:1>",
            2,
            r"Got <controlnet:x:1> .*: of such networks LoRAs alone are read",
        ),
        ("a <hypernet:ink", 2, r"Got <hypernet:ink in the prompt, which nothing ends"),
        ("a <lora:../ink>", 2, r"Got <lora:\.\./ink>: expected the name of a file in loras"),
        ("a <lora:/etc/passwd>", 2, r"Got <lora:/etc/passwd>: expected the name of a file"),
    ],
)
def test_slips_are_refused(cli: Cli, prompt: str, code: int, complaint: str) -> None:
    done = cli("generate", prompt, "--model", "base")
    assert re.search(complaint, done.err), done.err
    assert done.code == code
    assert not Path("outputs").exists()


LETTERS = "abcXYZ019 .:;=_-+/*!"
"""Of what A1111 lets a network be called; brackets are the grammar's."""


@settings(deadline=None)  # a machine under load
@given(
    kind=st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True),
    name=st.text(LETTERS, min_size=1, max_size=12),
    before=st.sampled_from(["", "a cat ", "<sun> ", "a<3 "]),
)
def test_whatever_a1111_takes_for_a_network_never_becomes_words(
    kind: str, name: str, before: str
) -> None:
    tag = f"<{kind}:{name}>"
    assert re.fullmatch(r"<(\w+):([^>]+)>", tag), "as A1111 finds them"
    request = Request(prompt="a", grammar="a1111")
    for prompts in ({"prompt": before + tag}, {"negative_prompt": before + tag}):
        spoken = replace(request, **prompts) if "negative_prompt" in prompts else request
        with pytest.raises(ArgumentError, match=r"Got <|No LoRA|No folder"):
            set_prompt_and_extract_loras(
                spoken, prompts.get("prompt", "a"), build_lora_finder(Path("nowhere"))
            )
    with pytest.raises(ArgumentError, match="Got <"):
        check_no_lora_tags("a TARGET", [before + tag], request)
    assert tag not in remove_network_tags(before + tag)
    assert (
        set_prompt_and_extract_loras(
            replace(request, grammar="plain"), tag, build_lora_finder(Path("nowhere"))
        ).prompt
        == tag
    )


def test_a_picture_whose_hypernetwork_is_not_read_is_made_without_it(cli: Cli) -> None:
    text = "a red apple <hypernet:x:1>\nSteps: 2, Sampler: DDIM, CFG scale: 4, Seed: 7, Size: 32x32"
    png(Path("0.png"), {"parameters": text})
    done = cli("generate", "--from", "0.png", "--model", "base")
    assert done.code == 2
    assert "Got <hypernet:x:1> in the prompt: hypernetworks are not read" in done.err
    done = cli("generate", "--from", "0.png", "--model", "base", "--lora", "none", "--out", "x.png")
    assert done.code == 0, done.err
    assert json.loads(text_of(Path("x.png"))["t2i"])["request"]["prompt"] == PROMPT


def test_a_missing_folder_and_a_negative_prompt_are_refused(cli: Cli) -> None:
    done = cli("generate", "a cat", "--negative", "<lora:ink>", "--model", "base")
    assert done.code == 2
    assert "Got <lora:ink> in the negative prompt: a LoRA acts on the whole picture" in done.err
    done = cli("generate", "a cat <lora:ink>", "--model", "base", "--lora-dir", "nowhere")
    assert done.code == 2
    assert "No folder nowhere to look for <lora:ink> in: say where with --lora-dir" in done.err
