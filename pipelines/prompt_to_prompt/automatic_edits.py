"""Automatic choice of attention edits for a source, its targets and options for their words."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pipelines.prompt_to_prompt.edit_kinds import PromptChange, classify_text_change
from t2i.attention.edits.base.edit import Edit
from t2i.attention.edits.base.word_edit import check_alignment_types
from t2i.attention.edits.local_blend import LocalBlend
from t2i.attention.edits.refine import Refine
from t2i.attention.edits.regions import Region, Regions
from t2i.attention.edits.replace import Replace
from t2i.attention.edits.reweight import Reweight
from t2i.attention.edits.self_replace import SelfReplace
from t2i.attention.edits.style_aligned import StyleAligned, check_source_weight
from t2i.attention.prompts.prompt_tokens import Words, as_word_tuple
from t2i.attention.site import StepWindow, check_step_window, is_empty_step_window
from t2i.errors import ArgumentError
from t2i.terminal import plural
from t2i.text.alignment import join_text_without_weights, split_into_lowercase_words
from t2i.text.prompt import Prompt
from t2i.text.token_windows import EncoderInput
from t2i.text.word_mentions import WordMention, check_mention_in_text
from t2i.text.word_pattern import build_word_pattern
from t2i.text.word_spans import build_unknown_word_message

BlendWords = tuple[Words, Words]
"""Words of the source and of the target, as LocalBlend takes them."""
STEP_WINDOW_OPTION_BY_EDIT: dict[type[Edit], str] = {
    Replace: "cross_replace",
    Refine: "cross_replace",
    Reweight: "cross_replace",
    SelfReplace: "self_replace",
}
"""Kind of edit -> the option that sets its steps."""


def is_auto_none_or_word_pair(value: object) -> bool:
    """Return True for "auto", None, or a pair of words of the source and of the target."""
    if value is None or (isinstance(value, str) and value == "auto"):
        return True
    sides = value if isinstance(value, tuple) and len(value) == 2 else [None]
    return all(
        isinstance(side, str)
        or (isinstance(side, list | tuple) and all(isinstance(word, str) for word in side))
        for side in sides
    )


@dataclass(frozen=True, kw_only=True)
class WordEditOptions:
    """Options of the automatic edits of a prompt edit's targets.

    weights : word -> factor, in each target that has the word
    blend : change only the region of these words; a list has a pair per target; None changes the
        whole image
    cross_replace, self_replace : steps in which the attention maps of words, and those of image
        positions, are those of the source
    alignment : word of a target -> the word of the source that it comes from, None for a new word,
        where the automatic alignment is wrong; "dog#2" is the second of several
    regions : boxes or masks to which words of the targets are bound; cross_replace and self_replace
        are then 0 where they are "auto", so that nothing keeps the objects in their place
    style : weight of the source's style in the targets, see StyleAligned; None without. As with
        regions, nothing else keeps the source then, nor does a blend, where they are "auto"

    Any other "auto" is resolved by the kind of change, see pipelines.prompt_to_prompt.edit_kinds.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    blend: Literal["auto"] | BlendWords | Sequence[BlendWords] | None = "auto"
    cross_replace: Literal["auto"] | StepWindow = "auto"
    self_replace: Literal["auto"] | StepWindow = "auto"
    alignment: Mapping[str, str | None] = field(default_factory=dict)
    regions: Sequence[Region] = ()
    style: float | None = None

    def __post_init__(self) -> None:
        for name in ("cross_replace", "self_replace"):
            window = getattr(self, name)
            if not (isinstance(window, str) and window == "auto"):
                check_step_window(name, window)
        blends = self.blend if isinstance(self.blend, list) else [self.blend]
        if not all(is_auto_none_or_word_pair(one) for one in blends):
            raise ArgumentError(
                f'Got blend={self.blend!r:.80}, expected "auto", None, or a word of the source '
                'and one of the target: blend=("cat", "dog").'
            )
        if not isinstance(self.weights, Mapping):
            raise ArgumentError(
                f"Got weights={self.weights!r:.80}, expected words and their factors: "
                'weights={"red": 2.0}.'
            )
        check_alignment_types(self.alignment)
        if self.style is not None:
            check_source_weight("style", self.style)

    def list_edits_to_record_for(self) -> list[Edit]:
        """Return the edits for which a source must be recorded, so that these options apply."""
        return [] if self.style is None else [StyleAligned(source_weight=self.style)]

    def list_blends_per_target(self, targets: int) -> Sequence[Literal["auto"] | BlendWords | None]:
        """Return the blend words of each target prompt, "auto" or None included; ArgumentError
        where a list has another length.
        """
        if not isinstance(self.blend, list):
            return [self.blend] * targets  # type: ignore[list-item]  # a tuple is one pair
        if len(self.blend) != targets:
            raise ArgumentError(
                f"Got {plural(len(self.blend), 'pair')} as blend for {targets} targets: expected "
                'one for each, or one tuple for all, blend=("cat", "dog").'
            )
        return self.blend


