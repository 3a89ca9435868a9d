"""Clip against StableDiffusionPipeline.encode_prompt, and what it says of lost words."""

import re
import warnings

import pytest
import torch

from t2i.errors import ArgumentError
from t2i.text.encoders.selection import Clip, select_text_encoder
from t2i.text.prompt import Prompt
from tests.text.tiny_models import clip, second_clip
from tests.tiny import (
    TEXT_WIDTH,
    WINDOW,
    diffusers_pipeline,
    tiny_sd_components,
    tiny_text_encoder,
    tiny_tokenizer,
)

PROMPTS = ["a red apple", "cat to the left of dog", "", "zebra, blue"]
LONG = "a red apple to the left of the dog, the blue picture of the cat and a zebra"


@pytest.fixture(scope="module")
def encoder():
    return select_text_encoder(*clip())


@pytest.mark.parametrize("use_attention_mask", [False, True])
@torch.no_grad()
def test_embeddings_equal_diffusers_bit_for_bit(use_attention_mask):
    components = tiny_sd_components()
    components["text_encoder"] = tiny_text_encoder(
        components["tokenizer"], use_attention_mask=use_attention_mask
    )
    encoder = Clip(components["tokenizer"], components["text_encoder"])
    theirs_cond, theirs_uncond = diffusers_pipeline(components).encode_prompt(
        PROMPTS, torch.device("cpu"), 1, True, negative_prompt=["", "dog", "blue", "a"]
    )
    assert torch.equal(encoder.encode(PROMPTS).text_BTD, theirs_cond)
    assert torch.equal(encoder.encode(["", "dog", "blue", "a"]).text_BTD, theirs_uncond)


@torch.no_grad()
def test_the_attention_mask_matters_only_where_the_config_asks_for_it():
    tokenizer = tiny_tokenizer()
    plain = Clip(tokenizer, tiny_text_encoder(tokenizer)).encode(["cat"])
    masked = Clip(tokenizer, tiny_text_encoder(tokenizer, use_attention_mask=True)).encode(["cat"])
    assert not torch.equal(plain.text_BTD, masked.text_BTD)
    assert plain.mask_BT is masked.mask_BT is None


@torch.no_grad()
def test_a_prompt_cut_to_the_length_of_a_window_is_cut_as_diffusers_cuts_it(encoder):
    pipe = diffusers_pipeline(
        tiny_sd_components() | {"text_encoder": encoder.model, "tokenizer": encoder.tokenizer}
    )
    theirs, _ = pipe.encode_prompt(["cat", LONG], torch.device("cpu"), 1, False)
    with pytest.warns(UserWarning, match="Left out"):
        ours = encoder.encode(["cat", LONG], length=WINDOW)
    assert torch.equal(ours.text_BTD, theirs)


def test_gradients_reach_the_text_model():
    encoder = select_text_encoder(*clip())
    encoder.encode(PROMPTS).text_BTD.sum().backward()
    gradient = encoder.model.get_input_embeddings().weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_embeddings_come_in_the_precision_of_the_model():
    tokenizer, model = clip()
    encoder = select_text_encoder(tokenizer, model.to(torch.bfloat16))
    weighted = Prompt("a (cat:1.3)").texts_at_step(0, 1)[0][0]
    assert encoder.encode(["cat"]).text_BTD.dtype == torch.bfloat16
    assert encoder.encode([weighted]).text_BTD.dtype == torch.bfloat16


@torch.no_grad()
def test_clip_skip_leaves_out_the_last_layers_but_not_the_norm(encoder):
    tokens = encoder.tokenize(PROMPTS)
    hidden = encoder.model(tokens.ids_RW, output_hidden_states=True).hidden_states
    model = getattr(encoder.model, "text_model", encoder.model)
    whole = encoder.encode(PROMPTS).text_BTD
    for skip in range(len(hidden)):
        expected = model.final_layer_norm(hidden[len(hidden) - 1 - skip])
        assert torch.equal(encoder.encode(PROMPTS, clip_skip=skip).text_BTD, expected)
    assert torch.equal(encoder.encode(PROMPTS, clip_skip=0).text_BTD, whole)
    assert not torch.equal(encoder.encode(PROMPTS, clip_skip=1).text_BTD, whole)


