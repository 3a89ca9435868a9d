"""A1111's `parameters`, from PNG and Exif."""

from dataclasses import replace
from pathlib import Path

import pytest

from t2i.cli.metadata.reading import (
    build_request_from_metadata,
    list_reproduction_differences,
    read_metadata,
)
from t2i.cli.metadata.writing import format_a1111
from t2i.cli.request.request import Request
from t2i.errors import DataError
from tests.cli.carrying import png, user_comment, with_exif

TEXT = """a cat, (detailed:1.2)
second line
Negative prompt: blurry,
low quality
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1234567890, \
Size: 512x768, Model hash: 6ce0161689, Model: "v1-5, pruned", Clip skip: 2, \
Lora hashes: "a: 12, b: 34", Civitai resources: [{"type": "lora", "weight": 1}], Version: v1.9.3"""


@pytest.mark.parametrize("carrier", ["png", "jpg", "webp"])
def test_prompt_and_settings_are_read_from_every_format(tmp_path: Path, carrier: str) -> None:
    path = tmp_path / f"a.{carrier}"
    if carrier == "png":
        png(path, {"parameters": TEXT})
    else:
        with_exif(path, {0x9286: user_comment(TEXT)})
    story = read_metadata(path)
    assert story.tool == "A1111 v1.9.3"
    assert story.prompt == "a cat, (detailed:1.2)\nsecond line"
    assert story.negative_prompt == "blurry,\nlow quality"
    settings = story.settings
    assert (settings.num_inference_steps, settings.guidance_scale) == (20, 7.0)
    assert (settings.sampler, settings.seed) == ("dpm++ 2m karras", 1234567890)
    assert (settings.width, settings.height) == (512, 768)
    assert (settings.model, settings.model_hash) == ("v1-5, pruned", "6ce0161689")
    assert story.not_understood == (
        "Clip skip: 2",
        "Lora hashes: a: 12, b: 34",
        'Civitai resources: [{"type": "lora", "weight": 1}]',
    )
    assert story.raw == TEXT


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_the_ends_of_lines_may_be_those_of_windows(tmp_path: Path, end: str) -> None:
    path = with_exif(tmp_path / "a.jpg", {0x9286: user_comment(TEXT.replace("\n", end))})
    story = read_metadata(path)
    assert story == replace(
        read_metadata(png(tmp_path / "a.png", {"parameters": TEXT})), raw=TEXT.replace("\n", end)
    )
    request, seed = build_request_from_metadata(story)
    assert "\r" not in format_a1111(request, seed or 0, "0" * 64)


def test_no_carriage_return_is_written_whoever_typed_it() -> None:
    request = Request(prompt="a cat\r\non a mat\rasleep", negative_prompt="a\r\nb", grammar="plain")
    text = format_a1111(request, 7, "0" * 64)
    assert text.split("\n")[:5] == ["a cat", "on a mat", "asleep", "Negative prompt: a", "b"]
    assert "\r" not in text


def test_a_request_takes_over_all_but_the_model(tmp_path: Path) -> None:
    story = read_metadata(png(tmp_path / "a.png", {"parameters": TEXT}))
    request, seed = build_request_from_metadata(story)
    assert (request.sampler, request.model, seed) == ("dpm++ 2m karras", "embedded", 1234567890)
    assert (request.width, request.height, request.guidance_scale) == (512, 768, 7.0)
    lines = list_reproduction_differences(story, None)
    assert lines[0] == "made by another tool, A1111 v1.9.3: it will not be identical"
    assert lines[1] == "the model 'v1-5, pruned' is not taken over: choose one with --model"
    assert "not understood: Clip skip: 2" in lines