@dataclass(frozen=True)
class TargetEditSettings:
    """Settings of the edits of one target: the given options, else those of its kind of change."""

    change: PromptChange
    cross_replace: StepWindow
    self_replace: StepWindow
    blend: BlendWords | None


def choose_target_edit_settings(
    prompts: Sequence[str | Prompt], num_steps: int, options: WordEditOptions
) -> list[TargetEditSettings]:
    """Return the attention-edit settings of each target prompt; `prompts` begins with the
    source's.
    """
    found = []
    blends = options.list_blends_per_target(len(prompts) - 1)
    for prompt, blend in zip(prompts[1:], blends, strict=True):
        weighted = any(has_word(prompt, word) for word in options.weights)
        change = classify_prompt_change(prompts[0], prompt, num_steps, weighted=weighted)
        settings = change.settings
        if options.regions or options.style is not None:
            settings = replace(settings, cross_replace=(0.0, 0.0), self_replace=(0.0, 0.0))
        if blend == "auto":
            is_blended = settings.blended and options.style is None
            blend = change.words if is_blended else None
        cross, own = options.cross_replace, options.self_replace
        found.append(
            TargetEditSettings(
                change,
                settings.cross_replace if cross == "auto" else cross,
                settings.self_replace if own == "auto" else own,
                blend,
            )
        )
    return found


def classify_prompt_change(
    source: str | Prompt, target: str | Prompt, num_steps: int, *, weighted: bool = False
) -> PromptChange:
    """Return the change between a source and a target; "other" if either changes during the run.

    weighted : True if a word of the target is weighted
    """
    if list_source_or_target_change_steps(source, target, num_steps) != {0}:
        return PromptChange("other")
    return classify_text_change(
        get_cond_text_at_step(source), get_cond_text_at_step(target), weighted=weighted
    )


def choose_edits(
    prompts: Sequence[str | Prompt], num_steps: int, options: WordEditOptions, max_positions: int
) -> list[Edit]:
    """Return the edits for prompts of which the first is the source, in the order in which they
    act.

    Where two prompts have equal word counts at every step their words are swapped (Replace); else
    the prompts are aligned (Refine); `alignment` corrects either. Then follow weights on the
    source's map, the layout, the blend, the regions, and the style.
    """
    check_weighted_words(prompts[1:], options.weights)
    check_aligned_words(prompts, options.alignment)
    check_region_words(prompts[1:], options.regions)
    edits: list[Edit] = []
    chosen_for = choose_target_edit_settings(prompts, num_steps, options)
    for target, (prompt, choice) in enumerate(zip(prompts[1:], chosen_for, strict=True), start=1):
        swap = has_equal_word_counts(prompts[0], prompt, num_steps)
        kind = Replace if swap else Refine
        aligned = {
            word: origin
            for word, origin in options.alignment.items()
            if has_possibly_numbered_word(prompt, word)
        }
        if aligned and is_empty_step_window(choice.cross_replace):
            warnings.warn(
                "The alignment by hand has no effect: cross_replace=0 keeps no map of the source.",
                stacklevel=3,
            )
        chosen: list[Edit] = [kind(target=target, steps=choice.cross_replace, alignment=aligned)]
        weights = {
            word: factor for word, factor in options.weights.items() if has_word(prompt, word)
        }
        if weights:
            steps = choice.cross_replace
            chosen.append(Reweight(source=0, target=target, weights=weights, steps=steps))
        layout = SelfReplace(target=target, steps=choice.self_replace, max_positions=max_positions)
        chosen.append(layout)
        edits += [edit for edit in chosen if acts_at_any_step(edit, num_steps)]
        if choice.blend is not None:
            edits.append(LocalBlend(target=target, words=choice.blend))
        bound = [region for region in options.regions if has_all_words(prompt, region.words)]
        if bound:
            edits.append(Regions(bound, target=target))
        if options.style is not None:
            edits.append(StyleAligned(target=target, source_weight=options.style))
    return edits


