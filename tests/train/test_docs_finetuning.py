"""What docs/finetuning.md tells a reader to type works, one after the other, as it stands."""

import shlex
from pathlib import Path

import pytest

from docs.pages import blocks
from t2i.cli import main
from tests.evaluate.second_recogniser import save_second_recogniser
from tests.quick_embedded import save_quick_embedded
from tests.train.data.making import folder_of

SHORT = {
    "train": (
        "data.size=64",
        "train.steps=1",
        "train.batch_size=2",
        "train.device=cpu",
        "samples.every=0",
        "samples.steps=1",
        'samples.prompts=["a cup"]',
    ),
    "prior": ("prior.count=1", "prior.steps=1"),
}
"""Enough to see that the commands hold."""


def shortened(words: list[str]) -> list[str]:
    if words[:3] == ["data", "pairs", "embedded"]:
        return [*words[:2], "quick", *words[3:], "--num", "1"]
    if words[0] == "generate":
        return [*words, "--steps", "1"]
    if words[0] == "train" and "--init" not in words:
        keys = SHORT["train"] + (SHORT["prior"] if "dreambooth" in words[1] else ())
        return [*words, *(f"--set={key}" for key in keys)]
    return words


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_second_recogniser(tmp_path / "runs/second-recogniser/model")
    save_quick_embedded(tmp_path / "quick")
    folder_of(tmp_path / "my-pictures", "red", "green", "blue", captions=False)
    commands = [
        c for block in blocks("console", page="docs/finetuning.md") for c in block.commands()
    ]
    assert len(commands) > 10
    for command in commands:
        name, *words = shlex.split(command)
        assert name == "t2i"
        assert main(shortened(words)) == 0, command
