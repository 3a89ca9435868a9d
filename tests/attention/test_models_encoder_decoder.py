"""Encoder-decoders of transformers, for translation and speech, attended to."""

import pytest
import torch
from transformers import (
    MarianConfig,
    MarianMTModel,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from t2i.attention import Reweight, attend
from t2i.errors import AttentionError
from tests.attention.by_hand import asked, assert_maps, edited
from tests.text.tiny_models import unigram

SENTENCES = ["the red apple", "the dog"]
TARGET = 7
LAYERS = 2
FRAMES = 30


@pytest.fixture(scope="module")
def tokenizer():
    return unigram()


def marian(tokenizer, **config):
    torch.manual_seed(0)
    return MarianMTModel(
        MarianConfig(
            vocab_size=len(tokenizer),
            d_model=32,
            encoder_layers=LAYERS,
            decoder_layers=LAYERS,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_position_embeddings=64,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
            **config,
        )
    ).eval()


@pytest.fixture(scope="module")
def translation(tokenizer):
    return marian(tokenizer)


@pytest.fixture(scope="module")
def speech():
    torch.manual_seed(0)
    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=60,
            num_mel_bins=8,
            d_model=32,
            encoder_layers=LAYERS,
            decoder_layers=LAYERS,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_source_positions=FRAMES,
            max_target_positions=40,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=3,
        )
    ).eval()


@pytest.fixture(scope="module")
def read(tokenizer):
    return tokenizer(SENTENCES, padding=True, return_tensors="pt")


@torch.no_grad()
def translate(model, read, target=TARGET):
    written = torch.arange(2 * target).view(2, target) % 40
    return model(
        input_ids=read.input_ids, attention_mask=read.attention_mask, decoder_input_ids=written
    ).logits


def test_maps_of_a_source_word_lie_over_the_target(translation, tokenizer, read):
    with asked(translation) as calls:
        plain = translate(translation, read)
    keys = read.input_ids.shape[1]
    crossing = [call for call in calls if call.query_BNQE.shape[2] != call.keys]
    with attend(translation, prompts=SENTENCES, tokenizer=tokenizer) as attn:
        maps = [attn.probe("apple"), attn.probe("dog", prompt=1)]
        assert torch.equal(translate(translation, read), plain)
        assert_maps(attn, maps[0], "apple", crossing, keys, 0, (2,))
        assert_maps(attn, maps[1], "dog", crossing, keys, 1, (1,))
    assert maps[0]["apple"].shape == (1, TARGET)
    assert len(maps[0].sites) == LAYERS


def test_edits_act_on_a_translation(translation, tokenizer, read):
    keys = read.input_ids.shape[1]

    def by_hand(probs_BNQK):
        if probs_BNQK.shape[2] == TARGET:  # not of the encoder
            probs_BNQK[1, ..., 1] *= 3
        return probs_BNQK

    plain = translate(translation, read)
    with edited(translation, keys, by_hand, [0]):
        expected = translate(translation, read)
    with attend(translation, prompts=SENTENCES, tokenizer=tokenizer) as attn:
        attn.edit(Reweight(target=1, weights={"dog": 3.0}))
        made = translate(translation, read)
    assert torch.equal(made[0], plain[0])
    assert (made - expected).abs().max() < 1e-5
    assert (expected - plain).abs().max() > 1e-3


def test_generating_with_a_cache_is_refused_with_the_remedies(translation, tokenizer, read):
    def generate(**call):
        return translation.generate(
            read.input_ids,
            attention_mask=read.attention_mask,
            max_new_tokens=4,
            num_beams=1,
            **call,
        )

    def run():
        with attend(translation, prompts=SENTENCES, tokenizer=tokenizer) as attn:
            attn.probe("apple")
            generate()

    plain = generate()
    with pytest.raises(AttentionError, match=r"after 1 .* in a cache.*use_cache=False"):
        run()
    assert torch.equal(generate(), plain)


def test_generating_without_a_cache_shows_the_whole_target(translation, tokenizer, read):
    with attend(translation, prompts=SENTENCES, tokenizer=tokenizer) as attn:
        generating = attn.probe("apple", convention="mean")
        written = translation.generate(
            read.input_ids,
            attention_mask=read.attention_mask,
            max_new_tokens=4,
            num_beams=1,
            use_cache=False,
        )
    with attend(translation, prompts=SENTENCES, tokenizer=tokenizer) as attn, torch.no_grad():
        reading = attn.probe("apple", convention="mean")
        translation(**read, decoder_input_ids=written[:, :-1])
    assert generating["apple"].shape == (1, written.shape[1] - 1)
    assert torch.allclose(generating["apple"], reading["apple"], atol=1e-6)


def test_eager_attention_is_refused_with_the_remedy(tokenizer, read):
    model = marian(tokenizer, attn_implementation="eager")

    def run():
        with attend(model, prompts=SENTENCES, tokenizer=tokenizer) as attn:
            attn.probe("apple")
            translate(model, read)

    with pytest.raises(AttentionError, match=r"6 attention modules .* attn_implementation='sdpa'"):
        run()
    model.set_attn_implementation("sdpa")
    run()


def test_frames_of_speech_are_asked_by_their_places(speech):
    features, written = torch.randn(1, 8, 2 * FRAMES), torch.tensor([[3, 7, 8, 9, 10]])

    @torch.no_grad()
    def listen():
        return speech(input_features=features, decoder_input_ids=written).logits

    with asked(speech) as calls:
        plain = listen()
    crossing = [call for call in calls if call.query_BNQE.shape[2] != call.keys]
    with attend(speech) as attn:
        maps = attn.probe((10, 11))
        assert torch.equal(listen(), plain)
        assert_maps(attn, maps, "(10, 11)", crossing, FRAMES, 0, (10, 11))
    assert maps["(10, 11)"].shape == (1, 5)
