"""Somebody who waits is told that the first step takes long, and how long all may take."""

import time
from types import SimpleNamespace

import pytest

from t2i.cli import time_estimate as first_step
from t2i.cli.time_estimate import RunTimeEstimateCallback, format_run_time
from tests.cli.command import Cli

PIPE = SimpleNamespace(num_timesteps=10)


def test_a_first_step_that_takes_long_is_said_before_it_ends(capsys, monkeypatch):
    monkeypatch.setattr(first_step, "SLOW_FIRST_STEP_SECONDS", 0.02)
    waiting = RunTimeEstimateCallback(shown=True)
    waiting.timer.interval = 0.02
    with waiting:
        waiting.timer.join()
    assert "The first step takes more than" in capsys.readouterr().err


def test_the_time_of_the_first_step_and_of_all_is_said_once(capsys, monkeypatch):
    with RunTimeEstimateCallback(shown=True) as told:
        monkeypatch.setattr(time, "monotonic", lambda: told.started + 30)
        assert told(PIPE, 0, None, {}) == {}
        told(PIPE, 1, None, {})
    said = capsys.readouterr().err
    assert said == (
        "The first of 10 steps took 30.0 s: all steps will take about 5 min, plus decoding.\n"
    )


def test_quick_steps_and_unwatched_ones_are_silent(capsys):
    with RunTimeEstimateCallback(shown=True) as told:
        told(PIPE, 0, None, {})
    with RunTimeEstimateCallback(shown=False) as told:
        told.started -= 100
        told(PIPE, 0, None, {})
    assert not told.timer.is_alive()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "said"), [(8.21, "8.2 s"), (200, "3 min"), (9000, "2.5 h")])
def test_durations_are_for_people(seconds, said):
    assert format_run_time(seconds) == said


def test_a_picture_that_asks_for_too_much_memory_is_one_line(
    cli: Cli, tmp_path, monkeypatch
) -> None:
    from t2i.denoiser import memory_checks as memory

    monkeypatch.setattr(memory, "read_free_bytes", lambda device: 10**6)
    result = cli("generate", "a cat", "--size", "1024", "--out", str(tmp_path / "x.png"))
    assert result.code == 8
    assert "A picture of 1024x1024 pixels: about" in result.err
    assert "--size" in result.err
    assert not (tmp_path / "x.png").exists()
