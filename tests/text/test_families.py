"""One interface over real transformers models: each reads as the model itself does."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    BertForMaskedLM,
    GPT2LMHeadModel,
    MT5EncoderModel,
    T5EncoderModel,
    T5Model,
    UMT5EncoderModel,
    ViTConfig,
    ViTModel,
)

from t2i.errors import ArgumentError
from t2i.text.encoders.bert import Bert
from t2i.text.encoders.causal import Causal
from t2i.text.encoders.selection import (
    ENCODER_CLASS_BY_MODEL_TYPE,
    TextEncoder,
    select_text_encoder,
)
from t2i.text.encoders.t5 import T5
from t2i.text.prompt import Prompt
from tests.text.tiny_models import MODELS, bert, byte_bpe, clip, gpt2, t5, unigram, wordpiece
from tests.tiny import TEXT_WIDTH, WINDOW

PROMPTS = ["a red apple", "cat, dog", ""]
MASKED = ["t5", "bert", "gpt2", "llama"]


@pytest.fixture(scope="module", params=MODELS)
def parts(request):
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def encoder(parts):
    return select_text_encoder(*parts)


def test_every_family_is_chosen_from_the_config(encoder):
    assert isinstance(encoder, TextEncoder)
    assert type(encoder) is ENCODER_CLASS_BY_MODEL_TYPE[encoder.model.config.model_type]
    assert encoder.window_size == WINDOW


@torch.no_grad()
def test_rows_are_windows_in_the_width_of_the_model(encoder):
    assert encoder.encode(PROMPTS).text_BTD.shape == (3, WINDOW, TEXT_WIDTH)


@pytest.mark.parametrize("family", ["t5", "bert"])
@torch.no_grad()
def test_embeddings_and_mask_equal_the_models_own_bit_for_bit(family):
    tokenizer, model = MODELS[family]()
    tokens = tokenizer(PROMPTS, padding="max_length", return_tensors="pt")
    theirs = model(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    ours = select_text_encoder(tokenizer, model).encode(PROMPTS)
    assert torch.equal(ours.text_BTD, theirs)
    assert torch.equal(ours.mask_BT, tokens.attention_mask.bool())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@torch.no_grad()
def test_a_language_model_reads_from_a_first_token_on(family):
    tokenizer, model = MODELS[family]()
    ours = select_text_encoder(tokenizer, model).encode(PROMPTS)
    for prompt, text_TD, mask_T in zip(PROMPTS, ours.text_BTD, ours.mask_BT, strict=True):
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(prompt).input_ids]])
        theirs = model(ids).last_hidden_state[0]
        assert mask_T.tolist() == [i < len(theirs) for i in range(WINDOW)]
        assert torch.allclose(text_TD[mask_T], theirs, atol=1e-6)


@pytest.mark.parametrize("family", MASKED)
@torch.no_grad()
def test_padding_does_not_reach_what_the_denoiser_may_look_at(family):
    tokenizer, model = MODELS[family]()
    short = select_text_encoder(tokenizer, model, window=10).encode(["a cat"])
    long = select_text_encoder(tokenizer, model).encode(["a cat"])
    assert torch.allclose(short.text_BTD[short.mask_BT], long.text_BTD[long.mask_BT], atol=1e-6)


@pytest.mark.parametrize(
    "model_type", sorted(ENCODER_CLASS_BY_MODEL_TYPE.keys() - {"clip_text_model"})
)
@torch.no_grad()
def test_every_model_type_of_the_table_encodes(model_type):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 4}
    if ENCODER_CLASS_BY_MODEL_TYPE[model_type] is T5:
        tokenizer, sizes = unigram(), {"d_model": 32, "num_layers": 1, "num_heads": 4, "d_kv": 8}
        kind = {"t5": T5EncoderModel, "mt5": MT5EncoderModel, "umt5": UMT5EncoderModel}[model_type]
    else:
        tokenizer = wordpiece() if ENCODER_CLASS_BY_MODEL_TYPE[model_type] is Bert else byte_bpe()
        kind = AutoModel
        if model_type == "distilbert":
            sizes = {"dim": 32, "n_layers": 1, "n_heads": 4}
    config = AutoConfig.for_model(
        model_type,
        vocab_size=len(tokenizer),
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        **sizes,
    )
    model = kind.from_config(config) if kind is AutoModel else kind(config)
    encoder = select_text_encoder(tokenizer, model.eval())
    encoded = encoder.encode(["a cat", "dog " * 20])
    assert encoded.text_BTD.shape == (
        2,
        encoder.count_chunks_of_longest(["dog " * 20]) * WINDOW,
        32,
    )
    assert encoded.text_BTD.isfinite().all()
    # Each row looks at its own tokens and the special ones.
    for prompt, mask_T in zip(["a cat", "dog " * 20], encoded.mask_BT, strict=True):
        chunks = encoder.token_window.tokenize_into_chunks(prompt)
        assert mask_T.sum() == sum(
            encoder.token_window.count_unpadded_tokens(chunk) for chunk in chunks
        )


def test_gradients_flow_through_weights_and_chunks(parts):
    encoder = select_text_encoder(*parts)
    weighted = Prompt("a (cat:1.3) BREAK [dog]").texts_at_step(0, 1)[0][0]
    encoder.encode([weighted, "red"]).text_BTD.square().sum().backward()
    gradient = encoder.model.get_input_embeddings().weight.grad
    assert gradient.abs().sum() > 0
    encoder.model.zero_grad()


@pytest.mark.parametrize("family", MASKED)
def test_only_clip_skips_layers(family):
    with pytest.raises(ArgumentError, match=f"clip_skip=1.*is a {family}: only CLIP"):
        select_text_encoder(*MODELS[family]()).encode(["cat"], clip_skip=1)


def test_a_window_can_be_chosen_within_the_models(encoder):
    tokenizer, model = encoder.tokenizer, encoder.model
    assert select_text_encoder(tokenizer, model, window=9).window_size == 9
    with pytest.raises(ArgumentError, match=r"window of 17 tokens: this model reads from . to 16"):
        select_text_encoder(tokenizer, model, window=17)
    with pytest.raises(ArgumentError, match="window of 0 tokens"):
        select_text_encoder(tokenizer, model, window=0)


def test_a_model_without_a_last_position_reads_512_tokens():
    tokenizer, model = t5()
    tokenizer.model_max_length = int(1e30)
    assert select_text_encoder(tokenizer, model).window_size == 512


def test_an_unknown_model_type_is_answered_with_the_choices():
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    with pytest.raises(ArgumentError, match=r"made of a 'vit'.*Choices: bert, clip_text_model"):
        select_text_encoder(clip()[0], ViTModel(config))


@pytest.mark.parametrize(
    ("parts", "head", "message"),
    [
        (bert, BertForMaskedLM, "Got a BertForMaskedLM.*model.base_model, a BertModel"),
        (gpt2, GPT2LMHeadModel, "Got a GPT2LMHeadModel.*model.base_model, a GPT2Model"),
        (t5, T5Model, "Got a T5Model, which has a decoder.*T5EncoderModel"),
    ],
)
def test_models_with_more_than_the_text_layers_are_refused(parts, head, message):
    tokenizer, model = parts()
    with pytest.raises(ArgumentError, match=message):
        select_text_encoder(tokenizer, head(model.config))


def test_a_tokenizer_without_any_first_token_is_refused():
    tokenizer = byte_bpe()
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(ArgumentError, match="no BOS, EOS or padding token"):
        Causal(tokenizer, gpt2()[1])