def acts_at_any_step(edit: Edit, num_steps: int) -> bool:
    """Return True if any step lies in the edit's window; warn where none does unexpectedly."""
    if any(edit.acts_at_step(step, num_steps) for step in range(num_steps)):
        return True
    if not is_empty_step_window(edit.steps):
        name = STEP_WINDOW_OPTION_BY_EDIT.get(type(edit), f"steps of {type(edit).__name__}")
        steps = "1 step is" if num_steps == 1 else f"{plural(num_steps, 'step')} are"
        warnings.warn(
            f"{steps} too few for {name}={edit.steps}: none lies in it, so it has no effect.",
            stacklevel=4,
        )
    return False


def has_equal_word_counts(source: str | Prompt, target: str | Prompt, num_steps: int) -> bool:
    """Return True if source and target have equally many words at every step."""
    turns = list_source_or_target_change_steps(source, target, num_steps)
    return all(
        len(split_into_lowercase_words(get_cond_text_at_step(source, step, num_steps)))
        == len(split_into_lowercase_words(get_cond_text_at_step(target, step, num_steps)))
        for step in turns
    )


def list_source_or_target_change_steps(
    source: str | Prompt, target: str | Prompt, num_steps: int
) -> set[int]:
    """Return step 0 and the steps at which either prompt changes."""
    return {0}.union(
        *(p.list_change_steps(num_steps) for p in (source, target) if isinstance(p, Prompt))
    )


def get_cond_text_at_step(prompt: str | Prompt, step: int = 0, num_steps: int = 1) -> EncoderInput:
    """Return the text that a prompt, scheduled or not, has in the branch "cond" at a step."""
    return prompt.texts_at_step(step, num_steps)[0][0] if isinstance(prompt, Prompt) else prompt


def has_word(prompt: str | Prompt, word: str) -> bool:
    """Return True if the prompt contains the word at step 0."""
    return (
        build_word_pattern(word).search(join_text_without_weights(get_cond_text_at_step(prompt)))
        is not None
    )


def has_all_words(prompt: str | Prompt, words: Words) -> bool:
    """Return True if the prompt contains all of the words at step 0."""
    return all(has_word(prompt, word) for word in as_word_tuple(words))


def check_region_words(targets: Sequence[str | Prompt], regions: Sequence[Region]) -> None:
    """Raise ArgumentError for a region whose words no target contains together."""
    for region in regions:
        if not any(has_all_words(target, region.words) for target in targets):
            named = " and ".join(map(repr, as_word_tuple(region.words)))
            raise ArgumentError(
                f"regions: {named} is in no target: bind words of the picture that is drawn."
            )


def check_weighted_words(targets: Sequence[str | Prompt], weights: Mapping[str, float]) -> None:
    """Raise ArgumentError for a weighted word that no target contains."""
    for word in weights:
        if not isinstance(word, str):
            raise ArgumentError(f"Got the word {word!r} in weights, expected a string.")
        if not any(has_word(target, word) for target in targets):
            texts = " ".join(
                join_text_without_weights(get_cond_text_at_step(target)) for target in targets
            )
            missing = build_unknown_word_message(word, texts).replace("the prompt", "any target", 1)
            raise ArgumentError(f"weights: {missing}")


def has_possibly_numbered_word(prompt: str | Prompt, word: str) -> bool:
    """Return True if the prompt contains, at step 0, a word given with or without its number, "dog"
    or "dog#2".
    """
    return has_word(prompt, WordMention.parse(word).word)


def check_aligned_words(
    prompts: Sequence[str | Prompt], alignment: Mapping[str, str | None]
) -> None:
    """Raise ArgumentError for an alignment of a word that no target contains, or with one that the
    source does not contain; and for one of several words without its number.

    prompts : the source's, then those of the targets
    """
    source, *targets = (
        join_text_without_weights(get_cond_text_at_step(prompt)) for prompt in prompts
    )
    try:
        for word, origin in alignment.items():
            mention = WordMention.parse(word)
            texts = [text for text in targets if has_possibly_numbered_word(text, word)]
            for text in texts or [" ".join(targets)]:
                check_mention_in_text(mention, text, "any target" if not texts else "the target")
            if origin is not None:
                check_mention_in_text(WordMention.parse(origin), source, "the source")
    except ArgumentError as error:
        raise ArgumentError(f"alignment: {error}") from None
