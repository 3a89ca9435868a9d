"""Gradient checkpointing: less memory, the same run, also where the first layers are frozen."""

from pathlib import Path

import pytest

from tests.train.finetunes import finetune_run
from tests.train.runs import train_only
from tests.train.states import largest_difference

WORDS_ALONE = ("words",)
TEXT_IN_FULL = ('[[target.parts]]\nmethod = "full"\nof = "text_encoder"\n',)
LAST_LAYER = ('[[target.parts]]\nmethod = "full"\nmodules = ["conv_out"]\n',)


@pytest.mark.parametrize(
    "parts",
    [
        ("pivotal",),
        TEXT_IN_FULL,
        LAST_LAYER,
        # A part of what "pivotal" trains.
        pytest.param(WORDS_ALONE, marks=pytest.mark.long),
        # Its first trained layers are those of the LoRA in "pivotal".
        pytest.param(("dora",), marks=pytest.mark.long),
    ],
    ids="/".join,
)
def test_a_fine_tune_is_the_same_with_it(tmp_path: Path, base: Path, parts: tuple[str]) -> None:
    steps = "train.steps=2"
    plain = train_only(finetune_run(tmp_path, base, parts, steps), tmp_path / "plain")
    saving = "target.gradient_checkpointing=true"
    saved = train_only(finetune_run(tmp_path, base, parts, steps, saving), tmp_path / "saving")
    assert largest_difference(plain, saved, "weights") < 1e-5
    for name, moment in plain.tensors["optimizer"].items():
        assert "exp_avg" not in name or moment.abs().max() > 0, name


@pytest.mark.slow
def test_sdxl_is_the_same_with_it(tmp_path: Path, base_xl: Path) -> None:
    settings = (("pivotal",), "train.steps=2")
    saving = "target.gradient_checkpointing=true"
    plain = train_only(finetune_run(tmp_path, base_xl, *settings), tmp_path / "plain")
    saved = train_only(finetune_run(tmp_path, base_xl, *settings, saving), tmp_path / "saving")
    assert largest_difference(plain, saved, "weights") < 1e-5
