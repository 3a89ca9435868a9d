"""Kinds of change between a source and a target prompt, and the edit settings of each kind.

The kind depends on the words alone: those that the alignment of the two prompts leaves without a
partner, and the words after them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from t2i.attention.prompts.prompt_tokens import Words
from t2i.attention.site import StepWindow
from t2i.text.alignment import align_tokens, split_into_lowercase_words
from t2i.text.token_windows import EncoderInput

ChangeKind = Literal["recolour", "background", "swap", "addition", "stronger word", "other"]
FUNCTION_WORDS = set(
    (
        "a an the of to on in at and with is are by for from its their it that this or as but "
        "above below over under beside behind between near next left right top bottom front "
        "against"
    ).split()
)
"""Words that name nothing: a word before one of them does not describe the word after it."""
NOUNS_IN_ING = set(
    (
        "king ring earring building painting drawing wing string ceiling clothing spring swing "
        "sling viking pudding dumpling duckling wedding morning evening lightning railing thing"
    ).split()
)
"""Nouns that end as participles do."""
BACKGROUND_WORDS = {"background", "backdrop", "wall", "sky"}
"""Words of what is behind the objects: recoloured, most of the picture changes."""
SIZE_WORDS = {"small", "large", "big", "tiny", "huge", "little", "tall", "short", "wide", "long"}
"""Words of size: an object of another size does not keep its place, unlike a recoloured one."""


@dataclass(frozen=True, slots=True)
class ChangeKindDefaults:
    """Default settings of the attention edits for one kind of change between two prompts, see
    WordEditOptions.

    blended : only the region of the changed words is edited
    inversion : name of the inversion method for a user's own picture
    """

    cross_replace: StepWindow
    self_replace: StepWindow
    blended: bool
    inversion: str = "direct"


SETTINGS_BY_CHANGE_KIND: dict[ChangeKind, ChangeKindDefaults] = {
    "recolour": ChangeKindDefaults((0.0, 0.8), (0.0, 0.8), blended=True, inversion="turbo"),
    "background": ChangeKindDefaults((0.0, 0.8), (0.0, 0.8), blended=True),
    "swap": ChangeKindDefaults((0.0, 0.8), (0.0, 0.4), blended=True, inversion="turbo"),
    "addition": ChangeKindDefaults((0.0, 0.2), (0.0, 0.0), blended=False),
    "stronger word": ChangeKindDefaults((0.0, 0.4), (0.0, 0.0), blended=False),
    "other": ChangeKindDefaults((0.0, 0.8), (0.0, 0.4), blended=False),
}
"""Measured on the embedded model, see docs/decisions.md; "other" is as published."""


@dataclass(frozen=True, slots=True)
class PromptChange:
    """Change between two prompts: its kind, and the words of source and target that differ."""

    kind: ChangeKind
    words: tuple[Words, Words] = ((), ())

    @property
    def settings(self) -> ChangeKindDefaults:
        """Default settings of the attention edits for this kind of change between two prompts."""
        return SETTINGS_BY_CHANGE_KIND[self.kind]


def classify_text_change(
    source: EncoderInput, target: EncoderInput, *, weighted: bool = False
) -> PromptChange:
    """Classify the change between a source and a target prompt: return its kind and the words that
    differ.

    recolour : every changed word describes a later word that stays, as "red" describes "apple"
    background : the same, and that word is one of BACKGROUND_WORDS
    swap : some objects are replaced by others
    addition : words are only added

    weighted : True if a word of the target is weighted
    """
    before, after = split_into_lowercase_words(source), split_into_lowercase_words(target)
    numbers = {word: number for number, word in enumerate(dict.fromkeys([*before, *after]))}
    partners = align_tokens([numbers[w] for w in before], [numbers[w] for w in after])
    gone = pair_changed_words_with_nouns(before, [i in {*partners} for i in range(len(before))])
    new = pair_changed_words_with_nouns(after, [partner is not None for partner in partners])
    if not gone and not new:
        return PromptChange("stronger word" if weighted and before == after else "other")
    if any(word in SIZE_WORDS for words, _ in (*gone, *new) for word in words):
        return PromptChange("other")
    if all(head for _, head in (*gone, *new)):
        heads = tuple(dict.fromkeys(head for _, head in (*gone, *new) if head))
        if all(head in side for head in heads for side in (before, after)):
            kind: ChangeKind = "recolour" if BACKGROUND_WORDS.isdisjoint(heads) else "background"
            return PromptChange(kind, (heads, heads))
    if not gone:
        return PromptChange("addition")
    if not new:
        return PromptChange("other")
    old_words, new_words = (
        tuple(dict.fromkeys(word for words, head in runs for word in (*words, head) if word))
        for runs in (gone, new)
    )
    return PromptChange("swap", (old_words, new_words))


def is_function_word_or_participle(word: str) -> bool:
    """Return True for a function word or a participle, as "on" and "sitting"."""
    return word in FUNCTION_WORDS or (word.endswith("ing") and word not in NOUNS_IN_ING)


def pair_changed_words_with_nouns(
    words: Sequence[str], stays: Sequence[bool]
) -> list[tuple[list[str], str | None]]:
    """Return the changed content words, each run with the word that it describes, or None.

    That is the last of the unchanged words after the run, up to the next function word.
    """
    runs: list[tuple[list[str], str | None]] = []
    place = 0
    while place < len(words):
        if stays[place] or is_function_word_or_participle(words[place]):
            place += 1
            continue
        begin = place
        while (
            place < len(words)
            and not stays[place]
            and not is_function_word_or_participle(words[place])
        ):
            place += 1
        end = place
        while end < len(words) and stays[end] and not is_function_word_or_participle(words[end]):
            end += 1
        runs.append((list(words[begin:place]), words[end - 1] if end > place else None))
        place = end
    return runs
