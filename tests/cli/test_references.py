"""`--reference`: the images of Python, in metadata and prompts files; with what it goes, and with
what it does not.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import t2i
from pipelines.inversion.edit_friendly import EditFriendlyInversion
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.prompt_to_prompt.recording_pipeline import RecordingPipeline
from t2i.attention import StyleAligned, attend
from t2i.cli.request.reference_files import parse_reference, parse_references
from t2i.errors import ArgumentError
from tests.cli.command import PROMPT, Cli, Result, pixels, request, same, text_of
from tests.pipelines.controls.networks import hint, tiny_controlnet
from tests.pipelines.test_adapters import lora_of

ONE = ("--reference", "look.png:scale=2,steps=0-0.75,prompt=a cat, drawn in ink")


@pytest.fixture
def draw(cli: Cli, model: Path) -> Cli:
    """`t2i generate` on the tiny model in four steps from one seed, beside pictures."""
    hint(1).save("look.png")
    hint(2, (48, 64)).save("tall.png")
    hint(3).save("start.png")

    def run(*arguments: str | Path) -> Result:
        fixed = ("--model", model, "--steps", "4", "--seed", "7")
        return cli("generate", PROMPT, *fixed, *arguments)

    return run


def out(result: Result) -> str:
    assert result.code == 0, result.err
    return str(result.paths[-1])


@pytest.mark.filterwarnings("ignore:Drawn again from its noise")
def test_the_image_is_the_one_of_python_and_says_how_it_was_made(draw: Cli, model: Path) -> None:
    path, plain = out(draw(*ONE)), out(draw())
    pipe = t2i.load(str(model))
    edit = StyleAligned(normalise=False, source_weight=2.0, steps=(0.0, 0.75))
    kept = PromptEditPipeline(**pipe.components).invert(
        *("look.png", "a cat, drawn in ink", EditFriendlyInversion()),
        for_edits=[edit],
        num_inference_steps=4,
        generator=torch.Generator("cpu").manual_seed(2**53 + 1),
    )

    def generate() -> Any:
        generator = torch.Generator("cpu").manual_seed(7)
        return np.asarray(pipe(PROMPT, num_inference_steps=4, generator=generator).images[0])

    assert np.array_equal(generate(), pixels(Path(plain)))
    with attend(pipe, recorded_source=kept) as attn:
        attn.edit(edit)
        expected = generate()
    assert np.array_equal(expected, pixels(Path(path)))
    assert not same(path, plain)
    (recorded,) = request(path)["references"]
    assert (recorded["scale"], recorded["steps"]) == (2, [0, 0.75])
    assert recorded["prompt"] == "a cat, drawn in ink"
    assert len(recorded["picture"]["sha256"]) == 64
    assert "reference picture: look.png (" in text_of(Path(path))["parameters"]
    assert "reference" not in text_of(Path(plain))["parameters"]


def test_an_image_is_made_again_exactly_and_without_its_reference(draw: Cli, cli: Cli) -> None:
    path = out(draw(*ONE))
    again = cli("generate", "--from", path, "--out", "again.png")
    assert Path(out(again)).read_bytes() == Path(path).read_bytes()
    assert re.search(
        r"^reference picture +look\.png \([0-9a-f]{10}\)$", cli("show", path).out, re.M
    )
    free = out(cli("generate", "--from", path, "--reference", "none", "--out", "free.png"))
    assert same(free, out(draw()))
    other = out(cli("generate", "--from", path, "--reference", "start.png", "--out", "other.png"))
    assert not same(other, path)
    hint(5).save("look.png")
    changed = cli("generate", "--from", path, "--out", "changed.png")
    assert "Not the same here: made with reference picture look.png" in changed.err
    Path("look.png").unlink()
    gone = cli("generate", "--from", path, "--out", "gone.png")
    assert gone.code
    assert "was made with the reference picture 'look.png'" in gone.err
    assert "Or give another with --reference." in gone.err


def test_scale_0_and_no_reference_are_the_plain_image(draw: Cli) -> None:
    plain = out(draw("--out", "plain.png"))
    none = out(draw("--reference", "look.png:scale=0", "--out", "none.png"))
    assert np.array_equal(pixels(Path(plain)), pixels(Path(none)))


def test_settings_matter(draw: Cli) -> None:
    found = {
        pixels(Path(out(draw("--reference", value)))).tobytes()
        for value in (
            "look.png",
            "look.png:scale=3",
            "look.png:steps=0.5",
            "look.png:steps=0.5-1",
            "look.png:prompt=a blue dog",
            "start.png",
        )
    }
    assert len(found) == 6


def test_images_of_several_seeds_and_their_upscaling_record_once_each(
    draw: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    invert = RecordingPipeline.invert
    monkeypatch.setattr(
        RecordingPipeline, "invert", lambda *a, **k: [calls.append(k["height"]), invert(*a, **k)][1]
    )
    many = draw("--reference", "look.png", "--num", "3", "--upscale", "2:0.5")
    assert many.code == 0, many.err
    assert calls == [32, 64]
    alone = draw("--reference", "look.png", "--upscale", "2:0.5", "--seed", "9")
    assert same(out(alone), str(many.paths[-1]))
    free = draw("--upscale", "2:0.5", "--seed", "9")
    assert not same(out(free), out(alone))


def test_the_enlarged_image_reads_no_reference_where_its_window_has_ended(draw: Cli) -> None:
    window = ("--reference", "look.png:steps=0-0.6", "--upscale", "2:0.25")
    assert draw(*window).code == 0


def test_a_picture_of_another_size_is_cropped_and_that_is_said(draw: Cli) -> None:
    done = draw("--reference", "tall.png")
    said = "The reference tall.png: 48x64 pixels, cropped to the middle 48x48, reduced to 32x32"
    assert said in done.err
    Image.open("tall.png").crop((0, 8, 48, 56)).save("square.png")
    assert same(out(done), out(draw("--reference", "square.png")))
    large = draw("--reference", "look.png", "--size", "64x32")
    assert "enlarged" in large.err
    assert "edits of it" not in large.err


@pytest.mark.parametrize(
    "options",
    [
        ("--image", "start.png", "--strength", "0.6"),
        ("--image", "start.png", "--mask", "half.png"),
        ("--region", "cat:0,0,0.5,1"),
        ("--control", "net:start.png"),
        ("--lora", "weights.safetensors:2"),
        ("--cache", "deep:every=2"),
        ("--negative", "a dog", "--method", "pag"),
        ("--sampler", "heun"),
        ("--grammar", "plain", "--guidance", "1"),
    ],
)
def test_it_goes_with_everything_else_that_steers_an_image(
    draw: Cli, cli: Cli, model: Path, options: tuple[str, ...]
) -> None:
    half = Image.new("L", (32, 32))
    half.paste(255, (16, 0, 32, 32))
    half.save("half.png")
    unet = t2i.load(str(model)).unet
    if "--control" in options:
        tiny_controlnet(unet).save_pretrained("net")
    if "--lora" in options:
        layers = {f"unet.{key}": value for key, value in lora_of(unet, 1).items()}
        save_file(layers, "weights.safetensors")
    path, without, alone = out(draw(*options, *ONE)), out(draw(*options)), out(draw(*ONE))
    assert not same(path, without)
    assert not same(path, alone)
    again = cli("generate", "--from", path, "--out", "again.png")
    assert Path(out(again)).read_bytes() == Path(path).read_bytes()


def test_a_prompts_file_has_references(draw: Cli, cli: Cli, model: Path) -> None:
    lines = [
        {"prompt": PROMPT, "seed": 7, "name": "one", "reference": ONE[1]},
        {"prompt": PROMPT, "seed": 7, "name": "own"},
        {"prompt": PROMPT, "seed": 7, "name": "none", "reference": "none"},
    ]
    Path("many.jsonl").write_text("\n".join(map(json.dumps, lines)))
    fixed = ("--model", model, "--steps", "4", "--reference", "start.png", "--out", "many")
    bulk = cli("generate", "--prompts", "many.jsonl", *fixed)
    assert bulk.code == 0, bulk.err
    for name, options in (("one", ONE), ("own", ("--reference", "start.png")), ("none", ())):
        assert same(f"many/{name}.png", out(draw(*options)))
    assert request("many/one.png") == request(out(draw(*ONE)))
    continued = cli("generate", "--prompts", "many.jsonl", *fixed)
    assert "3 made before" in continued.err
    other = (*fixed[:5], "look.png", *fixed[6:])
    assert "--reference" in cli("generate", "--prompts", "many.jsonl", *other).err


def test_lines_without_reference_go_with_one_of_the_command(
    draw: Cli, cli: Cli, model: Path
) -> None:
    edit = {"prompt": PROMPT, "source": "a dog", "name": "edit"}
    fixed = ("--model", model, "--steps", "2", "--reference", "look.png", "--out", "many")
    Path("many.jsonl").write_text(json.dumps(edit))
    refused = cli("generate", "--prompts", "many.jsonl", *fixed)
    assert 'in a line of a prompts file with "reference": "none"' in refused.err
    Path("many.jsonl").write_text(json.dumps(edit | {"reference": "none"}))
    assert cli("generate", "--prompts", "many.jsonl", *fixed).code == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"reference": "gone.png"}, "No such reference picture: gone.png."),
        ({"reference": "look.png:scale=-1"}, "Got --reference with scale=-1.0"),
        ({"source": "a dog", "reference": "look.png"}, "a picture that is edited by its words"),
        (
            {"task": "inspect", "image": "start.png", "reference": "look.png"},
            "edited by its words",
        ),
        ({"source_folder": "x", "reference": "look.png"}, 'Got "reference" with "source_folder"'),
    ],
)
def test_lines_that_cannot_have_a_reference_are_named(
    draw: Cli, cli: Cli, model: Path, line: dict[str, Any], words: str
) -> None:
    Path("many.jsonl").write_text(json.dumps({"prompt": PROMPT} | line))
    refused = cli("generate", "--prompts", "many.jsonl", "--model", model)
    assert refused.code
    assert words in refused.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--reference", "gone.png"), "No such reference picture: gone.png."),
        (("--reference", "text.png"), "text.png"),
        (("--reference", "."), ". is not a regular file: expected the file of the reference"),
        (("--reference", "look.png:steps=0-0.1"), "no step of a run of 4 steps is among them"),
        (("--reference", "look.png", "--reference", "start.png"), "Got 2 reference pictures"),
        (("--reference", "look.png:prompt=(cat"), "cat"),
        (
            ("--reference", "look.png:prompt=a cat <lora:ink:0.8>"),
            "Got <lora:ink:0.8> in the prompt of --reference",
        ),
        (
            ("--reference", "look.png:prompt=a cat <hypernet:ink:0.8>"),
            "Got <hypernet:ink:0.8> in the prompt of --reference: hypernetworks are not read",
        ),
    ],
)
def test_what_cannot_be_a_reference_is_refused(
    draw: Cli, options: tuple[str, ...], words: str
) -> None:
    Path("text.png").write_text("no picture")
    refused = draw(*options)
    assert refused.code
    assert words in refused.err
    assert not Path("outputs").exists() or not list(Path("outputs").iterdir())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.png:sclae=2", "Did you mean 'scale'?"),
        ("a.png:scale=", "Each has a value"),
        ("a.png:scale=1,scale=2", "Got --reference with scale twice"),
        ("a.png:scale=much", "scale='much': expected a number"),
        ("a.png:scale=nan", "scale=nan: expected a number from 0"),
        ("a.png:scale=101", "scale=101.0: expected a number from 0 (no reference) to 100"),
        ("a.png:steps=0.6-0.2", "steps=0.6-0.2: expected shares of the run from 0 to 1"),
        ("a.png:steps=0-2", "steps=0-2: expected shares of the run from 0 to 1"),
        ("a.png:steps=early", "steps='early': expected shares of the run"),
        ("", "expected the path of a file"),
    ],
)
def test_a_mistyped_value_is_named(text: str, words: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(words)):
        parse_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "a.png:scale=1,steps=0-1",
        '"C:/a.png":scale=0.5,steps=0.2-0.6,prompt="a cat, red, and a (dog:1.2)"',
    ],
)
def test_a_value_is_read_as_it_is_written(text: str) -> None:
    assert parse_reference(text).option_value == text
    assert parse_reference(text.replace('"', "")) == parse_reference(text)
    assert parse_references(["none"]) == ()
    assert parse_references([text]) == (parse_reference(text),)
