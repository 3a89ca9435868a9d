"""TextEncoder against StableDiffusionPipeline.encode_prompt, and what it says of lost words."""

import re
import warnings

import pytest
import torch

from t2i.errors import ArgumentError
from t2i.text.encoder import TextEncoder
from tests.tiny import (
    TEXT_WIDTH,
    WINDOW,
    diffusers_pipeline,
    tiny_sd_components,
    tiny_text_encoder,
    tiny_tokenizer,
)

PROMPTS = ["a red apple", "cat to the left of dog", "", "zebra, blue"]


@pytest.fixture(scope="module")
def encoder():
    tokenizer = tiny_tokenizer()
    return TextEncoder(tokenizer, tiny_text_encoder(tokenizer))


@pytest.mark.parametrize("use_attention_mask", [False, True])
@torch.no_grad()
def test_embeddings_equal_diffusers_bit_for_bit(use_attention_mask):
    components = tiny_sd_components()
    components["text_encoder"] = tiny_text_encoder(
        components["tokenizer"], use_attention_mask=use_attention_mask
    )
    encoder = TextEncoder(components["tokenizer"], components["text_encoder"])
    theirs_cond, theirs_uncond = diffusers_pipeline(components).encode_prompt(
        PROMPTS, torch.device("cpu"), 1, True, negative_prompt=["", "dog", "blue", "a"]
    )
    assert torch.equal(encoder.encode(PROMPTS), theirs_cond)
    assert torch.equal(encoder.encode(["", "dog", "blue", "a"]), theirs_uncond)


@torch.no_grad()
def test_the_attention_mask_matters_only_where_the_config_asks_for_it():
    tokenizer = tiny_tokenizer()
    plain = TextEncoder(tokenizer, tiny_text_encoder(tokenizer))
    masked = TextEncoder(tokenizer, tiny_text_encoder(tokenizer, use_attention_mask=True))
    assert not torch.equal(plain.encode(["cat"]), masked.encode(["cat"]))


@torch.no_grad()
def test_an_overlong_prompt_is_cut_as_diffusers_cuts_it(encoder):
    long = "a red apple to the left of the dog, the blue picture of the cat and a zebra"
    pipe = diffusers_pipeline(
        tiny_sd_components() | {"text_encoder": encoder.model, "tokenizer": encoder.tokenizer}
    )
    theirs, _ = pipe.encode_prompt(["cat", long], torch.device("cpu"), 1, False)
    with pytest.warns(UserWarning, match="Left out"):
        ours = encoder.encode(["cat", long])
    assert torch.equal(ours, theirs)


def test_gradients_reach_the_text_model():
    tokenizer = tiny_tokenizer()
    encoder = TextEncoder(tokenizer, tiny_text_encoder(tokenizer))
    encoder.encode(PROMPTS).sum().backward()
    gradient = encoder.model.get_input_embeddings().weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_embeddings_come_in_the_precision_of_the_model():
    tokenizer = tiny_tokenizer()
    encoder = TextEncoder(tokenizer, tiny_text_encoder(tokenizer).to(torch.bfloat16))
    assert encoder.encode(["cat"]).dtype == torch.bfloat16


@torch.no_grad()
def test_clip_skip_leaves_out_the_last_layers_but_not_the_norm(encoder):
    tokens = encoder.tokenize(PROMPTS)
    hidden = encoder.model(tokens.ids_BT, output_hidden_states=True).hidden_states
    model = getattr(encoder.model, "text_model", encoder.model)
    for skip in range(len(hidden)):
        expected = model.final_layer_norm(hidden[len(hidden) - 1 - skip])
        assert torch.equal(encoder.encode(PROMPTS, clip_skip=skip), expected)
    assert torch.equal(encoder.encode(PROMPTS, clip_skip=0), encoder.encode(PROMPTS))
    assert not torch.equal(encoder.encode(PROMPTS, clip_skip=1), encoder.encode(PROMPTS))


@torch.no_grad()
def test_rows_have_the_length_asked_for(encoder):
    assert encoder.encode(["cat"]).shape == (1, WINDOW, TEXT_WIDTH)
    assert encoder.encode(["cat"], length=5).shape == (1, 5, TEXT_WIDTH)


def test_the_window_is_the_models_where_the_tokenizer_states_none():
    tokenizer = tiny_tokenizer()
    model = tiny_text_encoder(tokenizer)
    tokenizer.model_max_length = int(1e30)
    assert TextEncoder(tokenizer, model).window == WINDOW


@pytest.mark.parametrize(
    ("prompt", "lost", "kept"),
    [
        (
            "a red apple to the left of the dog, a red cat left of the blue dog.",
            "'of', 'the', 'blue', 'dog.'",
            "a red apple to the left of the dog, a red cat left",
        ),
        ("red " * 14 + "zebra", "'zebra'", "red " * 13 + "red"),
        ("red " * 12 + "zebra cat", "'zebra', 'cat'", "red " * 11 + "red"),
        ("z" * 20, f"'{'z' * 6}'", "z" * 14),
    ],
    ids=["words", "one-word", "word-cut-in-its-middle", "no-spaces"],
)
def test_the_warning_names_the_words_that_fell_off(encoder, prompt, lost, kept):
    # 14 tokens fit between BOS and EOS; the comma is one.
    with pytest.warns(UserWarning, match=re.escape(f"Left out: {lost}. The picture is made")) as w:
        encoder.tokenize([prompt])
    assert f"{kept[-60:]}'" in str(w[0].message)


def test_the_warning_counts_what_it_does_not_spell_out(encoder):
    with pytest.warns(UserWarning, match="'red' and 88 more words"):
        encoder.tokenize(["cat " * 14 + "red " * 100])


def test_each_prompt_that_is_too_long_is_named(encoder):
    with pytest.warns(UserWarning, match="Left out") as caught:
        encoder.tokenize(["cat " * 14 + "apple", "dog", "dog " * 14 + "blue"])
    assert [w for w in ("'apple'", "'blue'") if w in "".join(str(c.message) for c in caught)] == [
        "'apple'",
        "'blue'",
    ]
    assert len(caught) == 2


def test_a_prompt_that_just_fits_draws_no_warning(encoder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = encoder.tokenize(["cat " * 14, ""])
    assert tokens.ids_BT.shape == tokens.mask_BT.shape == (2, WINDOW)
    assert tokens.mask_BT.sum(dim=1).tolist() == [WINDOW, 2]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("cat", r"single string 'cat'.*\[prompt\]"),
        (["cat", 3], "Prompt 1 is a int, expected a string"),
        ([], "empty list of prompts"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused(encoder, prompts, message):
    with pytest.raises(ArgumentError, match=message):
        encoder.encode(prompts)


def test_an_impossible_clip_skip_is_refused(encoder):
    with pytest.raises(ArgumentError, match="clip_skip=4.*3 layers.*from 0"):
        encoder.encode(["cat"], clip_skip=4)
