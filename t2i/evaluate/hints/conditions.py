"""Conditions that the part "hints" compares: with which control a caption is drawn."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from t2i.controls.control import ControlMode
from t2i.evaluate.scene_splits import SceneSplitConfig
from t2i.scenes.hints import SceneHintKind

ConditionKind = Literal["composed", "none", "hint", "other", "regions"]
"""Composed scene itself; no hint; the scene's own hint; another scene's; boxes by attention."""
Share = Annotated[float, Field(ge=0, le=1)]
COMPOSED, NO_HINT, HINT, OTHER_HINT, REGIONS = (
    "composed scenes",
    "no hint",
    "hint",
    "another scene's hint",
    "Regions, no hint",
)
"""Labels of the conditions that are no variations of the hint."""


class HintsConfig(BaseModel):
    """Configuration of the evaluation of control hints: the scenes, the kind of hint, and the
    settings of the control to compare.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenes: SceneSplitConfig
    hint: SceneHintKind = "segments"
    """Kind of hint that the control was trained on."""
    scales: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = ()
    """Strengths beside 1."""
    modes: tuple[ControlMode, ...] = ()
    """Modes beside "balanced"; "guess" is left out for an adapter, which has none."""
    windows: tuple[tuple[Share, Share], ...] = ()
    """Parts of the run in which the control acts, beside the whole."""
    regions: bool = True
    """Draw the same scenes with the edit Regions, whose boxes bind the words without a control."""
    batch: int = Field(8, ge=1, le=64)
    """Pictures of a unit, drawn together."""


@dataclass(frozen=True, slots=True)
class HintCondition:
    """Condition that the evaluation of control hints compares: without a hint, with one, or with
    another scene's, and the strength, mode and step window of the control.
    """

    label: str
    kind: ConditionKind
    scale: float = 1.0
    mode: ControlMode = "balanced"
    steps: tuple[float, float] = (0.0, 1.0)

    @property
    def key(self) -> str:
        """Text of the condition's settings (kind, scale, mode, steps), which is part of the keys of
        its units of work.
        """
        first, end = self.steps
        return f"{self.kind},{self.scale:g},{self.mode},{first:g}-{end:g}"


def list_conditions(config: HintsConfig, *, is_adapter: bool) -> list[HintCondition]:
    """Return the conditions that the evaluation of control hints compares, in the order of the
    report.
    """
    conditions = [
        HintCondition(COMPOSED, "composed"),
        HintCondition(NO_HINT, "none"),
        HintCondition(HINT, "hint"),
    ]
    left_out = {"balanced", "guess"} if is_adapter else {"balanced"}
    conditions += [
        HintCondition(f"hint, scale {scale:g}", "hint", scale=scale)
        for scale in sorted({*config.scales} - {1.0})
    ]
    conditions += [
        HintCondition(f"hint, mode {mode}", "hint", mode=mode)
        for mode in dict.fromkeys(config.modes)
        if mode not in left_out
    ]
    conditions += [
        HintCondition(f"hint, steps {first:g} to {end:g}", "hint", steps=(first, end))
        for first, end in dict.fromkeys(config.windows)
        if (first, end) != (0.0, 1.0)
    ]
    conditions.append(HintCondition(OTHER_HINT, "other"))
    if config.regions:
        conditions.append(HintCondition(REGIONS, "regions"))
    return conditions
