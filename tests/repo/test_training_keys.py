"""docs/training.md and docs/data.md have every key of a run, and none that there is not."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from train.config.error_messages import find_pydantic_models_in_annotation
from train.config.run_config import RunConfig


@pytest.fixture(scope="module")
def told(repo: Path) -> set[str]:
    """What stands in backticks."""
    pages = [(repo / "docs" / name).read_text("utf-8") for name in ("training.md", "data.md")]
    return {text for page in pages for text in re.findall(r"`([^`\n]+)`", page)}


def keys_of(model: type[BaseModel], table: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        tables = find_pydantic_models_in_annotation(field.annotation)
        if not tables or table:
            yield table + name
        for inner in tables:
            yield from keys_of(inner, f"{table}{name}.")


def test_every_key_of_a_run_is_told(told: set[str]) -> None:
    keys = {*keys_of(RunConfig)}
    assert {"seed", "target.place_weight", "data.disturbed", "train.steps"} <= keys
    assert not keys - told


def test_no_key_is_told_that_there_is_not(told: set[str]) -> None:
    tables = "|".join(RunConfig.model_fields)
    dotted = {text for text in told if re.fullmatch(rf"({tables})(\.\w+)+", text)}
    assert len(dotted) > 50
    assert not dotted - {*keys_of(RunConfig)}
