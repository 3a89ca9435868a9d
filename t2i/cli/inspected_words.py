"""Words that a command or a line of a prompts file asks for: whose heat maps are shown, or whose
things are looked for in its image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from t2i.cli.option_parsing.option_values import quote_part, split_outside_quotes, unquote_part
from t2i.errors import ArgumentError

if TYPE_CHECKING:
    from t2i.attention.edits.base.edit import Edit

FUNCTION_WORDS = {"a", "an", "the", "of", "to", "on", "in", "at", "and", "with", "is", "by", "for"}
"""Words that are not probed unless --words names them."""
READING_TASKS: dict[str, tuple[str, ...]] = {
    "inspect": ("invert", "fit", "budget"),
    "invert": ("invert", "fit", "budget", "mask"),
}
"""Task of a line -> keys about a photo that it reads."""
SEGMENT_ENDING, ANIMATION_ENDING = "-segments.png", "-steps.png"
"""Endings of the names of the label picture and of the animation of the steps."""
MAX_RETRIES = 100
"""Maximum number of new draws of one image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectOrInvertTask:
    """Task of a prompts file's line that makes no image: heat maps of its image or photo, as
    `t2i inspect`, or a recording of its photo, as `t2i invert`.

    words : of the heat maps; None for all but the function words of the prompt
    segment, animate : whether to make the label picture, and the animation of the steps
    for_style : whether to record what StyleAligned reads of the photo, too
    photo_keys : keys of the line that need a photo
    """

    task: Literal["inspect", "invert"]
    words: tuple[str, ...] | None = None
    segment: bool = False
    animate: bool = False
    for_style: bool = False
    photo_keys: tuple[str, ...] = ()

    def check_reads_keys(self, given: Sequence[str]) -> None:
        """Raise ArgumentError for a key of the line that the task does not read."""
        unread = [name for name in given if name not in READING_TASKS[self.task]]
        if unread:
            raise ArgumentError(
                f'Got "{unread[0]}" for "task": "{self.task}", which does not read it. Leave it '
                "out."
            )

    def list_edits_to_record_for(self) -> "list[Edit]":
        """Return the edits for which the photo is recorded, beside those that need no more than is
        always recorded.
        """
        # Here, for it imports torch, which most requests need much later.
        from t2i.attention.edits.style_aligned import StyleAligned

        return [StyleAligned()] if self.for_style else []

    def check_image_given_and_no_upscale(self, image: object, upscale: object) -> None:
        """Raise ArgumentError for a prompts file's line with the task "invert" but no image, and
        for one with --upscale, which neither task does.
        """
        if self.task == "invert" and image is None:
            raise ArgumentError(
                'Got "task": "invert" without "image": the photo that is inverted. Give both.'
            )
        if upscale is not None:
            raise ArgumentError(
                f'Got --upscale for "task": "{self.task}", which does not enlarge. Leave it out.'
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Retries of an image: how often it is drawn again at most, and the words to look for.

    num : 1 to MAX_RETRIES
    words : words of the prompt; empty for those of its words that the model's fit knows
    """

    num: int
    words: tuple[str, ...] = ()

    @property
    def option_value(self) -> str:
        """Value of --retry that means these retries: NUM or NUM:WORD,..."""
        return ":".join([str(self.num), *([format_words(self.words)] if self.words else [])])


def format_words(words: Sequence[str]) -> str:
    """Return the value of --words that stands for words or phrases."""
    return ",".join(map(quote_part, words))


def split_words(words: Sequence[str] | None) -> list[str]:
    """Split the values of `t2i inspect --words` at commas into distinct words or phrases of the
    prompt, in their order.

    Raises ArgumentError for an empty one.
    """
    if words is None:
        return []
    typed = [word for text in words for word in split_outside_quotes(text, ",")]
    split = [unquote_part(word, "--words") for word in typed]
    if not all(split):
        raise ArgumentError(
            f"Got --words {','.join(words)!r:.80}: expected words of the prompt between commas, "
            'as in --words cat,"red apple".'
        )
    return list(dict.fromkeys(split))


def parse_retry(text: str, name: str = "--retry") -> Retry:
    """Parse the value of --retry, "3" or "3:cat,apple". Raises ArgumentError.

    name : of the option or key, for messages
    """
    number, colon, words = text.strip().partition(":")
    num = int(number) if number.strip().isascii() and number.strip().isdigit() else 0
    if not 1 <= num <= MAX_RETRIES or (colon and not words.strip()):
        raise ArgumentError(
            f"Got {name} {text!r:.80}: expected how often to draw again at most, 1 to "
            f"{MAX_RETRIES}, and the words to look for if they are not all objects of the prompt, "
            "as in 3 or 3:cat,apple."
        )
    return Retry(num=num, words=tuple(split_words([words])) if colon else ())


def list_content_words(prompt: object) -> list[str]:
    """Return the words of a prompt without articles, prepositions and other function words.

    Raises ArgumentError where none is left.
    """
    from pipelines.prompt_to_prompt.automatic_edits import get_cond_text_at_step
    from t2i.text.alignment import split_into_lowercase_words
    from t2i.text.prompt import Prompt

    assert isinstance(prompt, str | Prompt)
    prompt_words = dict.fromkeys(split_into_lowercase_words(get_cond_text_at_step(prompt)))
    found = [word for word in prompt_words if word not in FUNCTION_WORDS]
    if not found:
        state = "has only function words" if prompt_words else "is empty"
        raise ArgumentError(f"The prompt {state}: name the words to look up with --words.")
    return found
