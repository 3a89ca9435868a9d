"""Prompts longer than the window: where they are cut, and that nothing is lost unnamed."""

import pytest
import torch

from t2i.errors import ArgumentError
from t2i.text.encoders.selection import select_text_encoder
from t2i.text.prompt import Prompt
from tests.text.tiny_models import MODELS, clip
from tests.tiny import TEXT_WIDTH, WINDOW


@pytest.fixture(scope="module")
def encoder():
    return select_text_encoder(*clip())


def pieces(encoder, prompt):
    """The text of each chunk."""
    texts = prompt.section_texts if hasattr(prompt, "section_texts") else [prompt]
    return [
        texts[chunk.section][chunk.tokens[0].start : chunk.tokens[-1].end] if chunk.tokens else ""
        for chunk in encoder.token_window.tokenize_into_chunks(prompt)
    ]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", [""]),
        ("cat " * 14, ["cat " * 13 + "cat"]),
        ("cat " * 15, ["cat " * 13 + "cat", "cat"]),
        ("red " * 8 + "cat, " + "dog " * 10, ["red " * 8 + "cat,", "dog " * 9 + "dog"]),
        ("red " * 12 + "zebra", ["red " * 11 + "red", "zebra"]),
        ("z" * 20, ["z" * 14, "z" * 6]),
        ("cat " * 13 + ", dog", ["cat " * 13 + ",", "dog"]),
    ],
    ids=["empty", "full", "one-more", "after-a-comma", "before-a-word", "no-spaces", "at-the-end"],
)
def test_a_cut_falls_after_a_comma_or_before_a_word(encoder, prompt, expected):
    assert pieces(encoder, prompt) == expected


def test_a_comma_further_back_than_twenty_tokens_is_no_place_for_a_cut():
    tokenizer, model = MODELS["t5"]()  # no last position: its window can be longer
    tokenizer.model_max_length = 41
    encoder = select_text_encoder(tokenizer, model)
    near = "cat, " + "dog " * 40
    assert pieces(encoder, "cat " * 20 + near)[0].endswith(",")
    assert not pieces(encoder, "cat " * 10 + near)[0].endswith(",")


@pytest.mark.parametrize("family", MODELS)
def test_every_token_of_a_long_prompt_is_in_one_chunk(family):
    encoder = select_text_encoder(*MODELS[family]())
    prompt = "a red apple, cat to the left of the zebra. " * 6
    ids = [
        token.id
        for chunk in encoder.token_window.tokenize_into_chunks(prompt)
        for token in chunk.tokens
    ]
    assert ids == encoder.tokenizer(prompt, add_special_tokens=False).input_ids


@pytest.mark.parametrize("family", MODELS)
@torch.no_grad()
def test_each_chunk_is_encoded_as_a_prompt_of_its_own(family):
    encoder = select_text_encoder(*MODELS[family]())
    prompt = Prompt("a red cat BREAK blue dog").texts_at_step(0, 1)[0][0]
    ours = encoder.encode([prompt])
    parts = encoder.encode(["a red cat", "blue dog"])
    assert ours.text_BTD.shape == (1, 2 * WINDOW, TEXT_WIDTH)
    assert torch.equal(ours.text_BTD[0], parts.text_BTD.flatten(0, 1))
    if parts.mask_BT is not None:
        assert torch.equal(ours.mask_BT[0], parts.mask_BT.flatten())


@pytest.mark.parametrize("family", MODELS)
@torch.no_grad()
def test_shorter_prompts_are_filled_up_with_empty_chunks(family):
    encoder = select_text_encoder(*MODELS[family]())
    ours = encoder.encode(["cat", "cat BREAK dog"], chunks=3)
    empty = encoder.encode(["cat", "", ""]).text_BTD.flatten(0, 1)
    assert ours.text_BTD.shape == (2, 3 * WINDOW, TEXT_WIDTH)
    assert torch.allclose(ours.text_BTD[0], empty, atol=1e-6)
    if ours.mask_BT is not None:
        # Nobody looks at what only fills up.
        assert not ours.mask_BT[0, WINDOW:].any()
        assert ours.mask_BT[0, :WINDOW].any()


def test_chunks_are_counted_for_rows_that_must_match(encoder):
    assert encoder.count_chunks_of_longest(["cat", "cat " * 30]) == 3
    assert encoder.encode(["dog"], chunks=3).text_BTD.shape[1] == 3 * WINDOW
    # At least as many: the longest prompt decides.
    assert encoder.encode(["cat " * 30], chunks=2).text_BTD.shape[1] == 3 * WINDOW


@pytest.mark.parametrize("chunks", [0, 33])
def test_an_impossible_number_of_chunks_is_refused(encoder, chunks):
    with pytest.raises(ArgumentError, match=f"chunks={chunks}: choose a number from 1 to 32"):
        encoder.encode(["cat"], chunks=chunks)


def test_more_than_32_chunks_are_refused_by_naming_the_words(encoder):
    text = "cat " * (32 * 14) + "zebra dog"
    with pytest.raises(
        ArgumentError, match=r"fills 33 windows of 16.*would be lost: 'zebra', 'dog'. Shorten"
    ):
        encoder.encode([text])
    assert encoder.count_chunks_of_longest(["cat " * (32 * 14)]) == 32
