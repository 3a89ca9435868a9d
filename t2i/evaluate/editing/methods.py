"""Editing methods that are compared, as functions from a prompt pair to edits."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipelines.prompt_to_prompt.automatic_edits import WordEditOptions
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from t2i.attention import InjectQueriesKeys, LocalBlend, ShareKeysValues, WeightWords
from t2i.attention.edits.base.edit import Edit
from t2i.attention.site import check_step_window
from t2i.evaluate.editing.pairs import PromptPair
from t2i.text.prompt import Prompt

NO_EDIT = "no control"
EMPTY_WINDOW = (0.0, 0.0)


def _check_order(window: tuple[float, float]) -> tuple[float, float]:
    check_step_window("a window", window)
    return window


StepWindow = Annotated[tuple[float, float], AfterValidator(_check_order)]
"""Start and end of a window of steps, as fractions of the run."""


class EditSettings(BaseModel):
    """Windows of steps, thresholds and weights of the editing methods that are compared.

    Windows are fractions of the run; the defaults are the published values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cross_replace: StepWindow = (0.0, 0.8)
    self_replace: StepWindow = (0.0, 0.4)
    blend_threshold: float = Field(0.3, ge=0, le=1)
    share_keys_values: StepWindow = (0.08, 1.0)
    inject_queries_keys: StepWindow = (0.0, 0.5)
    weight: float = Field(3.0, gt=0)
    """Weight of a strengthened word in the attention maps."""
    prompt_weight: float = Field(1.5, gt=0)
    """The same in the prompt, for the methods that have no weights."""


EditFactory = Callable[[PromptEditPipeline, PromptPair, EditSettings, int], Sequence[Edit]]
"""(pipeline, pair, settings, steps of the run) -> edits whose target is prompt 1."""


def build_no_edits(*_: object) -> list[Edit]:
    """Return no edits: the target shares only its initial noise with the source."""
    return []


def build_cross_attention_edits(
    editor: PromptEditPipeline, pair: PromptPair, settings: EditSettings, steps: int
) -> list[Edit]:
    """Build the prompt-to-prompt edits that act on cross-attention: Replace or Refine."""
    return build_automatic_edits(editor, pair, settings, steps, self_replace=EMPTY_WINDOW)


def build_cross_attention_and_self_replace_edits(
    editor: PromptEditPipeline, pair: PromptPair, settings: EditSettings, steps: int
) -> list[Edit]:
    """Build the cross-attention edits of a prompt pair and SelfReplace."""
    return build_automatic_edits(editor, pair, settings, steps, self_replace=settings.self_replace)


def build_cross_attention_self_replace_and_blend_edits(
    editor: PromptEditPipeline, pair: PromptPair, settings: EditSettings, steps: int
) -> list[Edit]:
    """Build the cross-attention edits of a prompt pair, SelfReplace, and LocalBlend."""
    only_there = LocalBlend(
        words=(pair.source_word, pair.target_word), threshold=settings.blend_threshold
    )
    return [
        *build_cross_attention_and_self_replace_edits(editor, pair, settings, steps),
        only_there,
    ]


def build_automatic_edits(
    editor: PromptEditPipeline, pair: PromptPair, settings: EditSettings, steps: int, **windows: Any
) -> list[Edit]:
    """Return the attention edits that the prompt editor itself chooses with edits="auto" for a
    prompt pair, such as Replace for prompts of equally many words, else Refine.
    """
    weights = {} if pair.strengthened_word is None else {pair.strengthened_word: settings.weight}
    options = WordEditOptions(
        cross_replace=settings.cross_replace, weights=weights, blend=None, **windows
    )
    return editor.choose_automatic_edits(pair.captions, options, steps)


def build_share_keys_values_edits(
    _editor: PromptEditPipeline, _pair: PromptPair, settings: EditSettings, _steps: int
) -> list[Edit]:
    """Return a list with the attention edit ShareKeysValues, whose window of denoising steps is
    taken from the edit settings.
    """
    return [ShareKeysValues(steps=settings.share_keys_values)]


def build_inject_queries_keys_edits(
    _editor: PromptEditPipeline, _pair: PromptPair, settings: EditSettings, _steps: int
) -> list[Edit]:
    """Return a list with the attention edit InjectQueriesKeys, whose window of denoising steps is
    taken from the edit settings.
    """
    return [InjectQueriesKeys(steps=settings.inject_queries_keys)]


def build_word_weights_edits(
    _editor: PromptEditPipeline, pair: PromptPair, settings: EditSettings, _steps: int
) -> list[Edit]:
    """Return a list with the attention edit WeightWords, which strengthens the strengthened word of
    a prompt pair's target.
    """
    assert pair.strengthened_word is not None
    return [WeightWords(target=1, weights={pair.strengthened_word: settings.weight})]


METHODS: dict[str, EditFactory] = {
    NO_EDIT: build_no_edits,
    "Replace / Refine": build_cross_attention_edits,
    "+ SelfReplace": build_cross_attention_and_self_replace_edits,
    "+ LocalBlend": build_cross_attention_self_replace_and_blend_edits,
    "ShareKeysValues": build_share_keys_values_edits,
    "InjectQueriesKeys": build_inject_queries_keys_edits,
}
STRENGTHENING_METHODS: dict[str, EditFactory] = {"WordWeights": build_word_weights_edits}
"""Editing methods that apply only to pairs with a strengthened word, by name."""
METHODS_WITH_MAP_WEIGHTS = ("Replace / Refine", "+ SelfReplace", "+ LocalBlend", "WordWeights")
"""Methods that weight a strengthened word in the maps; the others weight it in the prompt."""


def list_applicable_methods(pair: PromptPair) -> dict[str, EditFactory]:
    """Return the editing methods that apply to a prompt pair, by name."""
    return METHODS if pair.strengthened_word is None else METHODS | STRENGTHENING_METHODS


def build_target_prompt(pair: PromptPair, method: str, settings: EditSettings) -> str | Prompt:
    """Return the target prompt of a prompt pair for an editing method: its text, or, if the method
    cannot weight the strengthened word in attention maps, a Prompt in which that word has a
    weight.
    """
    text = pair.captions[1]
    if pair.strengthened_word is None or method in METHODS_WITH_MAP_WEIGHTS:
        return text
    return Prompt(
        text.replace(
            pair.strengthened_word, f"({pair.strengthened_word}:{settings.prompt_weight:g})", 1
        )
    )


def copy_edits_with_target_index(edits: Sequence[Edit], target: int) -> list[Any]:
    """Return copies of attention edits that act on the prompt with this index in the batch (0 is
    the source prompt): each copy's field `target` is set to it.
    """
    return [replace(edit, target=target) for edit in edits]  # type: ignore[call-arg]  # all have it
