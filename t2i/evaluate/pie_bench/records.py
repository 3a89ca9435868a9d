"""Records of the part "pie_bench", as records.jsonl stores them."""

from t2i.evaluate.editing.records import FrozenPydanticModel
from t2i.evaluate.pie_bench.metrics import Metric
from t2i.evaluate.real.records import InversionAndEditCostRecord


class PieBenchMethodRecord(InversionAndEditCostRecord):
    """Record of the picture that one editing method made of an edit of PIE-Bench: its metrics and
    its cost.
    """

    columns: dict[Metric, float | None]


class PieBenchRecord(FrozenPydanticModel):
    """Record of one edit of PIE-Bench, by every editing method and baseline: the metrics of each.

    controls : columns of the source itself, and of it encoded and decoded
    refused : label of a method -> why the model cannot be used with it
    """

    editing_type: str
    source: str
    target: str
    controls: dict[str, dict[Metric, float | None]]
    methods: dict[str, PieBenchMethodRecord]
    refused: dict[str, str]
    file: str
