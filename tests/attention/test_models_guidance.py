"""Pipelines of diffusers that guide in ways of their own: whose map a probe reads there."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FluxKontextPipeline,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPAGPipeline,
    UNet2DConditionModel,
)
from PIL import Image

from t2i.attention import Reweight, attend
from t2i.errors import ArgumentError
from tests.attention.by_hand import asked, assert_maps
from tests.attention.tiny_models import flux, quiet, sd3
from tests.denoiser.tiny_models import kandinsky_components
from tests.text.tiny_models import bert, t5
from tests.tiny import TEXT_WIDTH, tiny_sd_components, tiny_tokenizer, tiny_unet, tiny_vae

PROMPTS = ["the red apple", "the blue red dog"]
KEYS = 20
BARE = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def draw(pipe, **call):
    settings = {
        "num_inference_steps": 2,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "latent",
    }
    return pipe(prompt=PROMPTS, **(settings | call)).images


@pytest.mark.parametrize("guidance", [1.0, 5.0], ids=["CFG off", "CFG on"])
def test_perturbed_rows_are_not_the_prompts(guidance):
    parts = tiny_sd_components(window=KEYS)
    pipe = quiet(StableDiffusionPAGPipeline(**parts, **BARE, pag_applied_layers=["down"]))
    call = {"guidance_scale": guidance, "pag_scale": 2.0, "height": 32, "width": 48}
    with asked(pipe.unet) as calls:
        plain = draw(pipe, **call)
    with attend(pipe, prompts=PROMPTS) as attn:
        maps = attn.probe("dog", prompt=1)
        assert torch.equal(draw(pipe, **call), plain)
        assert_maps(attn, maps, "dog", calls, KEYS, 1 if guidance == 1 else 3, (4,))


def test_instructions_about_a_picture_come_before_what_is_guided_away_from():
    parts = tiny_sd_components(window=KEYS) | {"unet": tiny_unet(in_channels=8)}
    pipe = quiet(StableDiffusionInstructPix2PixPipeline(**parts, **BARE))
    call = {"image": [Image.new("RGB", (48, 32), "teal")] * 2, "guidance_scale": 5.0}
    with asked(pipe.unet) as calls:
        plain = draw(pipe, **call)
    with attend(pipe, prompts=PROMPTS) as attn:
        maps = attn.probe("dog", prompt=1)
        assert torch.equal(draw(pipe, **call), plain)
        assert_maps(attn, maps, "dog", calls, KEYS, 1, (4,))


def test_passes_of_sd3_without_some_layers_are_left_alone():
    pipe = sd3()
    call = {"num_inference_steps": 8, "guidance_scale": 5.0, "height": 32, "width": 48}
    call |= {"skip_guidance_layers": [0], "skip_layer_guidance_stop": 0.6, "max_sequence_length": 8}
    with asked(pipe.transformer) as calls:
        plain = draw(pipe, **call)
    guided = [call for call in calls if len(call.query_BNQE) == 4]
    assert len(guided) < len(calls)
    with attend(pipe, prompts=PROMPTS) as attn:
        maps = attn.probe("dog", prompt=1)
        assert torch.equal(draw(pipe, **call), plain)
        assert_maps(attn, maps, "dog", guided, 4 * 6 + 16 + 8, 3, (24 + 4, 24 + 16 + 3))


def test_the_picture_that_kontext_edits_by_is_not_the_one_it_makes():
    parts = flux().components | {"feature_extractor": None, "image_encoder": None}
    pipe = quiet(FluxKontextPipeline(**parts))
    call = {"image": [Image.new("RGB", (48, 32), "teal")] * 2, "height": 32, "width": 48}
    call |= {"_auto_resize": False, "max_area": 48 * 32, "max_sequence_length": 8}
    with asked(pipe.transformer) as calls:
        plain = draw(pipe, **call)
    with attend(pipe, prompts=PROMPTS) as attn:
        maps = attn.probe("dog", prompt=1)
        assert torch.equal(draw(pipe, **call), plain)
        keys = 8 + 2 * 4 * 6
        assert {(site.size, site.image) for site in maps.sites} == {((4, 6), (8, 8 + 24))}
        assert_maps(attn, maps, "dog", calls, keys, 1, (3,))
        attn.edit(Reweight(target=1, weights={"dog": 3.0}))
        made = draw(pipe, **call)
    assert torch.equal(made[0], plain[0])
    assert not torch.equal(made[1], plain[1])


def test_words_of_kandinsky_2_1_stand_behind_the_picture_s_embedding():
    config = kandinsky_components()["unet"].config
    torch.manual_seed(4)
    told = {"encoder_hid_dim_type": "text_image_proj", "addition_embed_type": "text_image"}
    unet = UNet2DConditionModel.from_config(
        dict(config) | told | {"cross_attention_dim": 32}
    ).eval()
    before = unet.encoder_hid_proj.num_image_text_embeds
    text_BTD, pictures_BD = torch.randn(2, KEYS, TEXT_WIDTH), torch.randn(2, TEXT_WIDTH)
    latents_BCHW, pooled_BD = torch.randn(2, 4, 8, 12), torch.randn(2, TEXT_WIDTH)
    added = {"image_embeds": pictures_BD, "text_embeds": pooled_BD}

    @torch.no_grad()
    def denoise():
        return unet(latents_BCHW, 5, encoder_hidden_states=text_BTD, added_cond_kwargs=added).sample

    with asked(unet) as calls:
        plain = denoise()
    with attend(unet, prompts=PROMPTS, tokenizer=tiny_tokenizer()) as attn:
        maps = attn.probe("dog", prompt=1)
        assert torch.equal(denoise(), plain)
        for keys in {site.keys for site in maps.sites}:
            assert_maps(attn, maps, "dog", calls, keys, 1, (before + 4,))


def test_words_of_two_texts_side_by_side_are_refused():
    transformer = HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        sample_size=8,
        hidden_size=16,
        num_layers=2,
        cross_attention_dim=TEXT_WIDTH,
        cross_attention_dim_t5=TEXT_WIDTH,
        pooled_projection_dim=16,
        text_len=16,
        text_len_t5=16,
    )
    (tokenizer, text_encoder), (tokenizer_2, text_encoder_2) = bert(), t5()
    pipe = HunyuanDiTPipeline(
        tiny_vae(), text_encoder, tokenizer, transformer, DDIMScheduler(), **BARE,
        text_encoder_2=text_encoder_2, tokenizer_2=tokenizer_2,
    )  # fmt: skip

    def run():
        with attend(pipe, prompts=PROMPTS) as attn:
            attn.probe("apple")

    with pytest.raises(ArgumentError, match="'apple': this model came without a tokenizer"):
        run()
