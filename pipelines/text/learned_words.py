"""Loading of learned words through diffusers' loader: whole words only, and none that is known."""

from collections.abc import Sequence
from typing import Any

from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from t2i.errors import ArgumentError, ModelError
from t2i.text.learned_words import (
    adding_tokens_as_whole_words,
    expand_learned_words,
    is_known_to_tokenizer,
)

WRONG_WIDTH_MESSAGE = "Loaded embeddings are of incorrect shape"
"""Start of the message of diffusers' loader."""


class LearnedWordsMixin(TextualInversionLoaderMixin):
    """Mixin that loads learned words into a pipeline and expands them in prompts."""

    def load_textual_inversion(
        self,
        pretrained_model_name_or_path: Any,
        token: str | list[str] | None = None,
        tokenizer: Any = None,
        text_encoder: Any = None,
        **kwargs: Any,
    ) -> None:
        """Load learned words as diffusers does, but as whole words: "zun" is not in "zunflower".

        Raises ArgumentError for a word that the model knows already, ModelError for vectors of
        another width than its own.
        """
        pipe: Any = self
        tokenizer = tokenizer or getattr(pipe, "tokenizer", None)
        text_encoder = text_encoder or getattr(pipe, "text_encoder", None)
        if tokenizer is None or text_encoder is None:
            raise ArgumentError(
                "This pipeline has no text_encoder and tokenizer of those names: give those that "
                "the word is loaded into, as text_encoder=... and tokenizer=..."
            )
        try:
            with adding_tokens_as_whole_words(tokenizer):
                super().load_textual_inversion(
                    pretrained_model_name_or_path, token, tokenizer, text_encoder, **kwargs
                )
        except ValueError as error:
            if isinstance(error, ArgumentError) or not str(error).startswith(WRONG_WIDTH_MESSAGE):
                raise
            width = text_encoder.get_input_embeddings().weight.shape[-1]
            raise ModelError(
                f"The vectors of the learned word are not {width} wide, as those of the text "
                "encoder are: choose a word that was learned with a model of this kind."
            ) from error

    @staticmethod
    def _retrieve_tokens_and_embeddings(
        tokens: Sequence[str | None], state_dicts: Sequence[Any], tokenizer: PreTrainedTokenizerBase
    ) -> tuple[list[str], list[Tensor]]:
        find: Any = TextualInversionLoaderMixin._retrieve_tokens_and_embeddings
        words, vectors = find(tokens, state_dicts, tokenizer)
        for word in words:
            check_word_is_new(word, tokenizer)
        return words, vectors

    def maybe_convert_prompt(
        self, prompt: str | list[str], tokenizer: PreTrainedTokenizerBase
    ) -> str | list[str]:
        """Replace each learned word of several vectors in a prompt by all its tokens, as <mug>
        <mug>_1.
        """
        if isinstance(prompt, str):
            return expand_learned_words(prompt, tokenizer)
        return [expand_learned_words(text, tokenizer) for text in prompt]


def check_word_is_new(word: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ArgumentError for a word that the tokenizer knows already."""
    if is_known_to_tokenizer(word, tokenizer):
        raise ArgumentError(
            f"The model knows the word {word!r:.80} already, and every prompt that contains it "
            "would change: give it another name, as "
            f"token='<{word.strip('<>'):.80}-2>'."
        )