def test_the_last_line_of_settings_counts(tmp_path: Path) -> None:
    text = "a cat\nSteps: 3, Sampler: Euler\nNegative prompt: x\nSteps: 20, Seed: 5\nTemplate: y"
    story = read_metadata(png(tmp_path / "a.png", {"parameters": text}))
    assert story.prompt == "a cat\nSteps: 3, Sampler: Euler"
    assert (story.negative_prompt, story.settings.num_inference_steps) == ("x", 20)
    assert story.settings.sampler is None
    assert story.not_understood == ("after the settings: Template: y",)
    assert "not recorded: sampler, guidance, width, height, model" in list_reproduction_differences(
        story, None
    )


def test_a_sampler_that_is_not_ours_is_kept_by_name(tmp_path: Path) -> None:
    text = "a cat\nSteps: 20, Sampler: DPM adaptive, Seed: 5"
    story = read_metadata(png(tmp_path / "a.png", {"parameters": text}))
    assert story.settings.sampler == "DPM adaptive"
    assert story.not_understood == ("sampler: DPM adaptive",)
    assert build_request_from_metadata(story)[0].sampler is None
    assert (
        "the sampler 'DPM adaptive' is unknown here: the model's own is used"
        in list_reproduction_differences(story, None)
    )


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le", "utf-16"])
def test_both_byte_orders_of_a_comment_are_read(tmp_path: Path, encoding: str) -> None:
    text = "\u4e00\u0100 cat\nSteps: 20, Seed: 5"
    path = with_exif(tmp_path / "a.jpg", {0x9286: user_comment(text, encoding)})
    assert read_metadata(path).prompt == "\u4e00\u0100 cat"


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("Seed: 1e999", r"seed: 1e999 (expected a whole number from 0 to 18446744073709551615)"),
        ("Seed: -1", r"seed: -1 (expected a whole number from 0 to 18446744073709551615)"),
        ("CFG scale: 1e999", "CFG scale: 1e999 (expected a finite number)"),
        ("CFG scale: nan", "CFG scale: nan (expected a finite number)"),
        ("Size: 9999999x9999999", "size: 9999999x9999999 (expected at most"),
        ("Size: big", "Size: big (expected width x height)"),
        ("no name", "setting: no name"),
        ("Steps: 3", "Steps: 3"),
        ("\x1b[31m: \x9b2J", r"\u001b[31m: \u009b2J"),
    ],
)
def test_a_value_that_no_picture_can_have_is_named(
    tmp_path: Path, setting: str, named: str
) -> None:
    text = f"a cat\nSteps: 20, {setting}, Sampler: Euler"
    story = read_metadata(png(tmp_path / "a.png", {"parameters": text}))
    assert story.settings.seed is None
    assert story.settings.sampler == "euler"
    assert any(named in line for line in story.not_understood), story.not_understood


@pytest.mark.parametrize("steps", ["99999999999999999999", "9" * 5000, "0", "\u0663", "2.5"])
def test_steps_beyond_reason_are_named(tmp_path: Path, steps: str) -> None:
    story = read_metadata(
        png(tmp_path / "a.png", {"parameters": f"a cat\nSteps: {steps}, Seed: 5"})
    )
    assert story.settings.num_inference_steps is None
    assert story.settings.seed == 5
    assert story.not_understood[0].startswith("steps: ")
    assert "expected a whole number from 1 to 10000" in story.not_understood[0]


def test_a_seed_that_t2i_cannot_take_is_told_and_left_out(tmp_path: Path) -> None:
    text = f"a cat\nSteps: 20, Seed: {2**63}"
    story = read_metadata(png(tmp_path / "a.png", {"parameters": text}))
    assert story.settings.seed == 2**63
    assert build_request_from_metadata(story)[1] is None
    assert any(
        "is above 9007199254740992" in line for line in list_reproduction_differences(story, None)
    )


def test_a_text_without_settings_is_no_story(tmp_path: Path) -> None:
    path = with_exif(tmp_path / "a.jpg", {0x9286: b"ASCII\0\0\0a day at the sea"})
    with pytest.raises(DataError, match="parameters: no line that begins with 'Steps:'"):
        read_metadata(path)
