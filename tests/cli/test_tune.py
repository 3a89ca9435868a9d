"""`t2i tune`: what it measures, writes and continues, on a tiny model that nothing judges."""

import json
import shutil
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel

import t2i
from t2i.attention.probes.presence import compute_attention_fingerprint
from t2i.cli.commands import tune
from t2i.denoiser.presets import Preset, parse_presets
from t2i.evaluate.suite_part import Record
from t2i.evaluate.tuning import choice
from t2i.evaluate.tuning.part import TuningPart
from tests.cli.command import Cli
from tests.cli.preset_model import DEFAULTS, write_notes, write_unet_lora

TUNE = ("--suite", "none", "--captions", "2", "--records", "records")


@pytest.fixture
def folder(built_model: Path, cli: Cli) -> Path:
    """A model with notes and a preset of its own, and a LoRA, in the folder of the command."""
    folder = Path(shutil.copytree(built_model, "tiny"))
    notes = {"defaults": DEFAULTS, "made": "here", "presets": {"mine": {"steps": 3}}}
    (folder / "t2i.json").write_text(json.dumps(notes))
    unet = UNet2DConditionModel.from_pretrained(str(folder), subfolder="unet")
    write_unet_lora(folder / "fast.safetensors", unet)
    return folder


@pytest.fixture
def _everything_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model draws noise, and two pictures say little of time."""
    monkeypatch.setattr(choice, "_is_surely_faster", lambda cost: True)
    limits = dict.fromkeys(choice.MAX_DISTANCE_BY_PRESET, 2.0)
    monkeypatch.setattr(choice, "MAX_DISTANCE_BY_PRESET", limits)


@pytest.mark.usefixtures("_everything_is_good")
def test_the_presets_are_written_beside_what_was_there_and_can_be_drawn_with(
    cli: Cli, folder: Path
) -> None:
    lora = ("--lora", f"{folder}/fast.safetensors:0.5")
    done = cli("tune", folder, *TUNE, *lora, "--format", "json")
    assert done.code == 0, done.err
    document = done.json()
    names = [row["name"] for row in document["costs"]]
    assert names[0] == "exact"
    assert {"2 steps", "cfg:stop=0.5", "deep:every=3", "LoRA, lcm, 4 steps"} <= {*names}
    exact = document["costs"][0]
    assert [exact["rows"], exact["time"]["value"], exact["distance"]["value"]] == [1, 1, 0]
    assert document["judged"] is False
    notes = json.loads((folder / "t2i.json").read_text())
    assert notes["defaults"] == DEFAULTS
    assert notes["made"] == "here"
    presets = parse_presets((folder / "t2i.json").read_text())
    assert presets.keys() == {"mine", "fast", "fastest"}
    assert presets["mine"] == Preset(steps=3)
    assert presets["fast"].weights == compute_attention_fingerprint(t2i.load(str(folder)))
    cost = presets["fast"].cost
    assert cost is not None
    assert cost.said is None
    assert cost.captions == 2
    drawn = cli("generate", "a cat", "--model", folder, "--fast")
    assert drawn.code == 0, drawn.err
    assert "Warning" not in drawn.err


@pytest.mark.usefixtures("_everything_is_good")
def test_a_stopped_measurement_goes_on_and_another_one_is_refused(cli: Cli, folder: Path) -> None:
    assert cli("tune", folder, *TUNE, "--output", "presets.json").code == 0
    records = Path("records/records.jsonl")
    lines = records.read_text().splitlines(keepends=True)
    assert len(lines) == 2
    records.write_text(lines[0])
    done = cli("tune", folder, *TUNE, "--output", "presets.json")
    assert done.code == 0, done.err
    assert records.read_text().splitlines(keepends=True)[0] == lines[0]
    assert len(records.read_text().splitlines()) == 2
    assert "distance of their pictures to those of the plain defaults alone" in done.err
    assert done.paths[-1] == Path("presets.json")
    assert "deep:every=3" in done.out
    Path("broken.json").write_text("[1]")
    broken = cli("tune", folder, *TUNE, "--output", "broken.json")
    assert broken.code == 3
    assert "Cannot use broken.json" in broken.err.replace("\n", " ")
    other = cli("tune", folder, *TUNE, "--captions", "3", "--output", "presets.json")
    assert other.code == 2
    assert "captions 2 -> 3" in other.err
    assert "choose another folder with --records" in other.err.replace("\n", " ")
    drawn = cli("generate", "a cat", "--model", folder, "--preset", "presets.json:fast")
    assert drawn.code == 0, drawn.err


def test_presets_that_are_no_longer_good_are_taken_away(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "_is_surely_faster", lambda cost: False)
    before = (folder / "t2i.json").read_text()
    done = cli("tune", folder, *TUNE)
    assert done.code == 0, done.err
    assert "No candidate is good enough for the preset fast" in done.err.replace("\n", " ")
    assert (folder / "t2i.json").read_text() == before
    assert "t2i.json" not in done.out
    write_notes(folder, {"fast": {"steps": 1}})
    again = ("--suite", "none", "--captions", "2", "--records", "again")
    assert cli("tune", folder, *again).code == 0
    notes = json.loads((folder / "t2i.json").read_text())
    assert notes == {"defaults": DEFAULTS}
    assert cli("tune", folder, *again, "--output", "none.json").code == 0
    assert not Path("none.json").exists()


def test_ctrl_c_keeps_what_is_measured(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = TuningPart.measure_unit

    def stop_at_the_second(part: TuningPart, unit: str) -> Record:
        if unit == "1":
            raise KeyboardInterrupt
        return measure(part, unit)

    monkeypatch.setattr(TuningPart, "measure_unit", stop_at_the_second)
    before = (folder / "t2i.json").read_text()
    done = cli("tune", folder, *TUNE)
    assert done.code == 130
    assert "Interrupted: 1 caption finished. The same command continues." in done.err
    assert (folder / "t2i.json").read_text() == before


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--lora", "nowhere.safetensors"), 2, "No such LoRA: nowhere.safetensors"),
        (("--lora", "ink.safetensors"), 2, "which is not below tiny"),
        (("--output", "presets.txt"), 2, "expected the name of a file, as presets.json"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused_at_once(
    cli: Cli, folder: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    shutil.copyfile(folder / "fast.safetensors", "ink.safetensors")
    done = cli("tune", folder, *TUNE, *options)
    assert done.code == code
    assert message in done.err.replace("\n", " ")
    assert not Path("records").exists()


def test_a_read_only_model_names_the_way_out(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "is_writable", lambda path: False)  # tests may run as root
    done = cli("tune", folder, *TUNE)
    assert done.code == 2
    assert "t2i tune tiny --output presets.json" in done.err.replace("\n", " ")
