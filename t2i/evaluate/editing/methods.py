"""The ways of editing that are held against one another, for a pair of prompts."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipelines.prompt_to_prompt.automatic_edits import WordEditOptions
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from t2i.attention import InjectQueriesKeys, LocalBlend, ShareKeysValues, WordWeights
from t2i.attention.edits.base.edit import Edit
from t2i.attention.site import check_step_window
from t2i.evaluate.editing.pairs import Pair
from t2i.text.prompt import Prompt

NONE = "no control"
EMPTY = (0.0, 0.0)


def in_order(window: tuple[float, float]) -> tuple[float, float]:
    check_step_window("a window", window)
    return window


Shares = Annotated[tuple[float, float], AfterValidator(in_order)]
"""Of the run, from and to."""


class EditSettings(BaseModel):
    """Windows, as shares of the run, and thresholds; what is left out is as published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cross_replace: Shares = (0.0, 0.8)
    self_replace: Shares = (0.0, 0.4)
    blend_threshold: float = Field(0.3, ge=0, le=1)
    share_keys_values: Shares = (0.08, 1.0)
    inject_queries_keys: Shares = (0.0, 0.5)
    weight: float = Field(3.0, gt=0)
    """Of a word that is told more strongly, in the maps."""
    prompt_weight: float = Field(1.5, gt=0)
    """The same in the prompt, for the methods that have no weights."""


Make = Callable[[PromptEditPipeline, Pair, EditSettings, int], Sequence[Edit]]
"""(pipeline, pair, settings, steps of the run) -> edits whose target is prompt 1."""


def nothing(*_: object) -> list[Edit]:
    return []


def words(editor: PromptEditPipeline, pair: Pair, settings: EditSettings, steps: int) -> list[Edit]:
    return chosen(editor, pair, settings, steps, self_replace=EMPTY)


def layout(
    editor: PromptEditPipeline, pair: Pair, settings: EditSettings, steps: int
) -> list[Edit]:
    return chosen(editor, pair, settings, steps, self_replace=settings.self_replace)


def blend(editor: PromptEditPipeline, pair: Pair, settings: EditSettings, steps: int) -> list[Edit]:
    only_there = LocalBlend(
        words=(pair.source_word, pair.target_word), threshold=settings.blend_threshold
    )
    return [*layout(editor, pair, settings, steps), only_there]


def chosen(
    editor: PromptEditPipeline, pair: Pair, settings: EditSettings, steps: int, **windows: Any
) -> list[Edit]:
    """What edits="auto" chooses: as many words are replaced, else the prompts are aligned."""
    weights = {} if pair.strong is None else {pair.strong: settings.weight}
    wishes = WordEditOptions(
        cross_replace=settings.cross_replace, weights=weights, blend=None, **windows
    )
    return editor.automatic_edits(pair.texts, wishes, steps)


def share(
    _editor: PromptEditPipeline, _pair: Pair, settings: EditSettings, _steps: int
) -> list[Edit]:
    return [ShareKeysValues(steps=settings.share_keys_values)]


def inject(
    _editor: PromptEditPipeline, _pair: Pair, settings: EditSettings, _steps: int
) -> list[Edit]:
    return [InjectQueriesKeys(steps=settings.inject_queries_keys)]


def weigh(
    _editor: PromptEditPipeline, pair: Pair, settings: EditSettings, _steps: int
) -> list[Edit]:
    assert pair.strong is not None
    return [WordWeights(target=1, weights={pair.strong: settings.weight})]


METHODS: dict[str, Make] = {
    NONE: nothing,
    "Replace / Refine": words,
    "+ SelfReplace": layout,
    "+ LocalBlend": blend,
    "ShareKeysValues": share,
    "InjectQueriesKeys": inject,
}
ONLY_STRONG: dict[str, Make] = {"WordWeights": weigh}
"""Of words that are told more strongly."""
READS_SOURCE = ("Replace / Refine", "+ SelfReplace", "+ LocalBlend", "WordWeights")
"""These make a word stronger in the maps; the others are told so in the prompt."""


def methods_of(pair: Pair) -> dict[str, Make]:
    return METHODS if pair.strong is None else METHODS | ONLY_STRONG


def target_of(pair: Pair, method: str, settings: EditSettings) -> str | Prompt:
    """The target's prompt; a stronger word is a weight in it where the method has none."""
    text = pair.texts[1]
    if pair.strong is None or method in READS_SOURCE:
        return text
    return Prompt(text.replace(pair.strong, f"({pair.strong}:{settings.prompt_weight:g})", 1))


def aimed_at(edits: Sequence[Edit], target: int) -> list[Any]:
    """The same edits of another prompt of the batch."""
    return [replace(edit, target=target) for edit in edits]  # type: ignore[call-arg]  # all have it
