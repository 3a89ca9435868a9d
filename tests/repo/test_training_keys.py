"""docs/training.md has every key of a training run, and none that there is not."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from train.config import RunConfig


@pytest.fixture(scope="module")
def told(repo: Path) -> set[str]:
    """What stands in backticks."""
    return set(re.findall(r"`([^`\n]+)`", (repo / "docs" / "training.md").read_text("utf-8")))


def keys_of(model: type[BaseModel], table: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kinds: tuple[Any, ...] = get_args(field.annotation) or (field.annotation,)
        tables = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not tables:
            yield table + name
        for kind in tables:
            yield from keys_of(kind, f"{table}{name}.")


def test_every_key_of_a_run_is_told(told: set[str]) -> None:
    keys = {*keys_of(RunConfig)}
    assert {"seed", "target.place_weight", "data.disturbed", "train.steps"} <= keys
    assert not keys - told


def test_no_key_is_told_that_there_is_not(told: set[str]) -> None:
    tables = "|".join(RunConfig.model_fields)
    dotted = {text for text in told if re.fullmatch(rf"({tables})\.\w+", text)}
    assert len(dotted) > 50
    assert not dotted - {*keys_of(RunConfig)}
