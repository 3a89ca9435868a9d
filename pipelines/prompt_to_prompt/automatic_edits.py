"""The edits of attention that a source, its targets and wishes for their words call for."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipelines.prompt_to_prompt.edit_kinds import Change, change_of
from t2i.attention.edits.base.edit import Edit
from t2i.attention.edits.local_blend import LocalBlend
from t2i.attention.edits.refine import Refine
from t2i.attention.edits.replace import Replace
from t2i.attention.edits.reweight import Reweight
from t2i.attention.edits.self_replace import SelfReplace
from t2i.attention.prompts.prompt_tokens import Words
from t2i.attention.site import Window, check_window, is_empty
from t2i.errors import ArgumentError
from t2i.terminal import several
from t2i.text.alignment import plain_text, words_of
from t2i.text.prompt import Prompt
from t2i.text.token_layout import EncoderInput
from t2i.text.word_pattern import pattern
from t2i.text.word_spans import unknown_word_message

Blend = tuple[Words, Words]
"""Words of the source and of the target, as LocalBlend takes them."""
WINDOWS: dict[type[Edit], str] = {
    Replace: "cross_replace",
    Refine: "cross_replace",
    Reweight: "cross_replace",
    SelfReplace: "self_replace",
}
"""Kind of edit -> the wish that says when it acts."""


def is_blend(value: object) -> bool:
    """Whether it is "auto", None, or words of the source and of the target."""
    if value is None or (isinstance(value, str) and value == "auto"):
        return True
    sides = value if isinstance(value, tuple) and len(value) == 2 else [None]
    return all(
        isinstance(side, str)
        or (isinstance(side, list | tuple) and all(isinstance(word, str) for word in side))
        for side in sides
    )


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What somebody wants of the targets, beside what their prompts say.

    weights : a word -> its factor, in each target that has the word
    blend : change nothing but where these words are; a list has a pair for each target; None for
        no such bounds
    cross_replace, self_replace : when words, and places of the picture, look as in the source

    What is "auto" is chosen by the kind of change, see pipelines.prompt_to_prompt.edit_kinds.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    blend: Literal["auto"] | Blend | Sequence[Blend] | None = "auto"
    cross_replace: Literal["auto"] | Window = "auto"
    self_replace: Literal["auto"] | Window = "auto"

    def __post_init__(self) -> None:
        for name in ("cross_replace", "self_replace"):
            window = getattr(self, name)
            if not (isinstance(window, str) and window == "auto"):
                check_window(name, window)
        asked = self.blend if isinstance(self.blend, list) else [self.blend]
        if not all(is_blend(one) for one in asked):
            raise ArgumentError(
                f'Got blend={self.blend!r:.80}, expected "auto", None, or a word of the source '
                'and one of the target: blend=("cat", "dog").'
            )
        if not isinstance(self.weights, Mapping):
            raise ArgumentError(
                f"Got weights={self.weights!r:.80}, expected words and their factors: "
                'weights={"red": 2.0}.'
            )

    def blends(self, targets: int) -> Sequence[Literal["auto"] | Blend | None]:
        """That of each target."""
        if not isinstance(self.blend, list):
            return [self.blend] * targets  # type: ignore[list-item]  # a tuple is one pair
        if len(self.blend) != targets:
            raise ArgumentError(
                f"Got {several(len(self.blend), 'pair')} as blend for {targets} targets: expected "
                "one for "
                'each, or one tuple for all, blend=("cat", "dog").'
            )
        return self.blend


@dataclass(frozen=True)
class Choice:
    """How one target is edited: what its kind says, under what was wished for."""

    change: Change
    cross_replace: Window
    self_replace: Window
    blend: Blend | None


def choices(prompts: Sequence[str | Prompt], num_steps: int, wishes: Wishes) -> list[Choice]:
    """For each target, behind the source."""
    found = []
    blends = wishes.blends(len(prompts) - 1)
    for prompt, blend in zip(prompts[1:], blends, strict=True):
        weighted = any(has(prompt, word) for word in wishes.weights)
        if turns_of(prompts[0], prompt, num_steps) == {0}:
            change = change_of(said(prompts[0]), said(prompt), weighted=weighted)
        else:
            change = Change("other")  # its words change on the way
        settings = change.settings
        if blend == "auto":
            blend = change.words if settings.blended else None
        cross, own = wishes.cross_replace, wishes.self_replace
        found.append(
            Choice(
                change,
                settings.cross_replace if cross == "auto" else cross,
                settings.self_replace if own == "auto" else own,
                blend,
            )
        )
    return found


def choose_edits(
    prompts: Sequence[str | Prompt], num_steps: int, wishes: Wishes, max_positions: int
) -> list[Edit]:
    """Edits for prompts of which the first is the source, in the order in which they act.

    Where two prompts have as many words at every step these are swapped (Replace); else the prompts
    are aligned (Refine). Then come weights on the source's map, then the layout, then the blend.
    """
    check_weighted(prompts[1:], wishes.weights)
    edits: list[Edit] = []
    chosen_for = choices(prompts, num_steps, wishes)
    for target, (prompt, choice) in enumerate(zip(prompts[1:], chosen_for, strict=True), start=1):
        swap = as_many_words(prompts[0], prompt, num_steps)
        kind = Replace if swap else Refine
        chosen: list[Edit] = [kind(target=target, steps=choice.cross_replace)]
        weights = {word: factor for word, factor in wishes.weights.items() if has(prompt, word)}
        if weights:
            steps = choice.cross_replace
            chosen.append(Reweight(source=0, target=target, weights=weights, steps=steps))
        layout = SelfReplace(target=target, steps=choice.self_replace, max_positions=max_positions)
        chosen.append(layout)
        edits += [edit for edit in chosen if reaches(edit, num_steps)]
        if choice.blend is not None:
            edits.append(LocalBlend(target=target, words=choice.blend))
    return edits


def reaches(edit: Edit, num_steps: int) -> bool:
    """Whether any step lies in its window; a warning where that was not to be expected."""
    if any(edit.covers(step, num_steps) for step in range(num_steps)):
        return True
    if not is_empty(edit.steps):
        name = WINDOWS.get(type(edit), f"steps of {type(edit).__name__}")
        steps = "1 step is" if num_steps == 1 else f"{several(num_steps, 'step')} are"
        warnings.warn(
            f"{steps} too few for {name}={edit.steps}: none lies in it, so the targets do without.",
            stacklevel=4,
        )
    return False


def as_many_words(source: str | Prompt, target: str | Prompt, num_steps: int) -> bool:
    turns = turns_of(source, target, num_steps)
    return all(
        len(words_of(said(source, step, num_steps))) == len(words_of(said(target, step, num_steps)))
        for step in turns
    )


def turns_of(source: str | Prompt, target: str | Prompt, num_steps: int) -> set[int]:
    """The steps at which either says something else."""
    return {0}.union(*(p.changes(num_steps) for p in (source, target) if isinstance(p, Prompt)))


def said(prompt: str | Prompt, step: int = 0, num_steps: int = 1) -> EncoderInput:
    """What the branch "cond" is told."""
    return prompt.at(step, num_steps)[0][0] if isinstance(prompt, Prompt) else prompt


def has(prompt: str | Prompt, word: str) -> bool:
    return pattern(word).search(plain_text(said(prompt))) is not None


def check_weighted(targets: Sequence[str | Prompt], weights: Mapping[str, float]) -> None:
    """Raise ArgumentError for a word that no target has."""
    for word in weights:
        if not isinstance(word, str):
            raise ArgumentError(f"Got the word {word!r} in weights, expected a string.")
        if not any(has(target, word) for target in targets):
            texts = " ".join(plain_text(said(target)) for target in targets)
            missing = unknown_word_message(word, texts).replace("the prompt", "any target", 1)
            raise ArgumentError(f"weights: {missing}")
