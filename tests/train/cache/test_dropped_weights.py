"""Models whose weights are let go and taken up again."""

import gc
import weakref

import pytest
import torch
from torch import nn

from t2i.errors import ModelError
from tests.tiny import tiny_sd_folder, tiny_text_encoder, tiny_tokenizer, tiny_vae
from train.cache.encoders import CacheEncoders
from train.cache.freed_weights import has_freed_weights, remove_weights, restore_freed_weights
from train.cache.model_digests import compute_config_and_weights_digest, compute_tokenizer_digest


def watched(model: nn.Module) -> list[weakref.ref]:
    return [weakref.ref(tensor) for tensor in (*model.parameters(), *model.buffers())]


def alive(references) -> int:
    gc.collect()
    return sum(reference() is not None for reference in references)


@pytest.mark.parametrize("make", [tiny_vae, lambda: tiny_text_encoder(tiny_tokenizer())])
def test_a_hollow_model_has_no_tensor_left_and_is_filled_again(make):
    model, other = make(), make()
    references, state = watched(model), {n: t.clone() for n, t in model.state_dict().items()}
    assert alive(references) == len(references) > 0
    remove_weights(model)
    assert alive(references) == 0
    assert has_freed_weights(model)
    assert model.config is not None
    model.requires_grad_(False).eval().to("cpu")  # what a run does with all its parts

    restore_freed_weights(model, other)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert {n for n, _ in model.named_buffers()} == {n for n, _ in other.named_buffers()}


def test_the_digest_of_weights_is_of_every_weight_and_of_the_config():
    model = tiny_vae()
    digest = compute_config_and_weights_digest(model)
    assert compute_config_and_weights_digest(tiny_vae()) == digest
    assert compute_config_and_weights_digest(tiny_vae(scaling_factor=0.5)) != digest
    with torch.no_grad():
        model.encoder.conv_in.bias[0] += 1e-6
    assert compute_config_and_weights_digest(model) != digest


def test_the_digest_of_words_is_of_the_words_and_not_of_how_they_were_last_read():
    tokenizer = tiny_tokenizer()
    digest = compute_tokenizer_digest(tokenizer)
    tokenizer("a red apple", padding="max_length", truncation=True)
    assert compute_tokenizer_digest(tokenizer) == digest
    tokenizer.add_tokens(["<mug>"])
    assert compute_tokenizer_digest(tokenizer) != digest
    assert compute_tokenizer_digest(tiny_tokenizer(20)) != digest


def test_encoders_come_without_the_denoiser_and_let_go_of_what_they_are_asked_to(base):
    encoders = CacheEncoders(str(base))
    assert "unet" not in encoders.given
    vae, text = (watched(encoders.models_by_name[name]) for name in ("vae", "text_encoder"))
    encoders.release_weights(["latents"])
    assert alive(vae) == 0
    assert alive(text) == len(text)
    encoders.release_weights(["texts"])
    assert alive(text) == 0

    encoders.reload_weights(torch.device("cpu"))
    again = CacheEncoders(str(base))
    for name in ("vae", "text_encoder"):
        found, expected = (
            encoders.models_by_name[name].state_dict(),
            again.models_by_name[name].state_dict(),
        )
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    encoders.release_weights()
    assert all(has_freed_weights(model) for model in encoders.models_by_name.values())


def test_a_base_that_became_another_one_is_refused(tmp_path):
    folder = tiny_sd_folder(tmp_path / "base")
    encoders = CacheEncoders(str(folder))
    encoders.release_weights(["latents"])
    vae = tiny_vae()
    with torch.no_grad():
        vae.encoder.conv_in.bias += 1
    vae.save_pretrained(folder / "vae")
    with pytest.raises(ModelError, match=r"The vae of .* has changed since the run began"):
        encoders.reload_weights(torch.device("cpu"))


def test_a_hollow_model_can_still_be_shown():
    model = tiny_vae()
    remove_weights(model)
    assert "Conv2d(3, 8" in repr(model)
