"""Sheets of samples: beside each picture, where the words that are learned landed in it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2i.attention import attend
from t2i.attention.probes.overlays import draw_overlays
from t2i.errors import ArgumentError
from t2i.pictures import GAP_PIXELS, MIN_DISPLAY_WIDTH, PAPER
from tests.sweeps import sweep
from tests.train.finetunes import finetune_run
from tests.train.runs import tiny_run, train_only
from tests.train.states import logged
from train.loop import run_training
from train.reporting.sample_sheets import (
    SampleImage,
    SamplesConfig,
    draw_sample_sheet,
    generate_prompt_images,
)
from train.setup.assembly import assemble_target
from train.targets.finetune import FineTuneTarget

PROMPTS = ("a <mug> left of a cat", "a cat", "a <pot> on a <mug>")
LOOKED_FOR = ("<mug>", "<pot>")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, base: Path) -> FineTuneTarget:
    """It learns "<mug>", two vectors, and "<pot>"."""
    folder = tmp_path_factory.mktemp("sheets")
    found = assemble_target(finetune_run(folder, base, ("pivotal",)))[0]
    assert isinstance(found, FineTuneTarget)
    return found.eval()  # type: ignore[no-any-return]


def config_of(**keys: object) -> SamplesConfig:
    return SamplesConfig.model_validate({"prompts": PROMPTS, "steps": 2, **keys})


@pytest.fixture(scope="module")
def drawn(target: FineTuneTarget) -> list[SampleImage]:
    with torch.no_grad():
        return generate_prompt_images(target.build_pipeline(), config_of(), LOOKED_FOR)


def test_each_picture_has_the_maps_of_the_words_that_its_prompt_says(
    drawn: list[SampleImage],
) -> None:
    assert [[*(one.maps or ())] for one in drawn] == [["<mug>"], [], ["<mug>", "<pot>"]]
    assert [one.prompt for one in drawn] == [*PROMPTS]


def test_looking_changes_no_picture(target: FineTuneTarget, drawn: list[SampleImage]) -> None:
    with torch.no_grad():
        plain = generate_prompt_images(target.build_pipeline(), config_of())
    for one, other in zip(drawn, plain, strict=True):
        assert np.array_equal(np.asarray(one.picture), np.asarray(other.picture))
        assert other.maps is None


def test_a_word_of_two_vectors_is_looked_for_with_both(
    target: FineTuneTarget, drawn: list[SampleImage]
) -> None:
    pipe = target.build_pipeline()
    tokens = pipe.tokenizer("a <mug> <mug>_1 left", add_special_tokens=False)["input_ids"]
    mug = target.components.tokenizer.convert_tokens_to_ids(["<mug>", "<mug>_1"])
    places = tuple(1 + tokens.index(token) for token in mug)  # one begins the text
    prompts, seeds = [*PROMPTS], [torch.Generator().manual_seed(seed) for seed in range(3)]
    with torch.no_grad(), attend(pipe) as attn:
        by_place = attn.probe(places, prompt=0)
        pipe(prompts, num_inference_steps=2, guidance_scale=4.0, generator=seeds)
    maps = drawn[0].maps
    assert maps is not None
    assert torch.equal(maps["<mug>"], by_place[str(places)])


def test_the_overlays_stand_right_of_their_picture_in_its_row(drawn: list[SampleImage]) -> None:
    sheet = draw_sample_sheet(
        drawn, columns=4
    )  # room for one picture and two words, not for two such
    step = MIN_DISPLAY_WIDTH + GAP_PIXELS
    assert sheet.width == 3 * step + GAP_PIXELS
    tops = [top for top in range(sheet.height) if is_cell(sheet, GAP_PIXELS, top)]
    rows = [top for top in tops if top - 1 not in tops]
    assert len(rows) == 3
    for top, one in zip(rows, drawn, strict=True):
        cells = draw_overlays(one.picture, one.maps)
        for column in range(3):
            left = GAP_PIXELS + column * step
            found = sheet.crop((left, top, left + MIN_DISPLAY_WIDTH, top + MIN_DISPLAY_WIDTH))
            if column < len(cells):
                assert np.array_equal(np.asarray(found), np.asarray(cells[column]))
            else:
                assert found.getcolors() == [(MIN_DISPLAY_WIDTH**2, PAPER)]


def is_cell(sheet: Image.Image, left: int, top: int) -> bool:
    """Whether a picture, and no label, lies along this line."""
    line = sheet.crop((left, top, left + MIN_DISPLAY_WIDTH, top + 1))
    return PAPER not in line.get_flattened_data()


def test_a_sheet_without_words_is_of_pictures_alone(drawn: list[SampleImage]) -> None:
    bare = [SampleImage(one.prompt, one.picture) for one in drawn]
    assert (
        draw_sample_sheet(bare, columns=6).width
        == 3 * (bare[0].picture.width + GAP_PIXELS) + GAP_PIXELS
    )


@pytest.mark.parametrize(
    ("keys", "learned", "expected"),
    [
        ({}, ["<mug>", "<pot>"], ("<mug>", "<pot>")),
        ({}, [], ()),
        ({"heat_maps": False}, ["<mug>"], ()),
        ({"heat_maps": True, "words": ["cat"]}, [], ("cat",)),
        ({"words": ["left of", "<mug>"]}, ["<mug>"], ("left of", "<mug>")),
    ],
)
def test_new_words_are_looked_for_unless_others_are_named(
    keys: dict[str, object], learned: list[str], expected: tuple[str, ...]
) -> None:
    assert config_of(**keys).choose_heat_map_words(learned) == expected


def test_a_word_that_no_prompt_says_is_refused(tmp_path: Path, base: Path) -> None:
    asked = ('samples.prompts=["a cat"]', 'samples.words=["dog"]')
    with pytest.raises(ArgumentError, match=r"names 'dog', which none of samples.prompts says"):
        finetune_run(tmp_path, base, ("lora",), *asked)


def test_heat_maps_of_a_run_that_learns_no_word_ask_which(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"learns no word: name the ones to show, as in sa"):
        tiny_run(tmp_path, "samples.heat_maps=true")


def test_a_run_draws_them_says_where_and_is_the_same_without(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("train.steps=2", "samples.every=2", "samples.steps=2", 'samples.prompts=["a <mug>"]')
    widths = {}
    for name, more in (("maps", ()), ("plain", ("samples.heat_maps=false",))):
        run_training(finetune_run(tmp_path, base, ("words",), *asked, *more), tmp_path / name)
        path = tmp_path / name / "samples" / "step-00000002.png"
        assert f"step 2/2  drawn: {path}" in capsys.readouterr().err
        widths[name] = Image.open(path).width
    assert widths["maps"] == 2 * (MIN_DISPLAY_WIDTH + GAP_PIXELS) + GAP_PIXELS
    assert widths["plain"] < widths["maps"]


@pytest.mark.parametrize("method", sweep(["pivotal", "full"], quick=["pivotal"]))
def test_a_run_in_bf16_draws_and_measures(tmp_path: Path, base: Path, method: str) -> None:
    asked = ("samples.every=1", "samples.steps=2", 'samples.prompts=["a <mug>", "a cat"]')
    held_out = ("data.held_out=2", "validation.every=1", "train.steps=1")
    half = "train.precision=bf16"
    run_training(finetune_run(tmp_path, base, (method,), *asked, *held_out, half), tmp_path / "out")
    sheet = Image.open(tmp_path / "out" / "samples" / "step-00000001.png")
    assert len(sheet.getcolors(sheet.width * sheet.height)) > 1000
    exact = finetune_run(tmp_path, base, (method,), *held_out)
    train_only(exact, tmp_path / "exact")
    first, other = (logged(tmp_path / out)[0]["validation_loss"] for out in ("out", "exact"))
    assert first == pytest.approx(other, rel=0.05)
