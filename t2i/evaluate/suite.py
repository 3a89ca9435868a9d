"""Suites of the evaluation: the configuration of each part, read from TOML."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from t2i.errors import ArgumentError, suggest_choice
from t2i.evaluate.editing.part import EditingConfig, EditingPart
from t2i.evaluate.generation.part import GenerationConfig, GenerationPart
from t2i.evaluate.hints.conditions import HintsConfig
from t2i.evaluate.hints.part import HintsPart
from t2i.evaluate.inspection.part import InspectionConfig, InspectionPart
from t2i.evaluate.pie_bench.config import PieBenchConfig
from t2i.evaluate.pie_bench.mapping import MAPPING_FILE
from t2i.evaluate.pie_bench.part import PieBenchPart
from t2i.evaluate.real.config import RealConfig
from t2i.evaluate.real.part import RealPart
from t2i.evaluate.segmentation.part import SegmentationConfig, SegmentationPart
from t2i.evaluate.suite_part import EvaluationContext, SuitePart
from t2i.safe_reading import CONFIG_KIND, read_toml

SUITES_FOLDER = Path(__file__).parent.parent / "assets" / "evaluate"
SUITES = {name: SUITES_FOLDER / f"{name}.toml" for name in ("scenes", "real", "hints")}
QUICK_SUITES = {
    "scenes": SUITES_FOLDER / "quick.toml",
    "real": SUITES_FOLDER / "quick-real.toml",
    "hints": SUITES_FOLDER / "quick-hints.toml",
}


class SuiteConfig(BaseModel):
    """Configuration of an evaluation suite: a table for each of its parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generation: GenerationConfig | None = None
    inspection: InspectionConfig | None = None
    editing: EditingConfig | None = None
    real: RealConfig | None = None
    pie_bench: PieBenchConfig | None = None
    hints: HintsConfig | None = None
    segmentation: SegmentationConfig | None = None

    @model_validator(mode="after")
    def _check_not_empty(self) -> Self:
        if not self.part_names:
            raise ValueError(f"A suite needs one of the tables {', '.join(PART_CLASSES)}")
        return self

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the parts that the suite measures, in the order of PART_CLASSES."""
        return tuple(name for name in PART_CLASSES if getattr(self, name) is not None)

    def to_json(self) -> dict[str, Any]:
        """Return the tables of the suite's parts as JSON data."""
        return {name: getattr(self, name).model_dump(mode="json") for name in self.part_names}


def read_suite_config(name: str, *, quick: bool) -> SuiteConfig:
    """Read the config of an evaluation suite: a named one, its quick preset, or a TOML file.

    Raises ArgumentError for an unknown name and for an invalid config.
    """
    if name in SUITES:
        path = (QUICK_SUITES if quick else SUITES)[name]
    elif name.endswith(".toml"):
        path = Path(name)
        if quick:
            raise ArgumentError(
                f"Got --quick with {name}: it is a preset of the suites {', '.join(SUITES)}. Leave "
                "one of the two out."
            )
    elif (Path(name) / MAPPING_FILE).is_file():
        raise ArgumentError(
            f"{name} is PIE-Bench: name it in a TOML together with the weights of its judges and "
            f'the methods to compare, [pie_bench] folder = "{name}", and give that as the suite; '
            "docs/benchmark.md has an example."
        )
    else:
        raise ArgumentError(
            f"Unknown suite {name!r}. {suggest_choice(name, SUITES)} Or give a TOML laid out as "
            f"{SUITES['scenes']}."
        )
    tree = read_toml(path, CONFIG_KIND.copy_with_noun("suite"))
    try:
        # By way of JSON, as it alone has lists for tuples where no value may be of another kind:
        # neither `true` nor "8" is a number of pictures.
        return SuiteConfig.model_validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        raise ArgumentError(f"{path}: {describe_config_error(error)}") from error


def list_seeds_of_all_suites() -> frozenset[int]:
    """Return the seeds of all scenes that the named suites and their quick presets measure on."""
    seeds = set()
    tables: list[object] = [
        read_toml(path, CONFIG_KIND.copy_with_noun("suite"))
        for path in (*SUITES.values(), *QUICK_SUITES.values())
    ]
    while tables:
        table = tables.pop()
        if isinstance(table, dict):
            tables += table.values()
            if isinstance(seed := table.get("seed"), int):
                seeds.add(seed)
    return frozenset(seeds)


def describe_config_error(error: ValidationError) -> str:
    """Describe the first error of a suite's config, and suggest a known key for an unknown one."""
    first = min(error.errors(), key=lambda complaint: complaint["type"] != "extra_forbidden")
    *tables, name = map(str, first["loc"]) if first["loc"] else [""]
    key = ".".join([*tables, name])
    if first["type"] == "extra_forbidden":
        model: Any = SuiteConfig
        for table in tables:
            # The entries of a list of tables are numbered; their model is that of the list.
            model = model if table.isdecimal() else find_config_model_of_table(model, table)
        return f"Unknown key {key!r}. {suggest_choice(name, model.model_fields)}"
    if first["type"] == "missing":
        return f"The key {key!r} is missing; add it."
    text = str(first["msg"]).removeprefix("Value error, ")
    return f"{key}: {text} (given: {first['input']!r:.200})" if key else f"{text}."


def find_config_model_of_table(model: Any, table: str) -> Any:
    """Return the pydantic model class for a table (by field name) of a config model class, even if
    it is optional or in a list.
    """
    kind = model.model_fields[table].annotation
    while not hasattr(kind, "model_fields"):
        kind = get_args(kind)[0]
    return kind


def select_part_names(names: Sequence[str], config: SuiteConfig) -> tuple[str, ...]:
    """Return the named parts of a suite in its order; all of them if none is named.

    Raises ArgumentError for a part that does not exist or that the suite does not have.
    """
    for name in names:
        if name not in PART_CLASSES:
            raise ArgumentError(f"Unknown part {name!r}. {suggest_choice(name, PART_CLASSES)}")
        if name not in config.part_names:
            raise ArgumentError(
                f"This suite has no part {name!r}; its parts: {', '.join(config.part_names)}."
            )
    return tuple(name for name in config.part_names if name in names or not names)


def build_part(name: str, config: SuiteConfig, context: EvaluationContext) -> SuitePart:
    """Build the part of the evaluation of this name from the suite's configuration."""
    part: SuitePart = PART_CLASSES[name](getattr(config, name), context)
    return part


PART_CLASSES: dict[str, Any] = {
    "generation": GenerationPart,
    "inspection": InspectionPart,
    "editing": EditingPart,
    "real": RealPart,
    "pie_bench": PieBenchPart,
    "hints": HintsPart,
    "segmentation": SegmentationPart,
}
"""Name of a part, and of its table in the config -> class, made of that table and the context."""
