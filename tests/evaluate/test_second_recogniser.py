"""What judges pairs is not what judges models: neither its weights nor its pictures."""

import shutil
import tomllib
from pathlib import Path

import pytest
import torch

from t2i.cli.commands.data.data_pairs import DEFAULT_SEED
from t2i.errors import ArgumentError, ModelError
from t2i.evaluate.preferences.second_recogniser import load_pair_judge
from t2i.evaluate.recogniser_card import SEED as CARD_SEED
from t2i.evaluate.suite import list_seeds_of_all_suites
from t2i.scenes.recogniser import DEFAULT_FOLDER, Recogniser
from tests.evaluate.second_recogniser import save_second_recogniser

CONFIGS = Path(__file__).parents[2] / "configs/train"


def read(name: str) -> dict[str, dict[str, object]]:
    return tomllib.loads((CONFIGS / f"{name}.toml").read_text())


def test_its_seeds_are_those_of_no_other_run_and_of_no_suite() -> None:
    second = read("second-recogniser")
    seeds = {second["seed"], second["data"]["seed"]}
    others = {CARD_SEED, DEFAULT_SEED} | list_seeds_of_all_suites()
    for path in CONFIGS.glob("*.toml"):
        if path.stem != "second-recogniser":
            tree = read(path.stem)
            others |= {tree["seed"], tree["data"].get("seed")}
    assert len(seeds) == 2
    assert {5, 6, 500, 600, 70001, 44, 62} < others
    assert seeds.isdisjoint(others)


def test_it_is_the_first_one_but_for_its_seeds() -> None:
    first, second = read("recogniser"), read("second-recogniser")
    for tree in (first, second):
        del tree["seed"], tree["data"]["seed"]
    assert first == second


def test_the_seed_of_captions_is_no_suites() -> None:
    assert DEFAULT_SEED not in list_seeds_of_all_suites()


def test_another_recogniser_is_loaded(tmp_path: Path) -> None:
    found = load_pair_judge(save_second_recogniser(tmp_path / "second"))
    assert found.labels == Recogniser.load().labels


def test_the_judge_of_evaluations_is_refused_under_any_name(tmp_path: Path) -> None:
    copy = shutil.copytree(DEFAULT_FOLDER, tmp_path / "copy")
    for folder in (DEFAULT_FOLDER, copy):
        with pytest.raises(ArgumentError, match=r"is the recogniser that `t2i evaluate` judges wi"):
            load_pair_judge(folder)


def test_one_of_the_same_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    notes = {"trained": {"config": {"data": {"seed": 500}}}}
    Recogniser.load().save(tmp_path / "again", notes, torch.float32)
    with pytest.raises(ArgumentError, match=r"judges with \(data.seed = 500\), so it makes the sa"):
        load_pair_judge(tmp_path / "again")


def test_a_missing_one_is_trained_by_a_command(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"No recogniser in .*train configs/train/second-recogn"):
        load_pair_judge(tmp_path)
