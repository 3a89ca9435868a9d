"""TwoClip against StableDiffusionXLPipeline.encode_prompt."""

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from t2i.errors import ArgumentError
from t2i.text.encoders.selection import TwoClip, select_text_encoder
from t2i.text.prompt import Prompt
from tests.text.tiny_models import clip, second_clip, t5
from tests.tiny import TEXT_WIDTH, WINDOW, tiny_scheduler, tiny_unet, tiny_vae

PROMPTS = ["a red apple", "cat to the left of dog", "", "zebra, blue"]
OTHERS = ["the dog", "", "blue picture", "a, b"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts():
    return *clip(), *second_clip()


@pytest.fixture(scope="module")
def encoder(parts):
    tokenizer, model, tokenizer_2, model_2 = parts
    return TwoClip(select_text_encoder(tokenizer, model), select_text_encoder(tokenizer_2, model_2))


@pytest.fixture(scope="module")
def pipe(parts):
    tokenizer, model, tokenizer_2, model_2 = parts
    return StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=model,
        text_encoder_2=model_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=tiny_unet(),
        scheduler=tiny_scheduler(),
        add_watermarker=False,
    )


@pytest.mark.parametrize("others", [None, OTHERS])
@pytest.mark.parametrize("clip_skip", [None, 0, 1, 2])
@torch.no_grad()
def test_embeddings_equal_diffusers_bit_for_bit(encoder, pipe, others, clip_skip):
    theirs, _, theirs_pooled, _ = pipe.encode_prompt(
        PROMPTS, others, CPU, 1, False, clip_skip=clip_skip
    )
    ours = encoder.encode(PROMPTS, others, clip_skip=clip_skip)
    assert torch.equal(ours.text_BTD, theirs)
    assert torch.equal(ours.pooled_BD, theirs_pooled)
    assert ours.mask_BT is None


@torch.no_grad()
def test_negative_prompts_equal_diffusers_bit_for_bit(encoder, pipe):
    _, theirs, _, theirs_pooled = pipe.encode_prompt(
        PROMPTS, None, CPU, 1, True, negative_prompt=OTHERS, negative_prompt_2=PROMPTS
    )
    ours = encoder.encode(OTHERS, PROMPTS)
    assert torch.equal(ours.text_BTD, theirs)
    assert torch.equal(ours.pooled_BD, theirs_pooled)


@torch.no_grad()
def test_both_rows_have_the_windows_of_the_longer_prompt(encoder):
    long = "cat " * 20
    assert encoder.count_chunks_of_longest(["dog"], [long]) == 2
    ours = encoder.encode(["dog"], [long])
    assert ours.text_BTD.shape == (1, 2 * WINDOW, TEXT_WIDTH + 48)
    # The pooled vector is that of the first window.
    assert torch.allclose(
        ours.pooled_BD, encoder.encode(["dog"], ["cat " * 14]).pooled_BD, atol=1e-6
    )
    with pytest.warns(UserWarning, match="Left out: 'cat'"):
        assert encoder.encode(["dog"], [long], length=WINDOW).text_BTD.shape[1] == WINDOW


@torch.no_grad()
def test_weights_act_on_each_half_and_not_on_the_pooled_vector(encoder):
    plain = encoder.encode(["a red cat"])
    weighted = encoder.encode([Prompt("a (red:1.5) cat").texts_at_step(0, 1)[0][0]])
    halves = [
        half.encode([Prompt("a (red:1.5) cat").texts_at_step(0, 1)[0][0]]).text_BTD
        for half in (encoder.first, encoder.second)
    ]
    assert torch.equal(weighted.text_BTD, torch.cat(halves, dim=-1))
    assert torch.equal(weighted.pooled_BD, plain.pooled_BD)
    assert not torch.equal(weighted.text_BTD, plain.text_BTD)


def test_gradients_reach_both_models():
    encoder = TwoClip(select_text_encoder(*clip()), select_text_encoder(*second_clip()))
    encoder.encode(["a cat"]).text_BTD.sum().backward()
    for half in (encoder.first, encoder.second):
        assert half.model.get_input_embeddings().weight.grad.abs().sum() > 0


@pytest.mark.parametrize("clip_skip", [3, -1])
def test_an_impossible_clip_skip_is_refused(encoder, clip_skip):
    with pytest.raises(ArgumentError, match=f"clip_skip={clip_skip}.*3 layers.*to 2"):
        encoder.encode(["cat"], clip_skip=clip_skip)


def test_unequal_numbers_of_prompts_are_refused(encoder):
    with pytest.raises(ArgumentError, match="Got 1 prompt and 2 for the second"):
        encoder.encode(["cat"], ["cat", "dog"])


def test_unequal_windows_are_refused():
    with pytest.raises(ArgumentError, match="16 and 8 tokens at once"):
        TwoClip(select_text_encoder(*clip()), select_text_encoder(*second_clip(), window=8))


def test_only_clips_stand_side_by_side():
    with pytest.raises(ArgumentError, match="Got a T5 of a t5; expected two CLIPs"):
        TwoClip(select_text_encoder(*clip()), select_text_encoder(*t5()))
