"""`t2i inspect`: the strip, the maps, the table."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import load_map_tensors
from t2i.attention.probes.presence import PresenceFit, compute_attention_fingerprint
from t2i.cli.generation.inspected_image import describe_image_position
from t2i.cli.inspected_words import split_words
from t2i.denoiser.loading.model_location import PRESENCE_FILE
from t2i.errors import ArgumentError
from tests.cli.command import PROMPT, SLUG, Cli, Result, files, pixels


@pytest.fixture
def inspect(cli: Cli, model: Path) -> Cli:
    def run(*arguments: str | Path) -> Result:
        return cli("inspect", PROMPT, "--model", model, "--steps", "2", *arguments)

    return run


def test_inspect_writes_a_strip_and_its_maps_and_prints_a_table(inspect: Cli) -> None:
    done = inspect("--words", "cat,red apple", "--seed", "7")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["word", "peak", "where", "share"]
    assert re.match(r"cat +0\.\d\d, 0\.\d\d +(\w+ )?\w+ +\d+\.\d%", lines[1])
    assert lines[2].startswith("red apple ")
    assert lines[3:] == [f"outputs/{SLUG}-words-7.png", f"outputs/{SLUG}-words-7.safetensors"]
    maps = load_map_tensors(lines[4])
    assert list(maps) == ["cat", "red apple"]
    assert all(one.shape == (8, 8) for one in maps.values())
    strip = Image.open(lines[3])
    assert strip.width == 3 * 256 + 4 * 8  # three pictures and the gaps
    assert "Traceback" not in done.err


def test_the_shares_of_all_words_are_one_and_the_peak_lies_in_the_map(inspect: Cli) -> None:
    answer = inspect("--words", "cat,apple,red", "--seed", "7", "--format", "json").json()
    words = answer["words"]
    assert list(words) == ["cat", "apple", "red"]
    assert sum(word["share"] for word in words.values()) == pytest.approx(1, abs=1e-3)
    maps = load_map_tensors(answer["maps"])
    for name, word in words.items():
        row, column = divmod(int(maps[name].argmax()), 8)
        assert word["peak"] == {"across": (column + 0.5) / 8, "down": (row + 0.5) / 8}
    assert answer["seed"] == 7
    assert answer["request"]["prompt"] == PROMPT


def test_the_picture_is_the_one_that_generate_draws(inspect: Cli, cli: Cli, model: Path) -> None:
    (strip,) = inspect("--words", "cat", "--seed", "7", "--out", "strip.png").out.splitlines()[2:3]
    again = cli("generate", "--from", strip, "--out", "again.png")
    plain = cli(
        "generate", PROMPT, "--model", model, "--steps", "2", "--seed", "7", "--out", "p.png"
    )
    assert again.code == plain.code == 0
    assert np.array_equal(pixels(Path("again.png")), pixels(Path("p.png")))
    enlarged = Image.open("p.png").resize((256, 256), Image.Resampling.BICUBIC)
    assert np.array_equal(pixels(Path(strip))[8:264, 8:264], np.asarray(enlarged))


def test_the_table_says_which_things_were_found_where_the_model_has_a_fit(
    inspect: Cli, model: Path
) -> None:
    pipe = TextToImagePipeline.from_pretrained(model)
    term = {"mean": 0.0, "deviation": 1.0, "weight": 0.0}
    regression = {"terms": {"top": term}, "intercept": 0.0, "threshold": 0.6}
    fit = PresenceFit.model_validate(
        {
            "weights": compute_attention_fingerprint(pipe),
            "conventions": {"default": regression},
        }
    )
    plain = inspect("--words", "cat", "--seed", "1", "--format", "json").json()
    assert plain["words"]["cat"]["found"]["probability"] is None
    assert "no presence fit" in plain["words"]["cat"]["found"]["remark"]
    (model / PRESENCE_FILE).write_text(fit.model_dump_json(), "utf-8")
    try:
        answer = inspect("--words", "cat", "--seed", "1", "--format", "json").json()
        printed = inspect("--words", "cat,whisker", "--seed", "1", "--out", "t.png").out
    finally:
        (model / PRESENCE_FILE).unlink()
    found = answer["words"]["cat"]["found"]
    assert (found["probability"], found["is_missing"], found["remark"]) == (0.5, True, "")
    heads, cat, whisker = printed.splitlines()[:3]
    assert heads.split()[-1] == "found"
    assert cat.endswith("50% (missing)")
    assert whisker.rstrip().endswith("-")


def test_the_words_of_the_negative_prompt_have_a_row_and_a_file(inspect: Cli) -> None:
    plain = inspect("--words", "cat", "--seed", "1", "--negative", "a blue dog", "--out", "n.png")
    assert plain.code == 0, plain.err
    assert "in the negative prompt:" in plain.err
    assert [line.split()[0] for line in plain.out.splitlines()[2:5]] == ["word", "blue", "dog"]
    assert load_map_tensors("n-negative.safetensors").keys() == {"blue", "dog"}
    strip = Image.open("n.png")
    assert strip.height > 3 * 256  # the picture's row, and one for each of its words
    answer = inspect(
        *("--words", "cat", "--seed", "1", "--negative", "the", "--format", "json")
    ).json()
    assert "negative" not in answer  # no word but a function word


def test_words_left_out_are_all_but_the_little_ones(inspect: Cli) -> None:
    answer = inspect("--seed", "1", "--format", "json").json()
    assert list(answer["words"]) == ["red", "apple", "left", "cat"]


def test_a_word_that_is_not_in_the_prompt_is_read_beside_it(inspect: Cli) -> None:
    both = inspect("--words", "cat,whisker", "--seed", "1", "--format", "json").json()
    assert not both["words"]["whisker"]["in_prompt"]
    assert any("'whisker' is not in the prompt" in warning for warning in both["warnings"])
    alone = inspect("--words", "cat", "--seed", "1", "--format", "json").json()
    maps, own = load_file(both["maps"]), load_file(alone["maps"])
    assert torch.equal(maps["cat"], own["cat"])
    assert not torch.equal(maps["cat"], maps["whisker"])


def test_nothing_is_replaced(inspect: Cli) -> None:
    inspect("--words", "cat", "--seed", "1")
    Path("outputs", f"{SLUG}-words-1-2.safetensors").write_bytes(b"mine")
    inspect("--words", "cat", "--seed", "1")
    assert f"{SLUG}-words-1-3.png" in files(Path("outputs"))
    Path("strip.safetensors").write_bytes(b"mine")
    done = inspect("--out", "strip.png", "--model", "no-such-model")
    assert done.code == 5
    assert "strip.safetensors exists and is not replaced" in done.err


def test_the_word_of_each_place_and_the_maps_of_each_step_are_drawn(inspect: Cli) -> None:
    done = inspect("--words", "cat,apple", "--seed", "7", "--segment", "--animate")
    strip, maps, segments, steps = map(Path, done.out.splitlines()[3:])
    assert segments.name == f"{SLUG}-words-7-segments.png"
    assert Image.open(segments).height > Image.open(strip).height  # with a legend
    with Image.open(steps) as animation:
        assert animation.n_frames == 2  # type: ignore[attr-defined]  # of a PNG with frames
        first = np.asarray(animation.convert("RGB"))
        animation.seek(1)
        assert not np.array_equal(first, np.asarray(animation.convert("RGB")))
    bare = inspect("--words", "cat,apple", "--seed", "7", "--out", "bare.png")
    assert np.array_equal(pixels(strip), pixels(Path(bare.out.splitlines()[3])))
    assert load_map_tensors(maps)["cat"].equal(load_map_tensors("bare.safetensors")["cat"])
    answer = inspect("--seed", "7", "--segment", "--animate", "--format", "json").json()
    areas = answer["segments"]["area_of_words"]
    assert list(areas) == ["red", "apple", "left", "cat"]
    assert sum(areas.values()) + answer["segments"]["area_of_no_word"] == pytest.approx(1, abs=1e-3)
    assert Path(answer["segments"]["picture"]).exists()
    assert Path(answer["animation"]).exists()


def test_no_metadata_writes_none(inspect: Cli) -> None:
    inspect("--words", "cat", "--out", "strip.png", "--no-metadata")
    assert not Image.open("strip.png").info.get("t2i")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--words", "cat,,apple"], 2, "Got --words 'cat,,apple': expected words of the prompt"),
        (["--steps", "0"], 2, "Got --steps 0"),
        (["--size", "33"], 2, "needs a multiple of 4"),
        (["--seed", "-1"], 2, "Got --seed -1"),
        (["--sampler", "dim"], 2, "dim"),
        (["--out", "strip.gif"], 2, "pictures are written as"),
        (["--lora", "none.safetensors"], 2, "No such LoRA"),
    ],
)
def test_what_cannot_be_used_is_named(
    inspect: Cli, arguments: list[str], code: int, message: str
) -> None:
    done = inspect(*arguments)
    assert done.code == code
    assert message in done.err
    assert not files(Path())


def test_a_prompt_of_little_words_asks_for_words(cli: Cli, model: Path) -> None:
    done = cli("inspect", "of the", "--model", model, "--steps", "1")
    assert done.code == 2
    assert "The prompt has only function words" in done.err


def test_words_are_split_at_commas_and_kept_once() -> None:
    assert split_words(["cat, red apple", "cat"]) == ["cat", "red apple"]
    with pytest.raises(ArgumentError, match="Got --words ''"):
        split_words([""])


def test_places_have_names() -> None:
    assert [
        describe_image_position(0.1, 0.1),
        describe_image_position(0.5, 0.5),
        describe_image_position(1.0, 0.9),
    ] == [
        "upper left",
        "middle",
        "lower right",
    ]


def test_help_has_examples(cli: Cli) -> None:
    assert 't2i inspect "a red apple' in cli("inspect", "--help").out


@pytest.mark.parametrize("command", [["inspect", "a cat AND a dog"], ["edit", "a cat", "a AND b"]])
def test_parts_that_are_told_alone_are_refused(cli: Cli, command: list[str]) -> None:
    done = cli(*command)
    assert done.code == 2
    assert "has parts joined by AND" in done.err
