"""`--control` of `t2i generate`, `edit` and `invert`, in prompts files, and in metadata."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import t2i
from t2i.attention.probes.heat_maps import load_map_tensors
from t2i.cli.request.control_files import ControlFilesAndSettings, parse_control, parse_controls
from t2i.cli.request.input_files import InputFile
from t2i.errors import ArgumentError
from tests.cli.command import PROMPT, Cli, Result, text_of
from tests.pipelines.controls.networks import hint, tiny_controlnet

ONE = ("--control", "net:edges.png:scale=0.8,steps=0-0.6")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A network as a folder and as a file, and the pictures that it reads."""
    folder = tmp_path_factory.mktemp("networks")
    unet = t2i.load(str(model)).unet
    net = tiny_controlnet(unet)
    net.save_pretrained(folder / "net")
    save_file(net.state_dict(), folder / "net.safetensors")
    tiny_controlnet(unet, block_out_channels=(16, 16)).save_pretrained(folder / "wrong")
    save_file({"weight": torch.zeros(1)}, folder / "other.safetensors")
    hint(1).save(folder / "edges.png")
    half = Image.new("L", (32, 32))
    half.paste(255, (16, 0, 32, 32))
    half.save(folder / "half.png")
    return folder


@pytest.fixture
def draw(generate: Cli, networks: Path) -> Cli:
    """Two steps on the tiny model from one seed, in a folder with the networks."""
    shutil.copytree(networks, ".", dirs_exist_ok=True)
    return lambda *arguments: generate("--seed", "7", *arguments)


def drawn(result: Result) -> Path:
    assert result.code == 0, result.err
    return result.paths[-1]


def pixels(path: Path) -> bytes:
    return Image.open(path).tobytes()


def test_a_folder_of_the_name_of_a_shipped_control_is_read_by_its_path(draw: Cli, cli: Cli) -> None:
    shutil.copytree("net", "segments")
    own = drawn(draw("--control", "./segments:edges.png", "--out", "own.png"))
    assert pixels(own) == pixels(drawn(draw("--control", "net:edges.png", "--out", "net.png")))
    again = drawn(cli("generate", "--from", "own.png", "--out", "again.png"))
    assert again.read_bytes() == own.read_bytes()
    shutil.rmtree("segments")
    measured = cli("evaluate", "embedded", "--suite", "hints", "--control", "./segments")
    assert (measured.code, "--control ./segments: there is no such" in measured.err) == (2, True)


def test_a_control_steers_the_picture_and_is_repeated_from_its_metadata(
    draw: Cli, cli: Cli
) -> None:
    plain, path = drawn(draw()), drawn(draw(*ONE))
    assert pixels(plain) != pixels(path)
    request = json.loads(text_of(path)["t2i"])["request"]
    (control,) = request["controls"]
    assert control["steps"] == [0, 0.6]
    assert len(control["model"]["sha256"]) == len(control["picture"]["sha256"]) == 64
    again = cli("generate", "--from", path, "--out", "again")
    assert drawn(again).read_bytes() == path.read_bytes()
    without = cli("generate", "--from", path, "--out", "without", "--control", "none")
    assert pixels(drawn(without)) == pixels(plain)
    told = cli("show", path).out
    assert re.search(r"^control network +net \([0-9a-f]{10}\)$", told, re.MULTILINE)
    assert re.search(r"^control picture +edges\.png \([0-9a-f]{10}\)$", told, re.MULTILINE)


def test_a_folder_and_a_single_file_are_one_network(draw: Cli) -> None:
    folder, file = (drawn(draw("--control", f"{name}:edges.png")) for name in NETWORKS)
    assert pixels(folder) == pixels(file)


NETWORKS = ("net", "net.safetensors")


def test_settings_and_several_controls_matter(draw: Cli) -> None:
    found = {
        pixels(drawn(draw(*(word for one in controls for word in ("--control", one)))))
        for controls in (
            ["net:edges.png"],
            ["net:edges.png:mode=prompt"],
            ["net:edges.png:mode=guess,scale=0.5"],
            ["net:edges.png:mask=half.png"],
            ["net:edges.png:blocks=mid"],
            ["net:edges.png:steps=0.5"],
            ["net:edges.png", "net:half.png:mask=half.png"],
        )
    }
    assert len(found) == 7


