"""Reader of an earlier evaluation.json, possibly written by an older suite."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ValidationError

from t2i.errors import ArgumentError
from t2i.evaluate.report.chapter import Estimate
from t2i.evaluate.report.sample_values import parse_sample_values
from t2i.safe_reading import RUN_FILE_KIND, parse_json, read_bounded
from t2i.validation_errors import describe_first_validation_error

RENAMED_HEADS = {"the cheapest not surely worse": "the cheapest not significantly worse"}
"""Column head in an older evaluation.json -> the same column's head now."""


def _decode(text: object) -> object:
    return parse_sample_values(text) if isinstance(text, str) else text


class EarlierEstimate(BaseModel):
    """Measured number in an earlier evaluation.json, perhaps without interval or samples."""

    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None
    samples: Annotated[list[float | None] | None, BeforeValidator(_decode)] = None

    @property
    def estimate(self) -> Estimate:
        """Measured number of the earlier evaluation as an `Estimate`, with which a present one is
        compared.
        """
        return Estimate(self.value, self.low, self.high, self.count, self.samples)


class EarlierRow(BaseModel):
    """Row of a table in an earlier evaluation.json, its cells by column head."""

    label: str
    cells: dict[str, EarlierEstimate | str | None]


class EarlierTable(BaseModel):
    """Table in an earlier evaluation.json."""

    title: str
    heads: list[str]
    rows: list[EarlierRow]

    def with_current_column_heads(self) -> "EarlierTable":
        """Return a copy of the table of an earlier evaluation in which column heads that have since
        been renamed have their current names.
        """
        rows = [
            EarlierRow(label=row.label, cells=_rename_column_heads(row.cells)) for row in self.rows
        ]
        heads = [RENAMED_HEADS.get(head, head) for head in self.heads]
        return EarlierTable(title=self.title, heads=heads, rows=rows)


class EarlierModelName(BaseModel):
    """Name of the evaluated model in an earlier evaluation.json."""

    name: str


class EarlierResultDate(BaseModel):
    """Date on which an earlier evaluation.json was measured, from its facts on the machine."""

    date: str


class EarlierResult(BaseModel):
    """Part of an earlier evaluation.json that a comparison with it reads.

    scenes : chapter -> digest of its captions and prompts
    chapters : parsed one by one, by `parse_tables_of_chapter`
    """

    version: int
    recogniser: str
    model: EarlierModelName
    machine: EarlierResultDate
    scenes: dict[str, str] = {}
    chapters: dict[str, Any]

    def parse_tables_of_chapter(self, chapter: str) -> dict[str, EarlierTable] | None:
        """Return a chapter's tables by name, or None if it is missing or cannot be parsed."""
        try:
            return {
                name: EarlierTable.model_validate(block).with_current_column_heads()
                for name, block in self.chapters[chapter]["blocks"].items()
                if block["kind"] == "table"
            }
        except (ValidationError, TypeError, KeyError, AttributeError):
            return None


def _rename_column_heads(
    cells: Mapping[str, EarlierEstimate | str | None],
) -> dict[str, EarlierEstimate | str | None]:
    return {RENAMED_HEADS.get(head, head): cell for head, cell in cells.items()}


def read_earlier_result(path: Path, facts: Mapping[str, Any], version: int) -> EarlierResult:
    """Read an earlier evaluation.json, to compare the present result with it.

    facts : head of the present result
    Raises ArgumentError for a file that cannot be compared with it.
    """
    remedy = "Give the evaluation.json of another result."
    try:
        earlier = EarlierResult.model_validate(
            parse_json(read_bounded(path, RUN_FILE_KIND.max_bytes), lenient=True)
        )
    except OSError as error:
        raise ArgumentError(f"Cannot read {path}: {error.strerror or error}. {remedy}") from error
    except ValidationError as error:
        reason = describe_first_validation_error(error)
        raise ArgumentError(f"{path} is no evaluation.json: {reason}. {remedy}") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise ArgumentError(f"{path} is no JSON. {remedy}") from error
    if earlier.version != version:
        raise ArgumentError(
            f"{path} is laid out as version {earlier.version}, expected {version}: evaluate that "
            "model again with this t2i."
        )
    if earlier.recogniser != facts["recogniser"]:
        raise ArgumentError(
            f"{path} was judged by another recogniser ({earlier.recogniser[:10]}, here "
            f"{facts['recogniser'][:10]}): its figures mean something else. Evaluate that model "
            "again with this one."
        )
    return earlier
