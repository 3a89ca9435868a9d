"""The Stable Diffusion family: sizes, latents in and out, and what its UNet is told."""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_text2img import (
    LatentConsistencyModelPipeline,
)

from t2i.conditioning.conditioning import Conditioning
from t2i.denoiser.families import sd
from t2i.errors import ArgumentError
from tests.tiny import TEXT_WIDTH, tiny_scheduler, tiny_small_vae, tiny_unet, tiny_vae


@pytest.mark.parametrize("vae", [tiny_vae(), tiny_small_vae()], ids=["kl", "tiny"])
def test_four_pixels_make_a_latent(vae):
    assert sd.pixels_per_latent(vae) == 4
    assert sd.latent_size(vae, 32, 64) == (8, 16)
    assert sd.default_height_and_width(tiny_unet(sample_size=8), vae) == (32, 32)
    assert sd.default_height_and_width(tiny_unet(sample_size=(8, 4)), vae) == (32, 16)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((30, 32), "height=30, but this model needs a multiple of 4: the nearest are 28 and 32"),
        ((32, 33), "width=33, but this model needs a multiple of 4: the nearest are 32 and 36"),
        ((0, 32), "height=0, but .*: 4 is the smallest"),
        ((32, -8), "width=-8, but .*: 4 is the smallest"),
        ((32.0, 32), "height=32.0, but"),
        (("32", 32), "height='32', but"),
    ],
)
def test_a_size_the_vae_cannot_make_names_the_nearest(size, message):
    with pytest.raises(ArgumentError, match=message):
        sd.latent_size(tiny_vae(), *size)


@torch.no_grad()
@pytest.mark.parametrize("shift", [None, 0.3])
def test_latents_go_out_as_they_came_in(shift):
    vae = tiny_vae(scaling_factor=0.5, shift_factor=shift)
    pixels_B3YX = torch.rand(2, 3, 32, 32) * 2 - 1
    generator = torch.Generator().manual_seed(0)
    latents_BCHW = sd.encode_pixels(vae, pixels_B3YX, generator)

    drawn = vae.encode(pixels_B3YX).latent_dist.sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(latents_BCHW, (drawn - (shift or 0.0)) * 0.5)
    torch.testing.assert_close(
        sd.decode_latents_to_pixels(vae, latents_BCHW), vae.decode(drawn).sample
    )


@torch.no_grad()
def test_an_autoencoder_tiny_encodes_without_chance():
    vae = tiny_small_vae(latent_channels=8)
    pixels_B3YX = torch.rand(1, 3, 32, 32) * 2 - 1
    latents_BCHW = sd.encode_pixels(vae, pixels_B3YX)
    assert latents_BCHW.shape == (1, 8, 8, 8)
    assert torch.equal(latents_BCHW, vae.encode(pixels_B3YX).latents)
    assert torch.equal(
        sd.decode_latents_to_pixels(vae, latents_BCHW), vae.decode(latents_BCHW).sample
    )


@torch.no_grad()
def test_a_trained_autoencoder_brings_the_picture_back():
    """Closed form: an encoder and a decoder that copy the pixels."""

    class Copy(AutoencoderKL):
        def encode(self, x):
            class EncodedText:
                class latent_dist:
                    @staticmethod
                    def sample(generator):
                        return x

            return EncodedText

        def decode(self, z, return_dict=True):
            return (z,)

    vae = Copy(scaling_factor=0.18215, shift_factor=0.1)
    pixels_B3YX = torch.rand(1, 3, 8, 8) * 2 - 1
    torch.testing.assert_close(
        sd.decode_latents_to_pixels(vae, sd.encode_pixels(vae, pixels_B3YX)),
        pixels_B3YX,
        atol=1e-6,
        rtol=0,
    )


@pytest.mark.parametrize("width", [8, 9])
def test_the_guidance_embedding_equals_diffusers(width):
    text_BTD = torch.zeros(3, 4, 8)
    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(
        None, torch.tensor(7.5 - 1).repeat(3), embedding_dim=width
    )
    assert torch.equal(sd.embed_guidance_scale(7.5, width, text_BTD), theirs)


