"""The prompts of a session, and their tokens at the current step."""

from collections.abc import Sequence

from t2i.attention.prompts.prompt_tokens import (
    PromptTokenizer,
    PromptTokens,
    RequestedWords,
    as_prompt_tuple,
)
from t2i.attention.session.checks import check_attend_prompts_match_pipeline
from t2i.text.token_windows import EncoderInput


class SessionPrompts:
    """Prompts of an attention session, given to attend() or by the pipeline; they are tokenized
    again whenever they change.

    Raises ArgumentError for prompts that are no list of prompts.
    """

    def __init__(
        self, prompts: Sequence[EncoderInput] | None, tokenizers: tuple[PromptTokenizer, ...]
    ) -> None:
        self.given = None if prompts is None else as_prompt_tuple(prompts)
        """The prompts that attend() was given."""
        self.tokens = None if self.given is None else PromptTokens(self.given, tokenizers)
        """Tokens of the current prompts; None as long as no prompts are known."""
        self._tokenizers = tokenizers
        self._has_run = False

    def update_prompts_and_tokenize(
        self, of_pipeline: Sequence[EncoderInput] | None, num_prompts: int, begins_run: bool
    ) -> PromptTokens | None:
        """Set the prompts of a denoiser pass; return their tokens if the prompts have changed, else
        None.

        Raises ArgumentError for prompts other than those of attend(), and at the end of a run for
        a word that no prompt of the run had.
        """
        prompts = tuple(of_pipeline or ())
        check_attend_prompts_match_pipeline(self.given, prompts)
        prompts = prompts or self.given or ()
        before = self.tokens
        if before is not None and not begins_run and prompts == before.prompts:
            return None
        if begins_run:
            self.check_requested_words()
        requested_words = (
            RequestedWords() if begins_run or before is None else before.requested_words
        )
        self.tokens = PromptTokens(prompts, self._tokenizers, requested_words, num_prompts)
        self._has_run = True
        return self.tokens

    def check_requested_words(self) -> None:
        """Raise ArgumentError for a word of a probe or an edit that its prompt contained at no step
        of the last run.
        """
        if self.tokens is not None and self._has_run:
            self.tokens.requested_words.check_all_found()
