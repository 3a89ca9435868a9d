"""`--preset` and `--fast`: a model's named settings, in metadata, prompts files and edits."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import t2i
from t2i.attention.probes.presence import compute_attention_fingerprint
from t2i.cli.request.digests import compute_model_digest
from t2i.denoiser.presets import insert_presets, parse_presets
from t2i.errors import ModelError
from tests.cli.command import Cli, Result, request, same, text_of
from tests.cli.preset_model import (
    DEFAULTS,
    PRESETS,
    copy_with_presets,
    write_notes,
    write_unet_lora,
)

PROMPT = "a red cat"
PLAIN = [["deep:every=2"], "cfg:stop=0.5"]


@pytest.fixture(scope="module")
def preset_model(built_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_with_presets(built_model, tmp_path_factory.mktemp("presets") / "tiny")


@pytest.fixture
def folder(preset_model: Path, cli: Cli) -> Path:
    """A copy in the folder of the command, to be written into."""
    return Path(shutil.copytree(preset_model, "tiny"))


@pytest.fixture
def draw(cli: Cli, preset_model: Path) -> Cli:
    def run(*arguments: str | Path) -> Result:
        done = cli("generate", *arguments, "--model", preset_model, "--seed", "7")
        assert done.code == 0, done.err
        return done

    return run


def settings(path: str) -> list[Any]:
    asked = request(path)
    return [asked[name] for name in ("num_inference_steps", "guidance_scale", "sampler")]


def test_a_preset_is_its_settings_typed_one_by_one(draw: Cli, preset_model: Path) -> None:
    draw(PROMPT, "--fast", "--out", "fast.png")
    lora = f"{preset_model}/quick/fast.safetensors:0.5"
    typed = ("--steps", "3", "--guidance", "1", "--sampler", "lcm", "--lora", lora)
    draw(PROMPT, *typed, "--out", "typed.png")
    draw(PROMPT, "--out", "plain.png")
    assert same("fast.png", "typed.png")
    assert not same("fast.png", "plain.png")
    assert settings("fast.png") == [3, 1.0, "lcm"]
    draw(PROMPT, "--preset", "cut", "--out", "cut.png")
    draw(PROMPT, "--method", "cfg:stop=0.5", "--cache", "deep:every=2", "--out", "by-hand.png")
    assert same("cut.png", "by-hand.png")
    assert settings("cut.png") == [4, 3.0, "ddim"]
    draw(PROMPT, "--preset", "exact", "--out", "exact.png")
    assert same("exact.png", "plain.png")


def test_the_metadata_have_the_preset_and_its_settings_and_no_folder_of_this_machine(
    draw: Cli, preset_model: Path
) -> None:
    draw(PROMPT, "--preset", "fast", "--out", "fast.png")
    recorded = request("fast.png")
    assert recorded["preset"]["name"] == "fast"
    (lora,) = recorded["loras"]
    assert lora["path"] == "quick/fast.safetensors"
    assert "Preset: fast" in text_of(Path("fast.png"))["parameters"]
    shown = json.dumps(recorded["loras"][0]["path"]) + recorded["preset"]["loras"][0]
    assert str(preset_model) not in shown


def test_a_picture_is_made_again_when_the_preset_has_changed(cli: Cli, folder: Path) -> None:
    cli("generate", PROMPT, "--model", folder, "--seed", "7", "--fast", "--out", "fast.png")
    changed = {"fast": {"steps": 2, "sampler": "euler"}, "fastest": PRESETS["fast"]}
    write_notes(folder, changed)
    done = cli("generate", "--from", "fast.png", "--out", "again.png")
    assert done.code == 0, done.err
    assert "Not the same here" not in done.err
    assert same("fast.png", "again.png")
    assert request("again.png") == request("fast.png")
    assert re.search(r"preset +fast", cli("show", "fast.png").out)
    other = cli("generate", "--from", "fast.png", "--preset", "fast", "--out", "other.png")
    assert other.code == 0, other.err
    assert settings("other.png") == [2, 3.0, "euler"]
    assert request("other.png")["loras"] == []
    cli("generate", "--from", "fast.png", "--preset", "exact", "--out", "exact.png")
    cli("generate", PROMPT, "--model", folder, "--seed", "7", "--out", "plain.png")
    assert same("exact.png", "plain.png")


def test_a_model_moved_elsewhere_brings_the_lora_of_its_preset(cli: Cli, folder: Path) -> None:
    cli("generate", PROMPT, "--model", folder, "--seed", "7", "--fast", "--out", "fast.png")
    folder.rename("moved")
    done = cli("generate", "--from", "fast.png", "--model", "moved", "--out", "again.png")
    assert done.code == 0, done.err
    assert same("fast.png", "again.png")


def test_what_is_named_wins_and_mixing_with_a_distilled_lora_is_said(draw: Cli) -> None:
    done = draw(PROMPT, "--fast", "--steps", "2", "--out", "two.png")
    assert settings("two.png") == [2, 1.0, "lcm"]
    assert "Warning" not in done.err
    done = draw(PROMPT, "--fast", "--guidance", "7", "--out", "seven.png")
    assert settings("seven.png") == [3, 7.0, "lcm"]
    message = done.err.replace("\n", " ")
    assert "distilled for guidance 1, in place of which the picture has guidance 7" in message
    done = draw(PROMPT, "--fast", "--sampler", "LCM", "--out", "capitals.png")
    assert "Warning" not in done.err
    done = draw("--from", "two.png", "--sampler", "k_lcm", "--out", "other-name.png")
    assert "Warning" not in done.err
    again = draw("--from", "two.png", "--guidance", "7", "--out", "again.png")
    assert "distilled for guidance 1" in again.err.replace("\n", " ")
    done = draw(PROMPT, "--preset", "cut", "--cache", "none", "--guidance", "2", "--out", "c.png")
    assert request("c.png")["cache"] == []
    assert request("c.png")["guidance_method"] == "cfg:stop=0.5"
    assert "Warning" not in done.err
    done = draw(PROMPT, "--fast", "--lora", "none", "--out", "without.png")
    assert "used without its LoRA fast.safetensors" in done.err.replace("\n", " ")


def test_another_lora_beside_a_preset_is_said(draw: Cli, preset_model: Path) -> None:
    shutil.copyfile(preset_model / "quick" / "fast.safetensors", "ink.safetensors")
    done = draw(PROMPT, "--fast", "--lora", "ink.safetensors:0.2", "--out", "both.png")
    assert "chosen without the LoRA ink.safetensors" in done.err.replace("\n", " ")
    paths = [lora["path"] for lora in request("both.png")["loras"]]
    assert paths == ["ink.safetensors", "quick/fast.safetensors"]


def test_a_preset_says_when_it_was_chosen_for_other_weights(cli: Cli, folder: Path) -> None:
    weights = compute_attention_fingerprint(t2i.load(str(folder)))
    run = ("generate", PROMPT, "--model", folder, "--seed", "7", "--fast")
    write_notes(folder, {"fast": {**PRESETS["fast"], "weights": weights}})
    assert "Warning" not in cli(*run, "--num", "2").err
    write_notes(folder, {"fast": {**PRESETS["fast"], "weights": "0" * 64}})
    done = cli(*run)
    assert done.code == 0
    assert "chosen for other weights of the model" in done.err.replace("\n", " ")
    assert f"t2i tune {folder}" in done.err.replace("\n", " ")


def test_lines_of_a_prompts_file_have_presets_of_their_own(cli: Cli, folder: Path) -> None:
    lines = [
        {"prompt": PROMPT, "name": "line", "seed": 7},
        {"prompt": PROMPT, "name": "own", "preset": "cut", "seed": 7},
        {"prompt": PROMPT, "name": "exact", "preset": "exact", "seed": 7},
        {"prompt": PROMPT, "name": "named", "steps": 2, "seed": 7},
    ]
    Path("p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = ("generate", "--prompts", "p.jsonl", "--model", folder, "--out", "all")
    done = cli(*run, "--fast")
    assert done.code == 0, done.err
    found = {name: settings(f"all/{name}.png") for name in ("line", "own", "exact", "named")}
    plain = list(DEFAULTS.values())
    assert found == {
        "line": [3, 1.0, "lcm"],
        "own": plain,
        "exact": plain,
        "named": [2, 1.0, "lcm"],
    }
    assert [request("all/own.png")[name] for name in ("cache", "guidance_method")] == PLAIN
    assert request("all/exact.png")["loras"] == []
    cli("generate", PROMPT, "--model", folder, "--seed", "7", "--fast", "--out", "fast.png")
    assert same("all/line.png", "fast.png")
    again = cli(*run, "--preset", "cut")
    assert again.code == 2
    assert "--preset fast -> cut" in again.err.replace("\n", " ")
    assert cli(*run, "--fast").code == 0
    Path("bad.jsonl").write_text(json.dumps({"prompt": PROMPT, "preset": "fats"}))
    bad = cli("generate", "--prompts", "bad.jsonl", "--model", folder, "--out", "bad")
    assert bad.code == 4
    assert "Did you mean 'fast'" in bad.err.replace("\n", " ")


def test_the_facts_of_a_model_name_its_presets(cli: Cli, folder: Path, model: Path) -> None:
    assert re.search(r"^presets +exact, fast, cut$", cli("models", folder).out, re.MULTILINE)
    assert cli("models", model, "--format", "json").json()["presets"] == ["exact"]


def test_edits_and_heat_maps_take_a_preset(cli: Cli, folder: Path) -> None:
    run = ("--model", folder, "--seed", "7", "--out")
    done = cli("edit", PROMPT, "a red dog", "--preset", "cut", *run, "e.png")
    assert done.code == 0, done.err
    cli("generate", PROMPT, "--preset", "cut", *run, "alone.png")
    assert same("e-source.png", "alone.png")
    done = cli("inspect", PROMPT, "--fast", *run, "i.png", "--format", "json")
    assert done.code == 0, done.err
    assert done.json()["request"]["preset"]["name"] == "fast"


def test_a_photo_is_inverted_without_a_preset(cli: Cli, folder: Path, photo: Path) -> None:
    run = ("edit", "--image", photo, PROMPT, "a red dog", "--model", folder, "--preset")
    done = cli(*run, "cut")
    assert done.code == 2
    assert "Got the preset cut for a photo that is inverted" in done.err.replace("\n", " ")


def test_presets_of_a_file_of_their_own(cli: Cli, folder: Path, built_model: Path) -> None:
    presets = {"fast": {"steps": 2, "loras": [{"path": "fast.safetensors"}]}}
    Path("own").mkdir()
    Path("own/tuned.json").write_text(json.dumps({"presets": presets}))
    shutil.copyfile(folder / "quick" / "fast.safetensors", "own/fast.safetensors")
    run = ("generate", PROMPT, "--model", built_model, "--seed", "7", "--out")
    done = cli(*run, "a.png", "--preset", "own/tuned.json:fast")
    assert done.code == 0, done.err
    assert request("a.png")["loras"][0]["path"] == "own/fast.safetensors"
    assert request("a.png")["preset"]["name"] == "fast"
    done = cli(*run, "b.png", "--preset", "own/other.json:fast")
    assert done.code == 3
    assert "No file of presets own/other.json" in done.err.replace("\n", " ")


def test_presets_that_are_not_there_are_refused(cli: Cli, folder: Path, model: Path) -> None:
    done = cli("generate", PROMPT, "--model", model, "--fast")
    assert done.code == 3
    message = done.err.replace("\n", " ")
    assert "has no preset 'fast', nor any but exact" in message
    assert f"t2i tune {model}" in message
    assert cli("generate", PROMPT, "--model", model, "--preset", "exact", "--steps", "2").code == 0
    done = cli("generate", PROMPT, "--model", folder, "--preset", "fastest")
    assert done.code == 2
    assert "Did you mean 'fast'" in done.err.replace("\n", " ")
    done = cli("generate", PROMPT, "--fast", "--preset", "cut")
    assert done.code == 2
    assert "Got --fast and --preset cut" in done.err
    (folder / "quick" / "fast.safetensors").unlink()
    done = cli("generate", PROMPT, "--model", folder, "--fast")
    assert done.code == 2
    assert f"No such LoRA: {folder}/quick/fast.safetensors" in done.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("presets", "message"),
    [
        ({"fast": {"step": 3}}, r"presets\.fast\.step: Extra inputs"),
        ({"fast": {"steps": 0}}, r"presets\.fast\.steps: .*greater than or equal to 1"),
        ({"fast": {"sampler": "lmc"}}, r"presets\.fast\.sampler: unknown sampler 'lmc'"),
        ({"fast": {"loras": [{"path": "../x.safetensors"}]}}, r"a path below the model's folder"),
        ({"fast": {"loras": [{"path": "/x.safetensors"}]}}, r"a path below the model's folder"),
        ({"fast": {"loras": [{"path": "x.pt"}]}}, r"expected a \.safetensors file"),
        ({"exact": {}}, r"'exact' is always the model's defaults"),
        ({"Fast one": {}}, r"a name of small letters"),
    ],
    ids=str,
)
def test_presets_that_cannot_be_read_are_named(presets: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse_presets(json.dumps({"presets": presets}))


def test_a_preset_with_an_unknown_cache_or_guidance_is_named(cli: Cli, folder: Path) -> None:
    bad = {"fast": {"cache": ["dep"]}, "fastest": {"guidance_method": "cgf"}}
    write_notes(folder, bad)
    for name, message in (("fast", "Unknown cache 'dep'"), ("fastest", "Unknown guidance 'cgf'")):
        done = cli("generate", PROMPT, "--model", folder, "--preset", name)
        assert done.code == 3
        assert f"presets.{name}: {message}" in done.err.replace("\n", " ")


def test_presets_and_their_loras_do_not_change_the_digest_of_a_model(
    built_model: Path, tmp_path: Path
) -> None:
    written = json.dumps({"defaults": DEFAULTS, "made": "here"})
    for number, text in enumerate(
        (json.dumps(json.loads(written), indent=1) + "\n", written, None)
    ):
        folder = Path(shutil.copytree(built_model, tmp_path / f"{number}"))
        if text is not None:
            (folder / "t2i.json").write_text(text)
        before = compute_model_digest(folder)
        found = parse_presets(json.dumps({"presets": PRESETS}))
        (folder / "t2i.json").write_text(insert_presets(text, found))
        write_unet_lora(folder / "quick" / "fast.safetensors", t2i.load(str(folder)).unet)
        assert compute_model_digest(folder) == before
        write_notes(folder, PRESETS, made="elsewhere")
        assert compute_model_digest(folder) != before