@torch.no_grad()
def test_the_unet_hears_its_guidance_embedding():
    unet = tiny_unet(time_cond_proj_dim=8)
    latents_BCHW, text_BTD = torch.randn(1, 4, 8, 8), torch.randn(1, 16, TEXT_WIDTH)

    def prediction(scale):
        embedding = sd.embed_guidance_scale(scale, 8, text_BTD)
        told = Conditioning(text_BTD, extra={"guidance_embedding": embedding})
        return sd.run_unet(unet, latents_BCHW, torch.tensor(500), told)

    assert not torch.equal(prediction(1.5), prediction(7.5))


def test_stable_diffusions_own_scheduler_settings_are_kept_or_put_right():
    right = tiny_scheduler()
    assert sd.get_corrected_scheduler(right) is right

    wrong = tiny_scheduler(steps_offset=0, clip_sample=True)
    with pytest.warns(UserWarning, match="steps_offset=1 instead of 0, clip_sample=False instead"):
        settled = sd.get_corrected_scheduler(wrong)
    assert (settled.config.steps_offset, settled.config.clip_sample) == (1, False)
    assert settled.config.beta_end == wrong.config.beta_end
    assert wrong.config.steps_offset == 0
    assert math.isclose(settled.config.beta_end, 0.012)


def overflowing_vae(**config):
    """Like SDXL's: sound in float32, NaN in half precision, either way."""
    vae = tiny_vae(**config)
    with torch.no_grad():
        for part in (vae.encoder.conv_in, vae.decoder.conv_in):
            part.weight.abs_().fill_(2e4)
    return vae


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_vae_that_overflows_in_half_precision_encodes_and_decodes_in_float32():
    """As diffusers' SDXL pipelines; afterwards its weights are what they were."""
    vae = overflowing_vae(force_upcast=True).half()
    before = {name: weight.clone() for name, weight in vae.state_dict().items()}
    pixels, latents = torch.rand(1, 3, 32, 32).half(), torch.rand(1, 4, 8, 8).half()
    assert not vae.decode(latents).sample.isfinite().all()
    assert sd.decode_latents_to_pixels(vae, latents).isfinite().all()
    assert sd.encode_pixels(vae, pixels).isfinite().all()
    assert sd.encode_pixels_to_mean(vae, pixels).dtype == torch.float32
    precise = overflowing_vae().half().float()
    torch.testing.assert_close(
        sd.encode_pixels_to_mean(vae, pixels),
        precise.encode(pixels.float()).latent_dist.mode() * 0.18215,
    )
    after = vae.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


@torch.no_grad()
def test_a_vae_whose_config_does_not_ask_for_float32_stays_in_half_precision():
    """`force_upcast` is the class's default too, and Stable Diffusion 1's VAE does without it."""
    vae = tiny_vae().half()
    assert vae.config["force_upcast"]
    assert sd.decode_latents_to_pixels(vae, torch.rand(1, 4, 8, 8).half()).dtype == torch.float16
    assert sd.encode_pixels_to_mean(vae, torch.rand(1, 3, 32, 32).half()).dtype == torch.float16


@torch.no_grad()
def test_a_vae_is_cast_back_after_an_error():
    vae = tiny_vae(force_upcast=True).half()
    with pytest.raises(RuntimeError):
        sd.encode_pixels_to_mean(vae, torch.rand(1, 5, 32, 32).half())
    assert vae.dtype == torch.float16


@torch.no_grad()
def test_threads_that_share_a_vae_in_half_precision_do_not_disturb_each_other():
    vae = overflowing_vae(force_upcast=True).half()
    latents = [torch.rand(1, 4, 8, 8).half() for _ in range(8)]
    alone = [sd.decode_latents_to_pixels(vae, one) for one in latents]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(partial(decode_without_gradients, vae), latents))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def decode_without_gradients(vae, latents):
    """Gradients are switched on in a new thread."""
    with torch.no_grad():
        return sd.decode_latents_to_pixels(vae, latents)