@torch.no_grad()
def test_a_projection_gives_pooled_vectors_too():
    tokenizer, model = second_clip()
    encoder = select_text_encoder(tokenizer, model)
    ids = tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(encoder.encode(PROMPTS).pooled_BD, model(ids).text_embeds)
    assert select_text_encoder(*clip()).encode(PROMPTS).pooled_BD is None


@torch.no_grad()
def test_rows_have_the_length_asked_for(encoder):
    assert encoder.encode(["cat"]).text_BTD.shape == (1, WINDOW, TEXT_WIDTH)
    assert encoder.encode(["cat"], length=5).text_BTD.shape == (1, 5, TEXT_WIDTH)
    assert encoder.encode(["cat"], length=3 * WINDOW).text_BTD.shape == (1, 3 * WINDOW, TEXT_WIDTH)


@pytest.mark.parametrize("length", [0, 2, -1, WINDOW + 1, 33 * WINDOW])
def test_an_impossible_length_is_refused(encoder, length):
    with pytest.raises(
        ArgumentError, match=f"length={length}: rows have a multiple of 16.*3 to 16"
    ):
        encoder.encode(["cat"], length=length)


def test_the_window_is_the_models_where_the_tokenizer_states_none():
    tokenizer, model = clip()
    tokenizer.model_max_length = int(1e30)
    assert select_text_encoder(tokenizer, model).window_size == WINDOW


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
        encoder.tokenize([prompt], length=WINDOW)
    assert f"{kept[-60:]}'" in str(w[0].message)


def test_the_warning_counts_what_it_does_not_spell_out(encoder):
    with pytest.warns(UserWarning, match="'red' and 88 more words"):
        encoder.tokenize(["cat " * 14 + "red " * 100], length=WINDOW)


def test_each_prompt_that_is_too_long_is_named(encoder):
    with pytest.warns(UserWarning, match="Left out") as caught:
        encoder.tokenize(["cat " * 14 + "apple", "dog", "dog " * 14 + "blue"], length=WINDOW)
    assert ["'apple'" in str(caught[0].message), "'blue'" in str(caught[1].message)] == [True, True]
    assert len(caught) == 2


def test_words_lost_from_several_windows_and_sections_are_named(encoder):
    prompt = Prompt("red, " * 9 + "cat " * 12 + "BREAK blue dog").texts_at_step(0, 1)[0][0]
    with pytest.warns(UserWarning, match=r"Left out: 'cat', 'cat', 'blue', 'dog'\. The picture"):
        tokens = encoder.tokenize([prompt], length=2 * WINDOW)
    assert tokens.mask_RW.sum().item() == 2 * WINDOW
    with pytest.warns(UserWarning, match=r"Left out: 'blue', 'dog'\. The picture"):
        encoder.tokenize([Prompt("cat BREAK blue dog").texts_at_step(0, 1)[0][0]], length=WINDOW)


def test_a_prompt_that_just_fits_draws_no_warning(encoder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = encoder.tokenize(["cat " * 14, ""], length=WINDOW)
    assert tokens.ids_RW.shape == tokens.mask_RW.shape == (2, WINDOW)
    assert tokens.mask_RW.sum(dim=1).tolist() == [WINDOW, 2]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("cat", r"single string 'cat'.*\[prompt\]"),
        (["cat", 3], "Prompt 1 is a int, expected a string"),
        ([Prompt("cat")], r"Prompt 0 is a Prompt.*prompt.texts_at_step\(step, steps\)"),
        (["a" * 20_001], "Prompt 0 has 20,001 characters; at most 20,000"),
        (["a \ud800"], "Prompt 0 has half a character at 2"),
        ([], "empty list of prompts"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused(encoder, prompts, message):
    with pytest.raises(ArgumentError, match=message):
        encoder.encode(prompts)


def test_an_impossible_clip_skip_is_refused(encoder):
    with pytest.raises(ArgumentError, match=r"clip_skip=4.*3 layers.*from 0"):
        encoder.encode(["cat"], clip_skip=4)
