"""What the text encoders of a pipeline read, to hold the prompts of a session against."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from t2i.attention.hooks.forward_arguments import bind_arguments
from t2i.attention.prompts.prompt_tokenizers import find_prompt_tokenizers
from t2i.attention.prompts.prompt_tokens import PromptTokenizer
from t2i.errors import ArgumentError
from t2i.text.token_layout import EncoderInput, window_of

PARTS = ("", "_2", "_3")


class EncodedPrompts:
    """The tokens that reached each text encoder since the last run began."""

    def __init__(self, pipeline: Any) -> None:
        self._read: list[tuple[PromptTokenizer, nn.Module, list[list[list[int]]]]] = []
        for prompt_tokenizer in () if pipeline is None else find_prompt_tokenizers(pipeline, None):
            for part in PARTS:
                encoder = getattr(pipeline, f"text_encoder{part}", None)
                own = getattr(pipeline, f"tokenizer{part}", None) is prompt_tokenizer.tokenizer
                if own and isinstance(encoder, nn.Module):
                    self._read.append((prompt_tokenizer, encoder, []))
                    break

    def install(self, stack: ExitStack) -> None:
        for _, encoder, calls in self._read:
            stack.callback(
                encoder.register_forward_pre_hook(noting(calls), with_kwargs=True).remove
            )

    def check(self, prompts: Sequence[EncoderInput] | None) -> None:
        """A run begins. Raise ArgumentError where an encoder has read, but not these prompts."""
        for prompt_tokenizer, _, calls in self._read:
            if calls and prompts and all(isinstance(prompt, str) for prompt in prompts):
                beginnings = [beginning(prompt_tokenizer, prompt) for prompt in prompts]
                if not any(holds(rows, beginnings) for rows in calls):
                    raise ArgumentError(
                        f"attend() was told the prompts {list(prompts)}, but the pipeline's text "
                        "encoder read other tokens: give it the prompts of the call, in its order. "
                        "Where the pipeline puts words of its own around them, give no prompts, "
                        "and places instead of words."
                    )
            calls.clear()


def noting(calls: list[list[list[int]]]) -> Callable[..., None]:
    # Without kwargs where another thread takes the hook away just then, see Discovery.enter.
    def note(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> None:
        ids = bind_arguments(module, args, kwargs or {}).get("input_ids")
        if isinstance(ids, Tensor) and ids.ndim == 2:
            calls.append(ids.tolist())

    return note


def beginning(prompt_tokenizer: PromptTokenizer, prompt: EncoderInput) -> list[int]:
    """The tokens that a row of the prompt begins with, up to its end or to the first window's."""
    window = window_of(prompt_tokenizer.tokenizer)  # type: ignore[arg-type]  # of a pipeline that is not ours
    first, *more = window.chunks(prompt_tokenizer.preprocess_prompt(prompt))
    end = () if more else window.suffix[:1]
    return [*window.prefix, *(token.id for token in first.tokens), *end]


def holds(rows: Sequence[Sequence[int]], beginnings: Sequence[Sequence[int]]) -> bool:
    """Whether such rows follow one another among them."""
    return any(
        all(map(begins, rows[first:], beginnings))
        for first in range(len(rows) - len(beginnings) + 1)
    )


def begins(row: Sequence[int], start: Sequence[int]) -> bool:
    """Whether the row begins so, or was cut off on the way and given a last token there."""
    count = len(start) if len(start) < len(row) else len(row) - 1
    return list(row[:count]) == list(start[:count])
