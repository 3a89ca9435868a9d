"""Options of `t2i edit` about its attention edits, parsed from the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from t2i.cli.option_parsing.option_values import (
    format_number,
    partition_last_outside_quotes,
    quote_part,
    split_outside_quotes,
    unquote_part,
)
from t2i.errors import ArgumentError

if TYPE_CHECKING:
    from pipelines.prompt_to_prompt.automatic_edits import BlendWords, WordEditOptions
    from t2i.attention.edits.regions import Region


NEW_WORD = "new"
"""Stands for the origin of a word of TARGET that comes from no word of SOURCE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionBoxOption:
    """Value of `t2i edit --region`: words and the box they are bound to, left, top, right and
    bottom as shares of the image's size.
    """

    words: str
    box: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        self.to_box_region()

    def to_box_region(self) -> "Region":
        """Return the region of the edit. Raises ArgumentError for a box that is none."""
        from t2i.attention.edits.regions import Region

        return Region(words=self.words, box=self.box)


@dataclass(frozen=True, slots=True, kw_only=True)
class EditOptions:
    """Parsed options of `t2i edit` about its attention edits: weights, blend, windows, alignment,
    regions, and style.

    weights : word -> factor
    windows : "cross_replace" and "self_replace" -> the shares of the run between which they act
    alignment : word of a target -> the word of the source that it comes from, None for a new word
    style : weight of the source's style in the targets; None without

    Raises ArgumentError for a factor that no edit takes.
    """

    weights: Mapping[str, float]
    blend: "BlendWords | Literal['auto'] | None"
    windows: Mapping[str, tuple[float, float]]
    alignment: Mapping[str, str | None] = field(default_factory=dict)
    regions: Sequence[RegionBoxOption] = ()
    style: float | None = None

    def __post_init__(self) -> None:
        if self.style is not None and not (0 < self.style < float("inf")):
            raise ArgumentError(
                f"Got --style {self.style:g}: expected a positive number, 1 for SOURCE's style as "
                "published, 2 for more of it, 0.5 for less."
            )
        if self.weights:
            from t2i.attention.edits.reweight import Reweight

            Reweight(weights=self.weights)  # checks the factors

    @classmethod
    def parse(
        cls,
        weights: Sequence[str],
        blend: str,
        cross_replace: str | None,
        self_replace: str | None,
        align: Sequence[str] = (),
        regions: Sequence[str] = (),
        style: float | None = None,
    ) -> "EditOptions":
        """Parse the options of the attention edits, as they were typed. Raises ArgumentError."""
        windows = {}
        if cross_replace is not None:
            windows["cross_replace"] = parse_step_window("--cross-replace", cross_replace)
        if self_replace is not None:
            windows["self_replace"] = parse_step_window("--self-replace", self_replace)
        return cls(
            weights=parse_word_weights(weights),
            blend=parse_blend_words(blend),
            windows=windows,
            alignment=parse_alignment(align),
            regions=tuple(map(parse_region, regions)),
            style=style,
        )

    def to_word_edit_options(self) -> "WordEditOptions":
        """Convert the options to the WordEditOptions of edits="auto"."""
        from pipelines.prompt_to_prompt.automatic_edits import WordEditOptions

        return WordEditOptions(
            weights=self.weights,
            blend=self.blend,
            alignment=self.alignment,
            regions=tuple(region.to_box_region() for region in self.regions),
            style=self.style,
            **self.windows,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLineEdit:
    """Prompt edit that a line of a prompts file asks for, with its source prompt and options; the
    line's own prompt is the target.

    source : prompt of the source, which describes the photo where the line has one; None where a
        recording has its own
    photo_keys : keys of the line that need a photo
    earlier : prompts of the photo and of edits of it, one upon the other, before the source; None
        without
    """

    source: str | None
    options: EditOptions
    photo_keys: tuple[str, ...] = ()
    earlier: tuple[str, ...] | None = None

    @property
    def chained_source_prompts(self) -> tuple[str, ...]:
        """Prompts of the sources of a chain of edits of a photo, each edit made upon the one
        before: first the photo's, last the source of this edit.
        """
        return (*(self.earlier or ()), *([] if self.source is None else [self.source]))


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLineRecordedPhoto:
    """Recorded photo that a line of a prompts file edits or looks into, with its settings.

    folder : as it was typed
    full_size : edits are put back into the photo at its own size
    """

    folder: str
    full_size: bool = False


def parse_word_weights(texts: Sequence[str]) -> dict[str, float]:
    """Parse options such as "red=2" into word -> factor. Raises ArgumentError."""
    weights: dict[str, float] = {}
    for text in texts:
        typed, _, factor = partition_last_outside_quotes(text, "=")
        word = unquote_part(typed, "--weight")
        try:
            weights[word] = float(factor)
        except ValueError:
            word = ""
        if not word:
            raise ArgumentError(
                f"Got --weight {text!r:.80}: expected a word of the target and its factor, as in "
                "--weight red=2: 1 leaves it, 2 doubles it, 0 takes it away."
            )
    return weights


def parse_alignment(texts: Sequence[str]) -> dict[str, str | None]:
    """Parse options such as "dog=cat,big=new" into word of TARGET -> word of SOURCE, None for new.

    A word "new" of SOURCE is "new#1". Raises ArgumentError.
    """
    alignment: dict[str, str | None] = {}
    for text in texts:
        for pair in split_outside_quotes(text, ","):
            parts = split_outside_quotes(pair, "=", max_splits=1)
            word, origin = (unquote_part(part, "--align") for part in (*parts, "")[:2])
            if not word or not origin:
                raise ArgumentError(
                    f"Got --align {text!r:.80}: expected a word of TARGET and the word of SOURCE "
                    "that it comes from, as in --align dog=cat, or --align big=new for a word that "
                    "comes from none; dog#2 is the second of several."
                )
            if word in alignment:
                raise ArgumentError(
                    f"Got --align with {word!r} twice: a word comes from one word, or is new."
                )
            alignment[word] = None if origin == NEW_WORD else origin
    return alignment


def format_alignment(alignment: Mapping[str, str | None]) -> str:
    """Return the value of --align that stands for an alignment."""
    origins = {None: NEW_WORD, NEW_WORD: f"{NEW_WORD}#1"}
    pairs = ((word, origins.get(origin, origin)) for word, origin in alignment.items())
    return ",".join(f"{quote_part(word)}={quote_part(str(origin))}" for word, origin in pairs)


def parse_region(text: str) -> RegionBoxOption:
    """Parse --region "cat:0,0,0.5,1": words, and left, top, right and bottom of their box as shares
    of the image's size. Raises ArgumentError.
    """
    typed, _, sides = partition_last_outside_quotes(text, ":")
    words = unquote_part(typed, "--region")
    try:
        left, top, right, bottom = (float(side) for side in sides.split(","))
    except ValueError:
        words = ""
    if not words.strip():
        raise ArgumentError(
            f"Got --region {text!r:.80}: expected words, and left, top, right and bottom of their "
            'box as shares of the picture, as in --region "cat:0,0,0.5,1" for its left half.'
        )
    return RegionBoxOption(words=words, box=(left, top, right, bottom))


def format_region(region: RegionBoxOption) -> str:
    """Return the value of --region that stands for a region."""
    return f"{quote_part(region.words)}:{','.join(map(format_number, region.box))}"


def format_word_weight(word: str, factor: float) -> str:
    """Return the value of --weight that stands for a word and its factor."""
    return f"{quote_part(word)}={format_number(factor)}"


def parse_blend_words(text: str) -> "BlendWords | Literal['auto'] | None":
    """Parse --blend "cat,dog" into (source words, target words). Raises ArgumentError.

    Several words of a side are joined by "+"; one word alone is that of both sides.
    """
    if text.strip() == "auto":
        return "auto"
    if text.strip() == "none":
        return None
    parts = [part.strip() for part in text.split(",")]
    words = [tuple(word.strip() for word in part.split("+")) for part in parts]
    if len(words) == 1:
        words *= 2
    if len(words) != 2 or not all(word for side in words for word in side):
        raise ArgumentError(
            f"Got --blend {text!r:.80}: expected a word of SOURCE and one of TARGET, as in "
            "--blend cat,dog, or --blend cat+bowl,dog for several, one word for both, auto or none."
        )
    return (words[0], words[1])


def parse_step_window(name: str, text: str) -> tuple[float, float]:
    """Parse "0.2:0.8", the fractions of the steps between which an edit acts.

    "0.8" alone is from the beginning to 0.8. `name` is the option, for messages. Raises
    ArgumentError for anything else.
    """
    first, _, end = text.rpartition(":")
    try:
        window = (float(first or 0), float(end))
    except ValueError:
        window = (1.0, 0.0)
    if not 0 <= window[0] <= window[1] <= 1:
        raise ArgumentError(
            f"Got {name} {text!r:.80}: expected a share of the run from 0 to 1, as in {name} 0.8, "
            f"or two, as in {name} 0.2:0.8."
        )
    return window