def test_a_control_goes_with_a_start_picture_and_with_edits(
    draw: Cli, cli: Cli, model: Path
) -> None:
    start = ("--image", "half.png", "--strength", "0.8", "--steps", "4")
    assert pixels(drawn(draw(*start, *ONE))) != pixels(drawn(draw(*start)))
    steps = ("--model", model, "--steps", "2", "--seed", "7")
    edited = cli("edit", PROMPT, "a blue apple", *steps, *ONE)
    assert edited.code == 0, edited.err
    sheet, source, target = edited.paths
    assert pixels(source) == pixels(drawn(draw(*ONE)))
    again = cli("generate", "--from", target, "--out", "again")
    assert drawn(again).read_bytes() == target.read_bytes()
    assert sheet.is_file()


def test_a_recorded_photo_keeps_its_controls(draw: Cli, cli: Cli, model: Path) -> None:
    hint(7).save("photo.png")
    photo = ("--image", "photo.png", "a cat", "a dog", "--invert", "edit-friendly")
    steps = ("--model", model, "--steps", "2", "--seed", "7")
    controlled = cli("edit", *photo, *steps, *ONE)
    free = cli("edit", *photo, *steps)
    assert pixels(drawn(controlled)) != pixels(drawn(free))
    invert = ("invert", "photo.png", "a cat", "--out", "kept", "--invert", "edit-friendly")
    assert cli(*invert, *steps, *ONE).code == 0
    again = cli("edit", "--source", "kept", "a dog", "--record", "dog")
    assert pixels(drawn(again) if again.paths[-1].is_file() else again.paths[-2]) == pixels(
        controlled.paths[-1]
    )
    upon = cli("edit", "--source", "dog", "a red dog")
    assert upon.code == 0, upon.err


def test_a_prompts_file_has_controls(draw: Cli, cli: Cli, model: Path) -> None:
    lines = [
        {"prompt": PROMPT, "seed": 7, "control": ONE[1]},
        {"prompt": PROMPT, "seed": 7, "control": [ONE[1], "net:half.png"]},
        {"prompt": PROMPT, "seed": 7},
    ]
    Path("many.jsonl").write_text("\n".join(map(json.dumps, lines)))
    bulk = cli("generate", "--prompts", "many.jsonl", "--model", model, "--steps", "2")
    assert bulk.code == 0, bulk.err
    made = sorted(Path("outputs/many").rglob("*.png"))
    assert len(made) == 3
    expected = {
        pixels(drawn(draw(*options))) for options in (ONE, (*ONE, "--control", "net:half.png"), ())
    }
    assert {pixels(path) for path in made} == expected


def test_a_changed_hint_is_said(draw: Cli, cli: Cli) -> None:
    path = drawn(draw(*ONE))
    hint(2).save("edges.png")
    again = cli("generate", "--from", path, "--out", "again")
    assert again.code == 0
    assert "made with control picture edges.png" in again.err


@pytest.mark.parametrize(
    ("control", "code", "message"),
    [
        ("nowhere:edges.png", 2, "No such control network: nowhere"),
        ("net:nowhere.png", 4, "No such control picture: nowhere.png"),
        ("net:edges.png:mask=nowhere.png", 4, "No such control mask"),
        ("wrong:edges.png", 2, "blocks of channels (16, 16)"),
        ("other.safetensors:edges.png", 3, "is no ControlNet"),
        ("net:other.safetensors", 4, "expected a PNG"),
        ("net", 2, "expected MODEL:PICTURE"),
        ("net:edges.png:scal=1", 2, "Did you mean 'scale'"),
        ("net:edges.png:scale=1,scale=2", 2, "scale twice"),
        ("net:edges.png:scale=", 2, "Each has a value"),
        ("net:edges.png:scale=many", 2, "expected a number"),
        ("net:edges.png:scale=nan", 2, "finite number"),
        ("net:edges.png:steps=0.7-0.2", 2, "the first below the second"),
        ("net:edges.png:steps=0-2", 2, "from 0 to 1"),
        ("net:edges.png:steps=half", 2, "expected shares of the run"),
        ("net:edges.png:mode=promt", 2, "Did you mean 'prompt'"),
        ("net:edges.png:blocks=down.9", 2, "names the block 'down.9'"),
        ("net:edges.png:blocks=mid+", 2, "an empty name in blocks"),
    ],
)
def test_what_cannot_be_used_is_said(draw: Cli, control: str, code: int, message: str) -> None:
    result = draw("--control", control)
    assert result.code == code, result.err
    assert message in result.err.replace("\n", " ")


