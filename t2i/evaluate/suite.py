"""Suites of the evaluation: the configuration of each part, read from TOML."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from t2i.errors import ArgumentError, nearest_hint
from t2i.evaluate.editing.editing import EditingConfig, EditingPart
from t2i.evaluate.generation.generation import GenerationConfig, GenerationPart
from t2i.evaluate.inspection.inspection import InspectionConfig, InspectionPart
from t2i.evaluate.suite_part import EvaluationContext, SuitePart
from t2i.safe_reading import CONFIG, read_toml

ASSETS = Path(__file__).parent.parent / "assets" / "evaluate"
SUITES = {"scenes": ASSETS / "scenes.toml"}
QUICK_SUITES = {"scenes": ASSETS / "quick.toml"}


class SuiteConfig(BaseModel):
    """Configuration of an evaluation suite, a table for each part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generation: GenerationConfig
    inspection: InspectionConfig
    editing: EditingConfig


def read_suite(name: str, *, quick: bool) -> SuiteConfig:
    """Read the config of an evaluation suite: a named one, its quick preset, or a TOML file."""
    if name in SUITES:
        path = (QUICK_SUITES if quick else SUITES)[name]
    elif name.endswith(".toml"):
        path = Path(name)
        if quick:
            raise ArgumentError(
                f"Got --quick with {name}: it is a preset of the suites {', '.join(SUITES)}. Leave "
                "one of the two out."
            )
    else:
        raise ArgumentError(
            f"Unknown suite {name!r}. {nearest_hint(name, SUITES)} Or give a TOML laid out as "
            f"{SUITES['scenes']}."
        )
    tree = read_toml(path, CONFIG("suite"))
    try:
        # By way of JSON, as it alone has lists for tuples where no value may be of another kind:
        # neither `true` nor "8" is a number of pictures.
        return SuiteConfig.model_validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        raise ArgumentError(f"{path}: {describe_config_error(error)}") from error


def describe_config_error(error: ValidationError) -> str:
    """Describe the first error of a suite's config, and suggest a known key for an unknown one."""
    first = min(error.errors(), key=lambda complaint: complaint["type"] != "extra_forbidden")
    *tables, name = map(str, first["loc"])
    key = ".".join([*tables, name])
    if first["type"] == "extra_forbidden":
        fields: Any = SuiteConfig.model_fields
        for table in tables:
            known = fields.get(table)
            fields = getattr(getattr(known, "annotation", None), "model_fields", {})
        return f"Unknown key {key!r}. {nearest_hint(name, fields)}"
    if first["type"] == "missing":
        return f"The key {key!r} is missing; add it."
    return f"{key}: {str(first['msg']).removeprefix('Value error, ')} (given: {first['input']!r})"


def select_parts(names: Sequence[str]) -> tuple[str, ...]:
    """Return the named parts of the evaluation in the suite's order; all if none is named."""
    for name in names:
        if name not in PARTS:
            raise ArgumentError(f"Unknown part {name!r}. {nearest_hint(name, PARTS)}")
    return tuple(name for name in PARTS if name in names or not names)


def build_part(name: str, config: SuiteConfig, context: EvaluationContext) -> SuitePart:
    """Build the part of the evaluation of this name from the suite's configuration."""
    part: SuitePart = PARTS[name](getattr(config, name), context)
    return part


PARTS: dict[str, Any] = {
    "generation": GenerationPart,
    "inspection": InspectionPart,
    "editing": EditingPart,
}
"""Name, also of the table in the config -> class, made of that table and the context."""
