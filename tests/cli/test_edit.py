"""`t2i edit`, and edited pictures that say how they were made."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i.cli.request.edit_options import (
    RegionBoxOption,
    format_alignment,
    format_region,
    parse_alignment,
    parse_blend_words,
    parse_region,
    parse_step_window,
    parse_word_weights,
)
from t2i.cli.request.prompt_edits import EditedPrompts
from t2i.cli.request.request import Request
from t2i.errors import ArgumentError
from tests.cli.carrying import png
from tests.cli.command import Cli, Result, files, pixels, text_of

SOURCE, TARGET = "a red cat", "a red dog"
REPLACE = {"edit": "replace"}
FREE = ("--cross-replace", "0", "--self-replace", "0", "--blend", "none")


@pytest.fixture
def edit(cli: Cli, model: Path) -> Cli:
    """`t2i edit` of SOURCE on the tiny model in three steps, unless the arguments say otherwise."""

    def run(*arguments: str | Path) -> Result:
        return cli("edit", SOURCE, "--model", model, "--steps", "3", "--seed", "7", *arguments)

    return run


def test_edit_writes_a_sheet_and_each_picture_alone(edit: Cli) -> None:
    done = edit(TARGET)
    assert done.code == 0, done.err
    names = ["a-red-cat-edit-7.png", "a-red-cat-edit-7-source.png", "a-red-cat-edit-7-target.png"]
    assert done.paths == [Path("outputs") / name for name in names]
    sheet, source, target = done.paths
    assert Image.open(sheet).width == 2 * 256 + 3 * 8
    assert Image.open(source).size == Image.open(target).size == (32, 32)
    assert not np.array_equal(pixels(source), pixels(target))


def test_the_source_is_the_picture_that_generate_draws(edit: Cli, cli: Cli, model: Path) -> None:
    edit(TARGET, "--out", "e.png")
    cli("generate", SOURCE, "--model", model, "--steps", "3", "--seed", "7", "--out", "plain.png")
    difference = pixels(Path("e-source.png")).astype(int) - pixels(Path("plain.png"))
    assert np.abs(difference).max() <= 1


def test_an_edited_picture_is_made_again_exactly(edit: Cli, cli: Cli) -> None:
    edit(TARGET, "--target", "a red dog and a blue cat", "--weight", "red=2.5", "--out", "e.png")
    for name in ("e-source", "e-target-1", "e-target-2"):
        done = cli("generate", "--from", f"{name}.png", "--out", f"{name}-again.png")
        assert done.code == 0, done.err
        assert "Not the same here" not in done.err
        assert np.array_equal(pixels(Path(f"{name}.png")), pixels(Path(f"{name}-again.png")))
    assert not np.array_equal(pixels(Path("e-target-1.png")), pixels(Path("e-target-2.png")))
    # and so is the copy: the story came along
    cli("generate", "--from", "e-target-1-again.png", "--out", "third.png")
    assert np.array_equal(pixels(Path("third.png")), pixels(Path("e-target-1.png")))


@pytest.mark.parametrize("how", [["--weight", "red=2"], ["--blend", "cat,dog"]])
def test_an_edited_picture_is_made_again_in_one_step_as_edit_draws_it(
    edit: Cli, cli: Cli, how: list[str]
) -> None:
    edit(TARGET, *how, "--out", "e.png")
    edit(TARGET, *how, "--out", "one.png", "--steps", "1")
    done = cli("generate", "--from", "e-target.png", "--out", "again.png", "--steps", "1")
    assert done.code == 0, done.err
    assert "Warning: 1 step is too few for self_replace=(0.0, 0.4): none lies in it" in done.err
    assert np.array_equal(pixels(Path("again.png")), pixels(Path("one-target.png")))


def test_a_blended_picture_is_made_again_exactly(edit: Cli, cli: Cli) -> None:
    edit(TARGET, "--blend", "cat,dog", "--out", "e.webp")
    assert files(Path()) == ["e-source.png", "e-target.png", "e.webp"]
    cli("generate", "--from", "e-target.png", "--out", "again.png")
    assert np.array_equal(pixels(Path("e-target.png")), pixels(Path("again.png")))
    edits = json.loads(text_of(Path("again.png"))["t2i"])["request"]["edited"]["edits"]
    assert edits[-1]["edit"] == "local-blend"
    assert edits[-1]["words"] == [["cat"], ["dog"]]


def test_what_was_chosen_is_said_and_recorded_and_can_be_typed(edit: Cli, cli: Cli) -> None:
    done = edit(TARGET, "--out", "e.png")
    line = "swap: --cross-replace 0.8 --self-replace 0.4 --blend cat,dog"
    assert line in done.err
    edit(TARGET, *line.split()[1:], "--out", "typed.png")
    chosen = edit(TARGET, "--blend", "none", "--format", "json").json()["chosen"]
    assert [(one["change"]["kind"], one["blend"]) for one in chosen] == [("swap", None)]
    cli("generate", "--from", "e-target.png", "--out", "again.png")
    drawn = [pixels(Path(name)) for name in ("e-target.png", "typed-target.png", "again.png")]
    assert all(np.array_equal(drawn[0], other) for other in drawn[1:])


def test_the_metadata_has_the_edits_and_show_prints_them(edit: Cli, cli: Cli) -> None:
    edit(TARGET, "--weight", "dog=2", "--cross-replace", "0.2:0.6", "--out", "e.png")
    request = json.loads(text_of(Path("e-target.png"))["t2i"])["request"]
    assert request["prompt"] == TARGET
    assert request["edited"]["prompts"] == [SOURCE, TARGET]
    assert request["edited"]["picture"] == 1
    kinds = [one["edit"] for one in request["edited"]["edits"]]
    assert kinds == ["replace", "reweight", "self-replace", "local-blend"]
    assert request["edited"]["edits"][0]["steps"] == [0.2, 0.6]
    assert "Edited from: a red cat" in text_of(Path("e-target.png"))["parameters"]
    shown = cli("show", "e-target.png").out
    assert "drawn with  a red cat" in shown
    assert '"edit": "reweight"' in shown
    assert cli("show", "e.png").out == shown.replace("--from e-target.png", "--from e.png")
    assert "drawn with  a red dog" in cli("show", "e-source.png").out


def test_weights_alone_change_the_source(edit: Cli) -> None:
    done = edit("--weight", "red=5", "--out", "e.png")
    assert done.code == 0, done.err
    source, target = pixels(Path("e-source.png")), pixels(Path("e-target.png"))
    assert not np.array_equal(source, target)


def test_windows_change_the_target(edit: Cli) -> None:
    edit(TARGET, "--out", "e.png")
    edit(TARGET, "--cross-replace", "0", "--self-replace", "0", "--out", "free.png")
    edited, free = pixels(Path("e-target.png")), pixels(Path("free-target.png"))
    assert not np.array_equal(edited, free)


def test_json_says_what_was_made(edit: Cli) -> None:
    answer = edit(TARGET, "--format", "json").json()
    assert [Path(path).exists() for path in [answer["sheet"], *answer["pictures"]]] == [True] * 3
    assert answer["request"]["edited"]["prompts"] == [SOURCE, TARGET]


def test_a_target_that_asks_for_no_change_is_warned_of(edit: Cli) -> None:
    done = edit(SOURCE, "--out", "same.png")
    assert done.code == 0, done.err
    assert "Warning: The target 'a red cat' is the source's own prompt, and no word" in done.err
    assert np.array_equal(pixels(Path("same-source.png")), pixels(Path("same-target.png")))
    for number, arguments in enumerate(([TARGET], [SOURCE, "--weight", "red=2"], [])):
        weight = ["--weight", "cat=2"] if not arguments else []
        done = edit(*arguments, *weight, "--out", f"{number}.png")
        assert "nothing asks for a change" not in done.err


def test_an_alignment_by_hand_is_drawn_recorded_and_repeated(edit: Cli, cli: Cli) -> None:
    target = "a blue dog and the cat"
    edit(target, "--out", "e.png")
    done = edit(target, "--align", "dog=cat,cat=new", "--align", "blue=red", "--out", "by-hand.png")
    assert done.code == 0, done.err
    edits = json.loads(text_of(Path("by-hand-target.png"))["t2i"])["request"]["edited"]["edits"]
    assert edits[0]["alignment"] == {"dog": "cat", "cat": None, "blue": "red"}
    assert not np.array_equal(pixels(Path("e-target.png")), pixels(Path("by-hand-target.png")))
    assert np.array_equal(pixels(Path("e-source.png")), pixels(Path("by-hand-source.png")))
    cli("generate", "--from", "by-hand-target.png", "--out", "again.png")
    assert np.array_equal(pixels(Path("by-hand-target.png")), pixels(Path("again.png")))


def test_words_are_bound_to_boxes_and_nothing_holds_them_elsewhere(edit: Cli, cli: Cli) -> None:
    done = edit("--region", "cat:0.5,0,1,1", "--out", "e.png")
    assert done.code == 0, done.err
    assert "nothing asks for a change" not in done.err
    edits = json.loads(text_of(Path("e-target.png"))["t2i"])["request"]["edited"]["edits"]
    assert [one["edit"] for one in edits] == ["regions"]
    assert edits[0]["regions"] == [{"words": "cat", "box": [0.5, 0.0, 1.0, 1.0], "mask": None}]
    assert not np.array_equal(pixels(Path("e-source.png")), pixels(Path("e-target.png")))
    edit("--region", "cat:0.5,0,1,1", "--self-replace", "0.8", "--out", "held.png")
    assert not np.array_equal(pixels(Path("held-target.png")), pixels(Path("e-target.png")))
    cli("generate", "--from", "e-target.png", "--out", "again.png")
    assert np.array_equal(pixels(Path("e-target.png")), pixels(Path("again.png")))


def test_targets_are_drawn_in_the_style_of_the_source(edit: Cli, cli: Cli) -> None:
    done = edit("a blue dog", "--target", TARGET, "--style", "2", "--out", "e.png")
    assert done.code == 0, done.err
    edits = json.loads(text_of(Path("e-target-1.png"))["t2i"])["request"]["edited"]["edits"]
    assert [(one["edit"], one["target"]) for one in edits] == [
        ("style-aligned", 1),
        ("style-aligned", 2),
    ]
    assert all(one["source_weight"] == 2 for one in edits)
    edit("a blue dog", *FREE, "--out", "free.png")
    assert not np.array_equal(pixels(Path("e-target-1.png")), pixels(Path("free-target.png")))
    cli("generate", "--from", "e-target-1.png", "--out", "again.png")
    assert np.array_equal(pixels(Path("e-target-1.png")), pixels(Path("again.png")))


def test_an_alignment_without_maps_of_the_source_is_warned_of(edit: Cli) -> None:
    done = edit(TARGET, "--align", "dog=cat", "--cross-replace", "0", "--out", "e.png")
    assert "The alignment by hand has no effect: cross_replace=0" in done.err


def test_nothing_is_replaced(edit: Cli) -> None:
    Path("e-target.png").write_bytes(b"mine")
    done = edit(TARGET, "--out", "e.png")
    assert done.code == 5
    assert "e-target.png exists and is not replaced" in done.err
    assert files(Path()) == ["e-target.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Missing what to change: give a TARGET"),
        ([TARGET, "--weight", "dog"], 2, "Got --weight 'dog': expected a word of the target"),
        ([TARGET, "--weight", "cow=2"], 2, "weights: 'cow' is not in any target"),
        ([TARGET, "--blend", "a,b,c"], 2, "Got --blend 'a,b,c': expected a word of SOURCE and one"),
        ([TARGET, "--blend", "cow,dog"], 2, "'cow' is not in the prompt"),
        (
            [TARGET, "--align", "dog"],
            2,
            "Got --align 'dog': expected a word of TARGET and the word",
        ),
        ([TARGET, "--align", "dog=cat,dog=a"], 2, "Got --align with 'dog' twice"),
        ([TARGET, "--align", "dgo=cat"], 2, "alignment: 'dgo' is not in any target. Nearest: dog"),
        ([TARGET, "--align", "dog=cta"], 2, "alignment: 'cta' is not in the source. Nearest: cat"),
        ([TARGET, "--region", "dog"], 2, "Got --region 'dog': expected words, and left, top"),
        ([TARGET, "--region", "dog:0,0,2,1"], 2, "expected left < right and top < bottom"),
        ([TARGET, "--region", "cow:0,0,1,1"], 2, "regions: 'cow' is in no target"),
        ([TARGET, "--style", "0"], 2, "Got --style 0: expected a positive number"),
        ([TARGET, "--style", "nan"], 2, "Got --style nan: expected a positive number"),
        (["--style", "1"], 2, "Missing what to change"),
        ([TARGET, "--self-replace", "2"], 2, "Got --self-replace '2': expected a share"),
        ([TARGET, "--cross-replace", "x"], 2, "Got --cross-replace 'x': expected a share"),
        ([TARGET, "--size", "33"], 2, "needs a multiple of 4"),
    ],
)
def test_what_cannot_be_used_is_named(
    edit: Cli, arguments: list[str], code: int, message: str
) -> None:
    done = edit(*arguments)
    assert done.code == code
    assert message in done.err
    assert not files(Path())


def test_options_are_read_as_people_type_them() -> None:
    assert parse_word_weights(["red=2", "a=b=-.5"]) == {"red": 2.0, "a=b": -0.5}
    assert parse_blend_words("cat + bowl, dog") == (("cat", "bowl"), ("dog",))
    assert parse_blend_words("apple") == (("apple",), ("apple",))
    assert parse_blend_words("none") is None
    assert parse_blend_words("auto") == "auto"
    assert parse_alignment(["dog = cat, big=new", "car=new#1"]) == {
        "dog": "cat",
        "big": None,
        "car": "new#1",
    }
    assert (
        format_alignment({"dog": "cat", "big": None, "car": "new"}) == "dog=cat,big=new,car=new#1"
    )
    region = parse_region("red car:0,.25, 0.5,1")
    assert region == RegionBoxOption(words="red car", box=(0.0, 0.25, 0.5, 1.0))
    assert parse_region(format_region(region)) == region
    assert parse_step_window("--x", "0.8") == (0.0, 0.8)
    assert parse_step_window("--x", "0.2:1") == (0.2, 1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompts": (SOURCE,)}, "Got 1 prompt to draw together"),
        ({"picture": 2}, "Got picture 2 of 2"),
        ({"edits": (REPLACE,) * 200}, "Got 200 edits: at most 128"),
        ({"edits": ({"edit": "replaced"},)}, "Unknown edit 'replaced'"),
        ({"edits": ({"edit": "replace", "steps": "all"},)}, "steps"),
    ],
)
def test_a_record_that_cannot_be_drawn_is_refused(given: dict[str, object], message: str) -> None:
    whole: dict[str, object] = {"prompts": (SOURCE, TARGET), "picture": 1, "edits": (REPLACE,)}
    with pytest.raises(ArgumentError, match=message):
        EditedPrompts(**whole | given)  # type: ignore[arg-type]  # that is what is tested


def test_a_request_and_its_edits_agree() -> None:
    edited = EditedPrompts(prompts=(SOURCE, TARGET), picture=1, edits=(REPLACE,))
    with pytest.raises(ArgumentError, match="Picture 1 of the edited ones is of 'a red dog'"):
        Request(prompt=SOURCE, edited=edited)
    long = EditedPrompts(prompts=("a" * 30_000, TARGET), picture=1, edits=())
    with pytest.raises(ArgumentError, match="letters long"):
        Request(prompt=TARGET, edited=long)


def test_an_edited_picture_does_not_begin_from_another(edit: Cli, cli: Cli) -> None:
    edit(TARGET, "--out", "e.png")
    done = cli("generate", "--from", "e-target.png", "--image", "e-source.png")
    assert done.code == 2
    assert "Got --image for a picture that was edited by its words" in done.err


def test_a_hostile_record_of_edits_is_refused_by_show(cli: Cli, tmp_path: Path) -> None:
    request = {"prompt": TARGET, "edited": {"prompts": [SOURCE, TARGET], "picture": 1}}
    for edits, message in (
        ([{"edit": "__import__('os')"}], "Unknown edit"),
        ([REPLACE] * 1000, "at most 128"),
        ("replace", "edits"),
    ):
        record = {"version": 1, "seed": 1, "model_digest": "0", "request": request}
        record = json.loads(json.dumps(record))
        record["request"]["edited"]["edits"] = edits
        done = cli("show", png(tmp_path / "x.png", {"t2i": json.dumps(record)}))
        assert done.code == 4
        assert message in done.err
