"""Encoding captions with a model's text encoders, learned words spelled out."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from t2i.denoiser.build import ModelComponents
from t2i.text.encoder_interface import EncodedText
from t2i.text.encoders.selection import TextEncoder, TwoClip, select_text_encoder
from t2i.text.learned_words import expand_learned_words
from t2i.text.word_spans import Span, find_token_spans_of_character_ranges


def build_caption_encoder(components: ModelComponents) -> TextEncoder:
    """Build the encoder of captions from a model's text encoders; SDXL's two as one."""
    first = select_text_encoder(components.tokenizer, components.text_encoder)
    if components.text_encoder_2 is None:
        return first
    assert components.tokenizer_2 is not None
    return TwoClip(first, select_text_encoder(components.tokenizer_2, components.text_encoder_2))


def encode_captions(
    components: ModelComponents, encoder: TextEncoder, captions: Sequence[str]
) -> EncodedText:
    """Encode captions with a model's text encoders, each learned word of several vectors
    expanded.
    """
    lines = [expand_learned_words_in_caption(caption, components.tokenizer) for caption in captions]
    if not isinstance(encoder, TwoClip):
        return encoder.encode(lines, chunks=1)
    return encoder.encode(
        lines,
        [expand_learned_words_in_caption(caption, components.tokenizer_2) for caption in captions],
        chunks=1,
    )


def count_windows_of_longest_caption(
    components: ModelComponents, encoder: TextEncoder, captions: Sequence[str]
) -> int:
    """Count the windows of the text encoder that the longest of the captions needs."""
    lines = [expand_learned_words_in_caption(caption, components.tokenizer) for caption in captions]
    if not isinstance(encoder, TwoClip):
        return encoder.count_chunks_of_longest(lines)
    second = [
        expand_learned_words_in_caption(caption, components.tokenizer_2) for caption in captions
    ]
    return encoder.count_chunks_of_longest(lines, second)


def expand_learned_words_in_caption(caption: str, tokenizer: PreTrainedTokenizerBase | None) -> str:
    """Return the caption with each learned word of several vectors replaced by its tokens, as the
    pipelines do.
    """
    if tokenizer is None or not tokenizer.get_added_vocab():
        return caption
    return expand_learned_words(caption, tokenizer)


def find_caption_token_spans(
    encoder: TextEncoder,
    tokenizer: PreTrainedTokenizerBase,
    caption: str,
    spans: Sequence[tuple[int, int]],
) -> tuple[Span, ...]:
    """Return the token positions of character spans of a caption, learned words expanded."""
    expanded = [
        (
            len(expand_learned_words_in_caption(caption[:start], tokenizer)),
            len(expand_learned_words_in_caption(caption[:end], tokenizer)),
        )
        for start, end in spans
    ]
    return find_token_spans_of_character_ranges(
        encoder, expand_learned_words_in_caption(caption, tokenizer), expanded
    )
