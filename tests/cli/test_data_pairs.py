"""`t2i data pairs`: pairs of a model's own pictures, right and wrong, the same after a stop."""

import json
from pathlib import Path

import pytest
from PIL import Image

from t2i.evaluate.generation.judge import build_caption_statement, judge_by_statement
from t2i.evaluate.preferences.pair_generation import (
    CaptionPreferenceRecord,
    PreferencePairGenerator,
)
from t2i.evaluate.promptable_objects import find_promptable_objects
from t2i.scenes.recogniser import Recogniser
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig
from tests.cli.command import Cli, Result
from tests.evaluate.second_recogniser import save_second_recogniser
from tests.evaluate.tiny_context import tiny_recogniser
from tests.quick_embedded import save_quick_embedded


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_second_recogniser(tmp_path_factory.mktemp("judge") / "second")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_quick_embedded(tmp_path_factory.mktemp("model") / "embedded")


@pytest.fixture
def draw(cli: Cli, recogniser: Path, embedded: Path) -> Cli:
    """Pairs of the embedded model, into the folder out."""

    def run(*arguments: str | Path) -> Result:
        options = ("--out", "out", "--recogniser", recogniser)
        return cli("data", "pairs", embedded, *options, *arguments)

    return run


def records(folder: str = "out") -> list[CaptionPreferenceRecord]:
    lines = Path(folder, "records.jsonl").read_text().splitlines()
    return [CaptionPreferenceRecord.model_validate(json.loads(line)["record"]) for line in lines]


def contents(folder: str = "out") -> dict[str, bytes]:
    """Everything that a run learns from."""
    kept = (".png", ".txt")
    files = [path for path in Path(folder).rglob("*") if path.suffix in kept]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return found | {"list": Path(folder, "pairs.jsonl").read_bytes()}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_stopped_command_goes_on_to_the_same_pairs(
    cli: Cli, draw: Cli, recogniser: Path, embedded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = draw("--num", "2")
    assert done.code == 0, done.err
    assert done.out == "out/pairs.jsonl\n"
    assert "pairs 2/2" in done.err
    whole, told = contents(), records()

    # what the index says is so
    judge = Recogniser.load(recogniser)
    known = find_promptable_objects(embedded, judge)
    scenes = SceneDataset(SceneDatasetConfig(seed=80001, vocabulary=known.objects, max_objects=2))
    rows = [json.loads(line) for line in Path("out/pairs.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert [one.scene for one in told] == [*range(len(told))]
    for one in told:
        layout = scenes.compose_layout(one.scene)  # of the split train: no held-out combination
        assert one.caption == layout.caption.text
        assert len({picture.seed for picture in one.pictures}) == len(one.pictures) == 4
        verdicts = {bool(picture.wrong) for picture in one.pictures}
        assert (one.win is not None) == (verdicts == {True, False})
        if one.win is None or one.lose is None:
            continue
        assert {"caption": one.caption, "win": one.win, "lose": one.lose} in rows
        for file, right in ((one.win, True), (one.lose, False)):
            (seen,) = judge.recognise([Image.open(Path("out", file))])
            judged = judge_by_statement(build_caption_statement(layout), seen)
            assert all(map(all, judged.values())) == right
    checked = cli("data", "check", "out/pairs.jsonl", "--num", "0")
    assert checked.code == 0, checked.err

    # stopped after the first caption, and begun again
    Path("out").rename("whole")
    generate_and_save_pair, drawn = PreferencePairGenerator.generate_and_save_pair, []

    def interrupted(
        drawer: PreferencePairGenerator, number: int, folder: Path
    ) -> CaptionPreferenceRecord:
        if drawn:
            raise KeyboardInterrupt
        drawn.append(number)
        return generate_and_save_pair(drawer, number, folder)

    with monkeypatch.context() as patched:
        patched.setattr(PreferencePairGenerator, "generate_and_save_pair", interrupted)
        stopped = draw("--num", "2")
    assert stopped.code == 130
    assert "Interrupted: finished pairs are kept. The same command continues." in stopped.err
    assert len(records()) == 1
    assert draw("--num", "2").code == 0
    assert (contents(), records()) == (whole, told)

    # a picture that was removed is drawn again, and nothing else
    Path("out", rows[0]["win"]).unlink()
    assert draw("--num", "2", "--format", "json").json()["pairs"] == 2
    assert contents() == whole
    assert len(records()) == len(told) + 1

    # a folder is that of one model, seed and judge
    other = draw("--num", "2", "--seed", "7")
    assert other.code == 2
    assert "out holds another set of pairs: seed 80001 -> 7. Repeat the orig" in other.err


def test_a_model_that_is_never_right_makes_no_pair(cli: Cli, model: Path, tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    tiny_recogniser().save(tmp_path / "judge", {})
    (model / "t2i.json").write_text(json.dumps({"defaults": {"steps": 1, "guidance_scale": 1.0}}))
    options = ("--out", "out", "--recogniser", tmp_path / "judge", "--per-caption", "2")
    done = cli("data", "pairs", model, "--num", "1", *options)
    assert done.code == 4, done.err
    assert "No pair among the pictures of 20 captions: none has both a right and a wr" in done.err
    assert all(picture.wrong for one in records() for picture in one.pictures)
    # it is remembered, and a broken record named
    Path("out/records.jsonl").write_text(
        Path("out/records.jsonl").read_text().replace('"scene": 3,', '"scene": null,')
    )
    again = cli("data", "pairs", model, "--num", "1", *options)
    assert again.code == 4
    assert "records.jsonl: the record of caption 3 has an unexpected format" in again.err


def test_the_judge_and_the_seeds_of_evaluations_are_refused(cli: Cli, draw: Cli) -> None:
    default = cli("data", "pairs", "embedded", "--out", "out")
    assert default.code == 3
    assert "No recogniser in runs/second-recogniser/model. Train a second one with" in default.err
    seeded = draw("--seed", "70001")
    assert seeded.code == 2
    assert "--seed 70001 is a seed of `t2i evaluate`" in seeded.err
