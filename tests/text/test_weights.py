"""What weights do to embeddings: the formulas, and nothing at weight 1."""

import pytest
import torch

from t2i.text.encoders.clip import find_final_norm
from t2i.text.encoders.embedding_weights import weight_and_restore_mean, weight_away_from_empty
from t2i.text.encoders.selection import select_text_encoder
from t2i.text.prompt import Prompt
from tests.text.tiny_models import MODELS, clip

MODES = ["a1111", "comfy"]


def at_start(text, **options):
    return Prompt(text, **options).texts_at_step(0, 20)[0][0]


@pytest.fixture(scope="module")
def encoder():
    tokenizer, model = clip()
    # As trained ones have: without a bias the mean of all embeddings is zero.
    torch.nn.init.normal_(find_final_norm(model).bias, 0.3, 0.3)
    return select_text_encoder(tokenizer, model)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", MODELS)
@torch.no_grad()
def test_weights_of_one_are_the_plain_prompt_bit_for_bit(family, mode):
    encoder = select_text_encoder(*MODELS[family]())
    plain = "a red apple, to the left of  zebra."
    ones = at_start("(a:1.0) [(red)] apple, to (the:1) [left:x:0.5] of  ze(bra:1.).", weights=mode)
    heavy = at_start("(dog:1.4)", weights=mode)
    assert ones.section_texts == (plain,)
    theirs = encoder.encode([plain])
    assert torch.equal(encoder.encode([ones]).text_BTD, theirs.text_BTD)
    # A weighted neighbour in the batch changes nothing either.
    pair = encoder.encode(["dog", plain]).text_BTD
    assert torch.equal(encoder.encode([heavy, ones]).text_BTD[1], pair[1])


@torch.no_grad()
def test_a1111_weights_multiply_and_keep_the_mean_of_the_window(encoder):
    plain = encoder.encode(["a red cat"]).text_BTD
    ours = encoder.encode([at_start("a (red:1.5) cat")]).text_BTD
    weights_T1 = torch.ones(plain.shape[1], 1)
    weights_T1[2] = 1.5  # BOS, a, red
    multiplied = plain * weights_T1
    expected = multiplied * (plain.mean() / multiplied.mean())
    assert torch.allclose(ours, expected, atol=1e-6)
    assert torch.allclose(ours.mean(), plain.mean(), atol=1e-6)


@torch.no_grad()
def test_a_mean_that_is_only_rounding_is_no_measure():
    encoder = select_text_encoder(*clip())
    plain = encoder.encode(["a red cat"]).text_BTD
    assert plain.mean().abs() < 1e-6
    for weight in (0.5, 1.5, 2.0):
        ours = encoder.encode([at_start(f"a (red:{weight}) cat")]).text_BTD
        assert torch.allclose(ours[:, 2], weight * plain[:, 2])
        assert torch.equal(ours[:, 3:], plain[:, 3:])


@pytest.mark.parametrize("act", [weight_and_restore_mean, weight_away_from_empty])
def test_weights_keep_the_precision_of_doubles(act):
    text_RWD = torch.randn(1, 2, 3, dtype=torch.float64)
    weight_RW = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    empty = () if act is weight_and_restore_mean else (torch.zeros(2, 3, dtype=torch.float64),)
    ours = act(text_RWD, weight_RW, *empty)
    ratio = ours / (text_RWD * weight_RW[..., None])
    assert torch.allclose(ratio, ratio[0, 0, 0].expand_as(ratio), rtol=1e-12, atol=0)


@torch.no_grad()
def test_comfy_weights_lie_on_the_line_from_the_empty_prompt(encoder):
    plain, empty = encoder.encode(["a red cat"]).text_BTD, encoder.encode([""]).text_BTD
    ours = encoder.encode([at_start("a (red:1.5) cat", dialect="comfy")]).text_BTD
    expected = plain.clone()
    expected[:, 2] = empty[:, 2] + 1.5 * (plain[:, 2] - empty[:, 2])
    assert torch.allclose(ours, expected, atol=1e-6)
    others = [0, 1, *range(3, plain.shape[1])]
    assert torch.equal(ours[:, others], plain[:, others])


@torch.no_grad()
def test_both_ways_may_stand_in_one_batch(encoder):
    prompts = [at_start("a (red:1.5) cat", weights=mode) for mode in MODES]
    both = encoder.encode(prompts).text_BTD
    for row, prompt in zip(both, prompts, strict=True):
        assert torch.allclose(row, encoder.encode([prompt]).text_BTD[0], atol=1e-5)


@torch.no_grad()
def test_masked_models_keep_the_mean_of_what_is_looked_at():
    encoder = select_text_encoder(*MODELS["t5"]())
    plain, ours = encoder.encode(["a red cat"]), encoder.encode([at_start("a (red:1.5) cat")])
    seen = plain.mask_BT
    assert torch.allclose(ours.text_BTD[seen].mean(), plain.text_BTD[seen].mean(), atol=1e-6)
    assert not torch.allclose(ours.text_BTD[seen], plain.text_BTD[seen], atol=1e-3)


@torch.no_grad()
def test_a_row_does_not_depend_on_the_other_prompts_of_its_batch(encoder):
    ours = at_start("a (red:1.5) cat")
    alone = encoder.encode([ours, "dog"]).text_BTD[0]
    beside = encoder.encode([ours, at_start("(blue:2) dog")]).text_BTD[0]
    assert torch.equal(alone, beside)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a (red:2) cat", [1, 2, 1]),
        ("(a red:2) cat", [2, 2, 1]),
        ("(re:2)(d:3)", [7 / 3]),
        ("r(ed:2)", [5 / 3]),
        ("(red:2) BREAK (cat:3)", [2, 3]),
        ("((cat:2) dog:1.5)", [3, 1.5]),
        ("(, :1.2) cat", [1.2, 1]),
    ],
)
def test_tokens_get_the_weight_of_their_letters(encoder, text, expected):
    chunks = encoder.token_window.tokenize_into_chunks(at_start(text))
    weights = [token.weight for chunk in chunks for token in chunk.tokens]
    assert weights == pytest.approx(expected)


@pytest.mark.parametrize("family", MODELS)
def test_no_family_gives_a_word_the_weight_of_the_space_before_it(family):
    layout = select_text_encoder(*MODELS[family]()).token_window
    (chunk,) = layout.tokenize_into_chunks(at_start("red (cat:2) dog"))
    text = "red cat dog"
    for token in chunk.tokens:
        letters = text[token.start : token.end].strip()
        if letters:
            assert token.weight == (2 if letters in "cat" else 1)
