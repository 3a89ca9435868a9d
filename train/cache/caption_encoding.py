"""Captions as a model's text encoders read them, learned words spelled out."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from t2i.denoiser.build import Components
from t2i.text.encoder_interface import EncodedText
from t2i.text.encoders.selection import TextEncoder, TwoClip, text_encoder
from t2i.text.learned_words import expand_learned_words


def encoder_of(components: Components) -> TextEncoder:
    """What reads the captions: one model, or SDXL's two."""
    first = text_encoder(components.tokenizer, components.text_encoder)
    if components.text_encoder_2 is None:
        return first
    assert components.tokenizer_2 is not None
    return TwoClip(first, text_encoder(components.tokenizer_2, components.text_encoder_2))


def read(components: Components, encoder: TextEncoder, captions: Sequence[str]) -> EncodedText:
    """The embeddings of captions, learned words of several vectors spelled out."""
    lines = [spelled(caption, components.tokenizer) for caption in captions]
    if not isinstance(encoder, TwoClip):
        return encoder.encode(lines, chunks=1)
    return encoder.encode(
        lines, [spelled(caption, components.tokenizer_2) for caption in captions], chunks=1
    )


def windows(components: Components, encoder: TextEncoder, captions: Sequence[str]) -> int:
    """How many the longest of the captions needs."""
    lines = [spelled(caption, components.tokenizer) for caption in captions]
    if not isinstance(encoder, TwoClip):
        return encoder.count_chunks(lines)
    second = [spelled(caption, components.tokenizer_2) for caption in captions]
    return encoder.count_chunks(lines, second)


def spelled(caption: str, tokenizer: PreTrainedTokenizerBase | None) -> str:
    """The caption with each learned word of several vectors spelled out, as the pipelines do."""
    if tokenizer is None or not tokenizer.get_added_vocab():
        return caption
    return expand_learned_words(caption, tokenizer)
