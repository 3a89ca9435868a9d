"""`t2i models`, `env`, `data` and `train`."""

import re
from pathlib import Path

from PIL import Image

from tests.cli.command import Cli, files


def test_models_lists_the_embedded_model(cli: Cli) -> None:
    assert re.search(r"^embedded\b", cli("models").out, re.MULTILINE)
    (embedded,) = cli("models", "--format", "json").json()["models"]
    assert embedded["name"] == "embedded"
    assert Path(embedded["path"]).is_dir()


def test_env_names_versions_and_device(cli: Cli) -> None:
    facts = cli("env", "--format", "json").json()
    assert facts["torch"]
    assert facts["device"]
    text = cli("env").out
    for name, value in facts.items():
        assert re.search(rf"^{name} +{re.escape(str(value))}$", text, re.MULTILINE)


def test_version_is_printed(cli: Cli) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", cli("--version").out)


def test_data_show_draws_a_sheet(cli: Cli) -> None:
    done = cli("data", "show", "scenes", "--num", "4", "--split", "held_out", "--seed", "3")
    assert done.paths == [Path("outputs/scenes-held-out-3.png")]
    plain = cli("data", "show", "scenes", "--num", "4", "--no-masks", "--out", "plain.png")
    assert plain.paths == [Path("plain.png")]
    wide, narrow = Image.open(done.paths[0]).width, Image.open(plain.paths[0]).width
    assert wide > narrow


def test_an_unknown_data_set_is_answered_with_the_nearest(cli: Cli) -> None:
    done = cli("data", "show", "scene")
    assert done.code == 2
    assert re.search(r"Unknown data set 'scene'\. Did you mean 'scenes'\?", done.err)


def test_train_shows_the_resolved_config(cli: Cli, repo: Path) -> None:
    config = repo / "configs" / "train" / "embedded.toml"
    given = ("--set", "train.steps=7", "--set", "seed=5", "--dry-run", "--format", "json")
    done = cli("train", config, *given)
    assert done.code == 0
    resolved = done.json()
    assert (resolved["train"]["steps"], resolved["seed"]) == (7, 5)
    assert files(Path()) == []


def test_a_format_without_a_dry_run_is_refused(cli: Cli, repo: Path) -> None:
    config = repo / "configs" / "train" / "embedded.toml"
    done = cli("train", config, "--format", "json")
    assert done.code == 2
    assert "--format json is for --dry-run" in done.json()["error"]["message"]


def test_a_mistyped_config_key_is_answered_with_the_nearest(cli: Cli, repo: Path) -> None:
    config = repo / "configs" / "train" / "embedded.toml"
    done = cli("train", config, "--set", "train.step=7", "--dry-run")
    assert done.code == 2
    assert re.search(r"Unknown key 'train\.step'\. Did you mean 'steps'\?", done.err)
    done = cli("train", "nowhere.toml")
    assert done.code == 2
    assert "nowhere.toml" in done.err
