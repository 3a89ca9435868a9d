"""Captions of a cache are what the text encoders make of them together."""

import pytest
import torch

from t2i.denoiser.build import ModelComponents
from t2i.errors import DataError, TrainingError
from tests.text import tiny_models
from tests.tiny import tiny_vae
from train.cache.caption_encoding import build_caption_encoder, encode_captions
from train.cache.shards import ShardFolder, ShardWriter
from train.cache.text_cache import CachedTextEmbeddings
from train.setup.cache_encoding import batch_captions_by_length, encode_and_cache_texts

CAPTIONS = ["", "a red apple", "cat", "a cat left of the dog " * 4, "the blue picture " * 9]
CPU = torch.device("cpu")


def components(kind: str) -> ModelComponents:
    tokenizer, model = tiny_models.clip() if kind == "two clips" else getattr(tiny_models, kind)()
    second, second_words = None, None
    if kind == "two clips":
        second_words, second = tiny_models.second_clip()
    return ModelComponents(
        vae=tiny_vae(),
        unet=None,
        text_encoder=model.eval(),
        tokenizer=tokenizer,
        text_encoder_2=second and second.eval(),
        tokenizer_2=second_words,
    )


def made(folder, parts: ModelComponents, captions=CAPTIONS, size=4) -> CachedTextEmbeddings:
    encoder = build_caption_encoder(parts)
    batches = batch_captions_by_length(parts, encoder, captions, size)
    assert sorted(caption for batch in batches for caption in batch) == sorted(captions)
    encode_and_cache_texts(
        parts, encoder, batches, size, ShardWriter(folder, 1000), lambda count: None
    )
    shards = ShardFolder(folder)
    shards.index_files()
    return CachedTextEmbeddings(shards)


@pytest.mark.parametrize("kind", ["clip", "two clips", "t5", "bert", "gpt2"])
def test_captions_of_any_lengths_are_as_encoded_together(tmp_path, kind):
    parts = components(kind)
    texts, encoder = made(tmp_path, parts), build_caption_encoder(parts)
    for rows in ([0, 1, 2], [1], [3, 0], [4, 3, 2, 1, 0], [2, 2, 4]):
        captions = [CAPTIONS[row] for row in rows]
        with torch.no_grad():
            expected = encode_captions(parts, encoder, captions)
        found = texts.read(captions, CPU)
        assert found.text_BTD.shape == expected.text_BTD.shape
        assert (found.text_BTD - expected.text_BTD).abs().max() < 1e-6
        assert (found.mask_BT is None) == (expected.mask_BT is None)
        if expected.mask_BT is not None:
            assert torch.equal(found.mask_BT, expected.mask_BT)
        assert (found.pooled_BD is None) == (expected.pooled_BD is None)
        if expected.pooled_BD is not None:
            assert (found.pooled_BD - expected.pooled_BD).abs().max() < 1e-6
    windows = {len(texts.shards.read(caption)["text"]) for caption in CAPTIONS}
    assert len(windows) > 1  # else nothing was filled up


def test_what_a_caption_becomes_does_not_depend_on_what_else_was_missing(tmp_path):
    parts = components("clip")
    whole = made(tmp_path / "whole", parts).read(CAPTIONS[1:3], CPU)
    some = made(tmp_path / "some", parts, ["", *CAPTIONS[1:3], "dog"], 4).read(CAPTIONS[1:3], CPU)
    assert torch.equal(whole.text_BTD, some.text_BTD)


def test_a_caption_that_was_not_encoded_is_named(tmp_path):
    texts = made(tmp_path, components("clip"))
    with pytest.raises(DataError, match="'a green dog' was not encoded before the run"):
        texts.read(["", "a green dog"], CPU)


def test_a_text_encoder_that_makes_no_numbers_is_refused(tmp_path):
    parts = components("clip")
    with torch.no_grad():
        next(parts.text_encoder.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"embeddings of the caption .* are not finite"):
        made(tmp_path, parts)
