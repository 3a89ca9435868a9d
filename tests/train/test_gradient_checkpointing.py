"""Gradient checkpointing: less memory, the same run, also where the first layers are frozen."""

from pathlib import Path

import pytest

from tests.train.finetunes import finetune_run
from tests.train.test_loop import end_of, largest_difference

WORDS_ALONE = ("words",)
TEXT_IN_FULL = ('[[target.parts]]\nmethod = "full"\nof = "text_encoder"\n',)
LAST_LAYER = ('[[target.parts]]\nmethod = "full"\nmodules = ["conv_out"]\n',)


@pytest.mark.parametrize(
    "parts", [("pivotal",), ("dora",), WORDS_ALONE, TEXT_IN_FULL, LAST_LAYER], ids="/".join
)
def test_a_fine_tune_is_the_same_with_it(tmp_path: Path, base: Path, parts: tuple[str]) -> None:
    steps = "train.steps=2"
    plain = end_of(finetune_run(tmp_path, base, parts, steps), tmp_path / "plain")
    saving = "target.gradient_checkpointing=true"
    saved = end_of(finetune_run(tmp_path, base, parts, steps, saving), tmp_path / "saving")
    assert largest_difference(plain, saved, "weights") < 1e-5
    for name, moment in plain.tensors["optimizer"].items():
        assert "exp_avg" not in name or moment.abs().max() > 0, name


@pytest.mark.slow
def test_sdxl_is_the_same_with_it(tmp_path: Path, base_xl: Path) -> None:
    parts, saving = ("pivotal",), "target.gradient_checkpointing=true"
    plain = end_of(finetune_run(tmp_path, base_xl, parts), tmp_path / "plain")
    saved = end_of(finetune_run(tmp_path, base_xl, parts, saving), tmp_path / "saving")
    assert largest_difference(plain, saved, "weights") < 1e-5