def test_a_folder_of_another_class_or_with_other_weights_is_refused(draw: Cli) -> None:
    config = json.loads(Path("net/config.json").read_text())
    Path("net/config.json").write_text(json.dumps(config | {"_class_name": "MotionAdapter"}))
    result = draw(*ONE)
    assert (result.code, "describes a MotionAdapter" in result.err) == (3, True)
    Path("net/config.json").write_text(json.dumps(config | {"layers_per_block": 2}))
    result = draw(*ONE)
    assert (result.code, "do not fit its config.json" in result.err) == (3, True)


def test_a_single_file_for_another_unet_is_refused(draw: Cli, networks: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file("net.safetensors")
    tensors["mid_block.resnets.0.conv1.weight"] = torch.zeros(1)
    save_file(tensors, "bent.safetensors")
    result = draw("--control", "bent.safetensors:edges.png")
    assert (result.code, "does not fit this model's UNet" in result.err) == (3, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:b", {"scale": 1.0, "steps": (0.0, 1.0)}),
        (
            "a:b:scale=.5,steps=0.2-.8,mode=guess",
            {"scale": 0.5, "steps": (0.2, 0.8), "mode": "guess"},
        ),
        ("~/a b/net.safetensors:x.png:steps=.6", {"steps": (0.0, 0.6)}),
        (
            "a:b:mask=m.png,blocks=down.0+mid",
            {"mask": InputFile(path="m.png"), "blocks": ("down.0", "mid")},
        ),
    ],
)
def test_the_value_of_control_is_parsed(text: str, expected: dict[str, Any]) -> None:
    parsed = parse_control(text)
    assert isinstance(parsed, ControlFilesAndSettings)
    for name, value in expected.items():
        assert getattr(parsed, name) == value
    assert parse_control(parsed.option_value) == parsed


def test_none_is_no_control_and_there_is_a_limit() -> None:
    assert parse_controls(["none"]) == ()
    with pytest.raises(ArgumentError, match="Got 17 controls: at most 16"):
        parse_controls(["a:b"] * 17)


def test_inspect_shows_where_each_controlnet_looks(draw: Cli, cli: Cli, model: Path) -> None:
    options = ("--model", model, "--steps", "2", "--seed", "7", "--words", "red,cat")
    controls = (*ONE, "--control", "net:half.png:steps=0.5-1")
    found = cli("inspect", "a red cat", *options, *controls, "--format", "json", "--out", "w.png")
    assert found.code == 0, found.err
    report = found.json()
    assert [one["control"] for one in report["controls"]] == [0, 1]
    assert [set(one["words"]) for one in report["controls"]] == [{"red", "cat"}] * 2
    paths = [report["maps"], *(one["maps"] for one in report["controls"])]
    assert paths[1:] == ["w-control-0.safetensors", "w-control-1.safetensors"]
    maps = [load_map_tensors(path)["cat"] for path in paths]
    assert not any(torch.equal(maps[0], one) for one in maps[1:])
    assert not torch.equal(maps[1], maps[2])
    # three rows of a picture and two words
    assert cli("inspect", "a red cat", *options, "--out", "plain.png").code == 0
    width, height = Image.open("plain.png").size
    assert Image.open("w.png").width == width
    assert Image.open("w.png").height > 2.7 * height
    again = cli("inspect", "a red cat", *options, *ONE, "--out", "again.png")
    names = ["again.png", "again.safetensors", "again-control-0.safetensors"]
    assert [path.name for path in again.paths[-3:]] == names
    assert "in control 0" in again.out + again.err


def test_inspect_refuses_controls_of_a_photo(cli: Cli) -> None:
    done = cli("inspect", "a cat", "--image", "x.png", *ONE)
    assert (done.code, "Got --control for a photo" in done.err) == (2, True)
