"""What kind of change makes a target of its source, and how that kind is best edited.

Told from the words alone: those that the alignment of the two prompts leaves without a partner, and
what follows them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from t2i.attention.prompts.prompt_tokens import Words
from t2i.attention.site import Window
from t2i.text.alignment import align_tokens, words_of
from t2i.text.token_layout import EncoderInput

Kind = Literal["recolour", "swap", "addition", "stronger word", "other"]
LITTLE = set(
    "a an the of to on in at and with is are by for from its their it that this or as but above "
    "below over under beside behind between near next left right top bottom front against".split()
)
"""Words that name nothing: a word before one of them says nothing more about what follows."""
SIZES = set("small large big tiny huge little tall short wide long".split())
"""A thing of another size does not keep its place, unlike one of another colour."""


@dataclass(frozen=True, slots=True)
class Settings:
    """See pipelines.prompt_to_prompt.automatic_edits.Wishes.

    blended : whether only where the words are is changed
    """

    cross_replace: Window
    self_replace: Window
    blended: bool


SETTINGS: dict[Kind, Settings] = {
    "recolour": Settings((0.0, 0.8), (0.0, 0.8), blended=True),
    "swap": Settings((0.0, 0.8), (0.0, 0.4), blended=True),
    "addition": Settings((0.0, 0.2), (0.0, 0.0), blended=False),
    "stronger word": Settings((0.0, 0.4), (0.0, 0.0), blended=False),
    "other": Settings((0.0, 0.8), (0.0, 0.4), blended=False),
}
"""Measured on the embedded model, see docs/decisions.md; "other" is as published."""


@dataclass(frozen=True, slots=True)
class Change:
    """words : of the source and of the target, where they differ; what `LocalBlend` takes"""

    kind: Kind
    words: tuple[Words, Words] = ((), ())

    @property
    def settings(self) -> Settings:
        return SETTINGS[self.kind]


def change_of(source: EncoderInput, target: EncoderInput, *, weighted: bool = False) -> Change:
    """The kind of change between two prompts.

    recolour : every changed word says something of a word behind it that stays, as "red" of "apple"
    swap : some things are others now
    addition : only more words

    weighted : whether a word of the target is told more strongly or weakly
    """
    before, after = words_of(source), words_of(target)
    numbers = {word: number for number, word in enumerate(dict.fromkeys([*before, *after]))}
    partners = align_tokens([numbers[w] for w in before], [numbers[w] for w in after])
    gone = changed(before, [i in {*partners} for i in range(len(before))])
    new = changed(after, [partner is not None for partner in partners])
    if not gone and not new:
        return Change("stronger word" if weighted and before == after else "other")
    if any(word in SIZES for words, _ in (*gone, *new) for word in words):
        return Change("other")
    if all(head for _, head in (*gone, *new)):
        heads = tuple(dict.fromkeys(head for _, head in (*gone, *new) if head))
        if all(head in side for head in heads for side in (before, after)):
            return Change("recolour", (heads, heads))
    if not gone:
        return Change("addition")
    if not new:
        return Change("other")
    old_words, new_words = (
        tuple(dict.fromkeys(word for words, head in runs for word in (*words, head) if word))
        for runs in (gone, new)
    )
    return Change("swap", (old_words, new_words))


def is_little(word: str) -> bool:
    """Also "sitting": what is said of a cat that sits is said before it."""
    return word in LITTLE or word.endswith("ing")


def changed(words: Sequence[str], stays: Sequence[bool]) -> list[tuple[list[str], str | None]]:
    """The changed words that name something, each run of them with the word that it is said of:
    the last of those behind it that stay, up to one that names nothing."""
    runs: list[tuple[list[str], str | None]] = []
    place = 0
    while place < len(words):
        if stays[place] or is_little(words[place]):
            place += 1
            continue
        begin = place
        while place < len(words) and not stays[place] and not is_little(words[place]):
            place += 1
        end = place
        while end < len(words) and stays[end] and not is_little(words[end]):
            end += 1
        runs.append((list(words[begin:place]), words[end - 1] if end > place else None))
        place = end
    return runs
