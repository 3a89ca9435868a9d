"""Token ids that reached a pipeline's text encoders, to check a session's prompts against."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from t2i.attention.hooks.forward_arguments import bind_arguments
from t2i.attention.prompts.prompt_tokenizers import find_prompt_tokenizers
from t2i.attention.prompts.prompt_tokens import PromptTokenizer
from t2i.errors import ArgumentError
from t2i.text.token_windows import EncoderInput, build_token_window

TEXT_ENCODER_SUFFIXES = ("", "_2", "_3")
_is_paused: ContextVar[bool] = ContextVar("is_paused", default=False)
"""True while this thread encodes a text that is none of the run's prompts."""


@contextmanager
def pausing_token_recording() -> Iterator[None]:
    """Pause the recording of token ids within the block, for texts that a text encoder reads but
    that are none of the run's prompts.
    """
    token = _is_paused.set(True)
    try:
        yield
    finally:
        _is_paused.reset(token)


class EncodedTokenRecorder:
    """Recorder of the token ids that each text encoder of a pipeline has read since the last run
    began.
    """

    def __init__(self, pipeline: Any) -> None:
        self._encoders: list[tuple[PromptTokenizer, nn.Module, list[list[list[int]]]]] = []
        for prompt_tokenizer in () if pipeline is None else find_prompt_tokenizers(pipeline, None):
            for part in TEXT_ENCODER_SUFFIXES:
                encoder = getattr(pipeline, f"text_encoder{part}", None)
                own = getattr(pipeline, f"tokenizer{part}", None) is prompt_tokenizer.tokenizer
                if own and isinstance(encoder, nn.Module):
                    self._encoders.append((prompt_tokenizer, encoder, []))
                    break

    def install_hooks(self, stack: ExitStack) -> None:
        """Register hooks on the text encoders that record the token ids they read, until the stack
        is closed.
        """
        for _, encoder, calls in self._encoders:
            stack.callback(
                encoder.register_forward_pre_hook(_recording_hook(calls), with_kwargs=True).remove
            )

    def check_prompts_were_encoded(self, prompts: Sequence[EncoderInput] | None) -> None:
        """Raise ArgumentError if a text encoder has read texts since the last run began, but not
        the prompts given to attend(); discard the recorded token ids.
        """
        for prompt_tokenizer, _, calls in self._encoders:
            if calls and prompts and all(isinstance(prompt, str) for prompt in prompts):
                beginnings = [_first_tokens(prompt_tokenizer, prompt) for prompt in prompts]
                if not any(_contains(rows, beginnings) for rows in calls):
                    raise ArgumentError(
                        f"attend() got the prompts {list(prompts)}, but the pipeline's text "
                        "encoder read other tokens: give it the prompts of the call, in its order. "
                        "Where the pipeline puts words of its own around them, give no prompts, "
                        "and places instead of words."
                    )
            calls.clear()


def _recording_hook(calls: list[list[list[int]]]) -> Callable[..., None]:
    # Without kwargs where another thread takes the hook away just then: SiteDiscovery.enter_module.
    def note(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> None:
        if _is_paused.get():
            return
        ids = bind_arguments(module, args, kwargs or {}).get("input_ids")
        if isinstance(ids, Tensor) and ids.ndim == 2:
            calls.append(ids.tolist())

    return note


def _first_tokens(prompt_tokenizer: PromptTokenizer, prompt: EncoderInput) -> list[int]:
    """Return the token ids of a prompt, up to its end or to the end of the first window."""
    window = build_token_window(prompt_tokenizer.tokenizer)  # type: ignore[arg-type]  # of a pipeline that is not ours
    first, *more = window.tokenize_into_chunks(prompt_tokenizer.preprocess_prompt(prompt))
    end = () if more else window.suffix[:1]
    return [*window.prefix, *(token.id for token in first.tokens), *end]


def _contains(rows: Sequence[Sequence[int]], beginnings: Sequence[Sequence[int]]) -> bool:
    """Return True if consecutive rows begin with these tokens."""
    return any(
        all(map(_starts_with, rows[first:], beginnings))
        for first in range(len(rows) - len(beginnings) + 1)
    )


def _starts_with(row: Sequence[int], start: Sequence[int]) -> bool:
    """Return True if the row begins with these tokens, or with those that fit before its last."""
    count = len(start) if len(start) < len(row) else len(row) - 1
    return list(row[:count]) == list(start[:count])
