"""Configuration of the part "real" of the suite."""

from pydantic import BaseModel, ConfigDict, Field, field_validator

from t2i.evaluate.editing.pairs import ChangeKind
from t2i.evaluate.real.baselines import BASELINES
from t2i.evaluate.real.edit_methods import EditMethodConfig


class PairSplitConfig(BaseModel):
    """Configuration of a split of picture pairs to edit, seen or held out: its seed, and how many
    pairs of each kind of change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(ge=0)
    swap: int = Field(0, ge=0)
    recolour: int = Field(0, ge=0)
    background: int = Field(0, ge=0)
    strengthen: int = Field(0, ge=0)

    def get_pair_count_of_change(self, kind: ChangeKind) -> int:
        """Return how many picture pairs of a kind of change a split of the evaluation has."""
        return int(getattr(self, kind, 0))


class RealConfig(BaseModel):
    """Configuration of the part "real": picture pairs of two splits, and the methods compared.

    The tables compare the others with the first method.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seen: PairSplitConfig
    held_out: PairSplitConfig
    """The target shows a combination that training never does."""
    weight: float = Field(3.0, gt=0)
    """Weight of a strengthened word in the attention maps."""
    prompt_weight: float = Field(1.5, gt=0)
    """The same in the prompt, for the methods without attention maps."""
    methods: tuple[EditMethodConfig, ...] = Field(min_length=1)

    @field_validator("methods")
    @classmethod
    def _check_labels(cls, methods: tuple[EditMethodConfig, ...]) -> tuple[EditMethodConfig, ...]:
        labels = [*BASELINES]
        for method in methods:
            if method.label in labels:
                raise ValueError(
                    f"Two rows are labelled {method.label!r}: give each method a label of its own"
                )
            labels.append(method.label)
        return methods
