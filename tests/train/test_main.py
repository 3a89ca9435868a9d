"""`python -m train`: the resolved config, and errors as one line and an exit code."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.apart import ended, ready, run_train_module, start_program
from tests.train.runs import write_run
from train.__main__ import main

REPO = Path(__file__).resolve().parents[2]


def test_a_dry_run_for_programs_is_the_resolved_config_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        [
            str(write_run(tmp_path)),
            "--set",
            "train.steps=3",
            "--out",
            str(tmp_path / "out"),
            "--dry-run",
            "--format=json",
        ]
    )
    shown = json.loads(capsys.readouterr().out)
    assert shown["train"]["steps"] == 3
    assert (shown["ema"]["decay"], shown["ema"]["warmup"]) == (0.9, False)
    assert not (tmp_path / "out").exists()


def test_an_error_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    ready()
    log = tmp_path / "said"
    assert ended(start_program(run_train_module, [str(tmp_path / "absent.toml")], log)) == 2
    assert re.fullmatch(r"ArgumentError: No such training config.*\n", log.read_text())


@pytest.mark.slow
def test_a_run_says_how_it_goes_and_libraries_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "train", str(write_run(tmp_path)), "--set", "train.steps=1"]
        + ["--set", "train.log_every=1", "--out", str(tmp_path / "out")],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    expected = ("step 1/1 ", str(tmp_path / "out" / "model"))
    assert [line for line in said if not line.startswith(expected)] == []
