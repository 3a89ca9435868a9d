"""`t2i edit --image`: a photo is inverted and edited by its words, and its pictures say how."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t2i.cli.request.photo_inversion import PhotoInversion, convert_recording_budget_to_bytes
from t2i.cli.request.request import Request
from t2i.errors import ArgumentError
from tests.cli.command import Cli, Result, files, pixels, text_of
from tests.test_pictures import png_header

SOURCE, TARGET = "a red cat", "a red dog"


@pytest.fixture
def edit(cli: Cli, model: Path, photo: Path) -> Cli:
    """`t2i edit` of the photo on the tiny model, in three steps."""

    def run(*arguments: str | Path) -> Result:
        options = ("--model", model, "--steps", "3", "--seed", "7")
        return cli("edit", "--image", photo, *arguments, *options)

    return run


def request_of(path: str) -> dict[str, Any]:
    request: dict[str, Any] = json.loads(text_of(Path(path))["t2i"])["request"]
    return request


def test_a_photo_is_inverted_and_edited(edit: Cli, photo: Path) -> None:
    done = edit(SOURCE, TARGET, "--out", "e.png")
    assert done.code == 0, done.err
    assert done.paths == [Path("e.png"), Path("e-source.png"), Path("e-target.png")]
    assert Image.open("e.png").width == 3 * 256 + 4 * 8  # the photo, what is reproduced, the edit
    shown = np.asarray(Image.open("e.png"))[8 : 8 + 256, 8 : 8 + 256]
    assert np.array_equal(shown[::8, ::8], pixels(photo))
    assert not np.array_equal(pixels(Path("e-source.png")), pixels(Path("e-target.png")))


def test_the_method_the_size_and_the_error_are_said(edit: Cli) -> None:
    said = edit(SOURCE, TARGET, "--invert", "direct").err
    assert "Inverting photo.png by direct:iterations=4; its recording takes about 0." in said
    assert "Drawn again from its noise, the photo is reproduced at " in said
    assert " dB; the autoencoder alone: " in said
    assert "swap: --cross-replace 0.8" in said
    exact = edit(SOURCE, TARGET, "--invert", "edit-friendly:skip=0.35").err
    assert "The method reproduces its path exactly; the autoencoder alone: " in exact


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("auto", ("e-source", "e-target-1", "e-target-2")),
        ("edit-friendly:skip=0.35", ("e-target-2",)),
    ],
)
def test_an_edited_photo_is_made_again_exactly(
    edit: Cli, cli: Cli, method: str, names: tuple[str, ...]
) -> None:
    edit(SOURCE, TARGET, "a red dog and a blue cat", "--invert", method, "--out", "e.png")
    for name in names:
        done = cli("generate", "--from", f"{name}.png", "--out", f"{name}-again.png")
        assert done.code == 0, done.err
        assert "Not the same here" not in done.err
        assert np.array_equal(pixels(Path(f"{name}.png")), pixels(Path(f"{name}-again.png")))
        assert request_of(f"{name}-again.png") == request_of(f"{name}.png")


def test_a_target_has_the_style_of_a_photo_also_of_one_recorded_for_it(
    edit: Cli, cli: Cli, model: Path, photo: Path
) -> None:
    done = edit(SOURCE, "a blue dog", "--invert", "direct", "--style", "2", "--out", "e.png")
    assert done.code == 0, done.err
    assert [one["edit"] for one in request_of("e-target.png")["edited"]["edits"]] == [
        "style-aligned"
    ]
    again = cli("generate", "--from", "e-target.png", "--out", "again.png")
    assert again.code == 0, again.err
    assert np.array_equal(pixels(Path("e-target.png")), pixels(Path("again.png")))
    options = ("--model", model, "--steps", "3", "--seed", "7", "--invert", "direct")
    cli("invert", photo, SOURCE, *options, "--for-style", "--out", "kept")
    styled = cli("edit", "--source", "kept", "a blue dog", "--style", "2", "--out", "k.png")
    assert styled.code == 0, styled.err
    assert np.array_equal(pixels(Path("e-target.png")), pixels(Path("k-target.png")))
    cli("invert", photo, SOURCE, *options, "--out", "plain")
    refused = cli("edit", "--source", "plain", "a blue dog", "--style", "2")
    assert refused.code == 2
    assert "record a photo with `t2i invert --for-style`" in refused.err


def test_an_edit_is_recorded_for_the_style_where_its_source_was(
    edit: Cli, cli: Cli, model: Path, photo: Path
) -> None:
    options = ("--model", model, "--steps", "3", "--seed", "7", "--invert", "direct")
    for name, more in (("kept", ["--for-style"]), ("plain", [])):
        cli("invert", photo, SOURCE, *options, *more, "--out", name)
        done = cli("edit", "--source", name, TARGET, "--record", f"{name}-edited")
        assert done.code == 0, done.err
    styled = cli("edit", "--source", "kept-edited", "a blue dog", "--style", "2", "--out", "k.png")
    assert styled.code == 0, styled.err
    assert request_of("k-target.png")["edited"]["edits"][0]["edit"] == "style-aligned"
    refused = cli("edit", "--source", "plain-edited", "a blue dog", "--style", "2")
    assert refused.code == 2
    assert "was not for this source" in refused.err
    # An edit that draws in a style is recorded for the next one.
    done = edit(SOURCE, TARGET, "--invert", "direct", "--style", "2", "--record", "drawn")
    assert done.code == 0, done.err
    next_one = cli("edit", "--source", "drawn", "a blue dog", "--style", "2", "--out", "n.png")
    assert next_one.code == 0, next_one.err


def test_the_metadata_have_the_photo_s_digest_the_method_and_its_error(edit: Cli, cli: Cli) -> None:
    edit(SOURCE, TARGET, "--invert", "direct", "--out", "e.png")
    request = request_of("e-target.png")
    assert len(request["image"]["sha256"]) == 64
    assert request["inversion"]["method"] == "direct:iterations=4"
    assert 0 < request["inversion"]["replay"] < 60
    assert 0 < request["inversion"]["autoencoder"] < 60
    assert (
        'Inversion: "direct:iterations=4", Inversion error: '
        in text_of(Path("e.png"))["parameters"]
    )
    shown = cli("show", "e-target.png").out
    assert "inversion        direct:iterations=4\n" in shown
    assert "inversion error  replay " in shown
    assert "picture          photo.png (" in shown


def test_a_picture_of_a_photo_that_is_gone_names_the_option(
    edit: Cli, cli: Cli, photo: Path
) -> None:
    edit(SOURCE, TARGET, "--out", "e.png")
    photo.rename("moved.png")
    done = cli("generate", "--from", "e-target.png", "--out", "again.png")
    assert done.code == 4
    assert "was made with the picture" in done.err
    assert "Or give another with --image" in done.err
    moved = ("--image", "moved.png", "--out", "again.png")
    assert cli("generate", "--from", "e-target.png", *moved).code == 0
    assert np.array_equal(pixels(Path("e-target.png")), pixels(Path("again.png")))


def test_another_photo_is_said_where_a_picture_is_made_again(
    edit: Cli, cli: Cli, photo: Path
) -> None:
    edit(SOURCE, TARGET, "--out", "e.png")
    Image.new("RGB", (32, 32), "blue").save(photo)
    done = cli("generate", "--from", "e-target.png", "--out", "again.png")
    assert "Not the same here: made with picture photo.png" in done.err


def test_a_photo_is_described_by_no_words_where_that_is_chosen(edit: Cli) -> None:
    done = edit("", TARGET, "--invert", "edit-friendly", "--out", "e.png")
    assert done.code == 0, done.err
    assert "The prompt is empty" not in done.err


def test_weights_alone_change_a_photo(edit: Cli) -> None:
    assert edit(SOURCE, "--weight", "red=5", "--out", "e.png").code == 0


def test_a_small_photo_is_said_to_be_enlarged(edit: Cli, photo: Path) -> None:
    Image.new("RGB", (20, 30)).save(photo)
    done = edit(SOURCE, TARGET)
    assert done.code == 0
    assert "The photo is smaller than the model's 32x32 pixels: it is enlarged" in done.err


def test_a_photo_of_any_size_is_fitted_and_put_back(edit: Cli, cli: Cli, photo: Path) -> None:
    """What an edit may not change has the photo's own pixels, and the photo's Exif is kept."""
    wide = Image.open(photo).resize((96, 64))
    exif = Image.Exif()
    exif[0x0132] = "2026:11:30 06:00:00"
    wide.save(photo, exif=exif)
    mask = Image.new("L", wide.size)
    mask.paste(255, (40, 16, 64, 48))
    mask.save("mask.png")
    done = edit(SOURCE, TARGET, "--mask", "mask.png", "--full-size", "--out", "e.png")
    assert done.code == 0, done.err
    assert "The photo: 96x64 pixels, cropped to the middle 64x64, reduced to 32x32" in done.err
    edited = Image.open("e-target.png")
    assert edited.size == (96, 64)
    assert edited.getexif()[0x0132] == "2026:11:30 06:00:00"
    outside = np.asarray(mask) == 0
    assert np.array_equal(np.asarray(edited)[outside], np.asarray(wide)[outside])
    assert not np.array_equal(np.asarray(edited), np.asarray(wide))
    assert Image.open("e-source.png").size == (32, 32)
    cli("generate", "--from", "e-target.png", "--out", "again.png")
    assert np.array_equal(pixels(Path("e-target.png")), pixels(Path("again.png")))
    shown = cli("show", "e-target.png").out
    assert "crop, at full size\n" in shown
    assert "mask             mask.png (" in shown


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_a_photo_is_fitted_as_asked(edit: Cli, photo: Path, fit: str) -> None:
    Image.open(photo).resize((96, 64)).save(photo)
    done = edit(SOURCE, TARGET, "--fit", fit, "--out", "e.png")
    assert done.code == 0, done.err
    assert {"pad": "padded to 32x32", "stretch": "stretched to 32x32"}[fit] in done.err
    assert request_of("e-target.png")["inversion"]["fit"] == fit


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ([TARGET], "turbo:pull=1.5,max_last_residual=15.5"),
        ([TARGET, SOURCE + " and a star"], "direct:iterations=4"),
        ([TARGET, "--negative", "a frog"], "direct:iterations=4"),
    ],
)
def test_json_has_the_request_with_the_inversion_of_the_kind_of_change(
    edit: Cli, options: list[str], method: str
) -> None:
    answer = edit(SOURCE, *options, "--format", "json").json()
    assert answer["request"]["inversion"]["method"] == method


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Got --image without SOURCE and TARGET: the photo is inverted with the prompt"),
        ([SOURCE], 2, 'An empty SOURCE, "", does without a description'),
        ([SOURCE, TARGET, "--invert", "dirct"], 2, "Unknown inversion method 'dirct'. Did you"),
        ([SOURCE, TARGET, "--invert", ""], 2, "Unknown inversion method ''. Choices: auto, "),
        ([SOURCE, TARGET, "--invert", "auto:skip=0.2"], 2, "Got 'auto:skip=0.2': auto chooses a"),
        ([SOURCE, TARGET, "--invert", "turbo", "--negative", "x"], 2, "Got negative_prompt (--neg"),
        ([SOURCE, TARGET, "--invert", "ddim:iteratons=2"], 2, "Did you mean 'iterations'?"),
        ([SOURCE, TARGET, "--invert", "ddim:iterations=0"], 2, "expected a number from 1 to 100"),
        ([SOURCE, TARGET, "--budget", "0.00001"], 2, "Recording this source takes"),
        ([SOURCE, TARGET, "--budget", "-1"], 2, "Got --budget -1.0: expected the GiB"),
        ([SOURCE, TARGET, "--size", "33"], 2, "needs a multiple of 4"),
        ([SOURCE, TARGET, "--sampler", "lcm", "--invert", "ddim"], 2, "choose turbo"),
        ([SOURCE, TARGET, "--mask", "none.png"], 4, "No such mask: none.png"),
        ([SOURCE, TARGET, "--mask", "photo.png", "--fit", "cut"], 2, "Got --fit 'cut'"),
        (["a", "red", "dog"], 2, "Got 3 prompts, some of a single word"),
    ],
)
def test_what_cannot_be_used_is_named(
    edit: Cli, photo: Path, arguments: list[str], code: int, message: str
) -> None:
    done = edit(*arguments)
    assert done.code == code
    assert message in done.err
    assert files(Path()) == [photo.name]


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"GIF89a", 4, "is a GIF; expected a PNG, JPEG or WebP picture"),
        (b"", 4, "is empty"),
        (None, 4, "No such picture: "),
    ],
)
def test_a_photo_that_is_none_is_named(
    edit: Cli, photo: Path, content: bytes | None, code: int, message: str
) -> None:
    photo.unlink()
    if content is not None:
        photo.write_bytes(content)
    done = edit(SOURCE, TARGET)
    assert done.code == code
    assert message in done.err
    assert [name for name in files(Path()) if name != photo.name] == []


@pytest.mark.parametrize(
    ("file", "arguments"),
    [
        ("photo.png", ["edit", "--image", "photo.png", SOURCE, TARGET]),
        ("mask.png", ["edit", "--image", "photo.png", SOURCE, TARGET, "--mask", "mask.png"]),
        ("photo.png", ["invert", "photo.png", SOURCE, "--out", "kept"]),
        ("photo.png", ["inspect", "--image", "photo.png", SOURCE]),
        ("photo.png", ["generate", TARGET, "--image", "photo.png"]),
    ],
)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png_header(10_000, 10_001), "holds 10000x10001 pixels; at most 64 million are decoded"),
        (b"a cat", "is no picture we know; expected a PNG, JPEG or WebP"),
    ],
    ids=["100 megapixels", "no picture"],
)
def test_a_photo_and_a_mask_are_checked_before_the_model_is_loaded(
    cli: Cli, photo: Path, file: str, arguments: list[str], content: bytes, message: str
) -> None:
    Path(file).write_bytes(content)
    done = cli(*arguments, "--model", "none of the sort")
    assert done.code == 4
    assert done.err.startswith(f"Error: {file} {message}")
    assert len(done.err.splitlines()) == 1


def test_a_web_address_is_named_as_one(cli: Cli) -> None:
    done = cli("edit", "--image", "https://example.com/cat.jpg", SOURCE, TARGET)
    assert done.code == 4
    assert "Web addresses are not read: download the file" in done.err


def test_an_edit_across_the_side_of_a_crop_is_said(edit: Cli, photo: Path) -> None:
    Image.open(photo).resize((96, 64)).save(photo)
    said = "The edit reaches a side at which the photo was cropped (96x64 pixels, cropped to"
    done = edit(SOURCE, TARGET, "--blend", "none", "--full-size", "--out", "e.png")
    assert said in done.err
    padded = edit(SOURCE, TARGET, "--blend", "none", "--full-size", "--fit", "pad")
    assert "The edit reaches" not in padded.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--invert", "direct", "--fit", "pad"), "Got --invert and --fit without --image"),
        (("--full-size",), "Got --full-size without --image or --source"),
    ],
)
def test_what_is_about_a_photo_needs_one(cli: Cli, options: tuple[str, ...], message: str) -> None:
    done = cli("edit", SOURCE, TARGET, *options)
    assert done.code == 2
    assert message in done.err


def test_a_mask_of_another_shape_is_refused_in_words(edit: Cli, photo: Path) -> None:
    Image.new("L", (50, 20), 255).save("mask.png")
    done = edit(SOURCE, TARGET, "--mask", "mask.png")
    assert done.code == 2
    assert "Got a mask of 50x20 pixels for a photo of 32x32" in done.err


def test_a_photo_takes_no_strength(edit: Cli, cli: Cli) -> None:
    edit(SOURCE, TARGET, "--out", "e.png")
    done = cli("generate", "--from", "e-target.png", "--strength", "0.5")
    assert done.code == 2
    assert "Got --strength 0.5 for a photo that was edited by its words" in done.err


def test_an_inversion_in_a_record_is_checked() -> None:
    with pytest.raises(ArgumentError, match="Unknown inversion method 'x'"):
        Request(prompt=SOURCE, inversion=PhotoInversion(method="x"))
    assert convert_recording_budget_to_bytes(None) is None
    assert convert_recording_budget_to_bytes(0.5) == 1 << 29
