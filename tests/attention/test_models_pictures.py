"""Denoisers that are told of pictures beside the text or in its place, attended to."""

import pytest
import torch
from diffusers import KandinskyV22Pipeline
from diffusers.models.attention_processor import IPAdapterAttnProcessor

from pipelines.unclip.unclip import UnclipPipeline
from t2i.attention import Replace, Reweight, attend
from t2i.errors import ArgumentError
from tests.attention.by_hand import asked, assert_maps, edited
from tests.attention.tiny_models import EXTRA_TOKENS, quiet, unclip
from tests.denoiser.tiny_models import kandinsky_components
from tests.tiny import TEXT_WIDTH, WINDOW, diffusers_pipeline, tiny_sd_components

PROMPTS = ["a red apple", "a blue red dog"]
PAIR = ["a red apple", "a red dog"]
KEYS, PICTURE_KEYS = 20, 4


@pytest.fixture(scope="module")
def kandinsky():
    return quiet(KandinskyV22Pipeline(**kandinsky_components()))


@pytest.fixture(scope="module")
def imagining():
    return unclip()


@pytest.fixture(scope="module")
def adapted():
    """SD1 with an IP-Adapter."""
    pipe = diffusers_pipeline(tiny_sd_components(window=KEYS))
    torch.manual_seed(7)
    layers, number = {}, 1
    for name in pipe.unet.attn_processors:
        if name.endswith("attn2.processor"):
            attention = pipe.unet.get_submodule(name.removesuffix(".processor"))
            processor = IPAdapterAttnProcessor(attention.query_dim, TEXT_WIDTH)
            layers[f"{number}.to_k_ip.weight"] = processor.to_k_ip[0].weight.detach()
            layers[f"{number}.to_v_ip.weight"] = processor.to_v_ip[0].weight.detach()
            number += 2
    projection = {
        "proj.weight": torch.randn(PICTURE_KEYS * TEXT_WIDTH, 24) * 0.3,
        "proj.bias": torch.zeros(PICTURE_KEYS * TEXT_WIDTH),
        "norm.weight": torch.ones(TEXT_WIDTH),
        "norm.bias": torch.zeros(TEXT_WIDTH),
    }
    pipe.unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": layers}])
    return pipe


# Kandinsky 2.2: an embedding of a picture, and no words


def draw_kandinsky(pipe, **call):
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(2, TEXT_WIDTH, generator=generator)
    return pipe(
        image_embeds=embeds,
        negative_image_embeds=torch.zeros_like(embeds),
        height=128,
        width=64,
        num_inference_steps=2,
        generator=generator,
        output_type="latent",
        **call,
    ).images


@pytest.mark.parametrize("guidance", [1.0, 4.0], ids=["CFG off", "CFG on"])
def test_the_places_of_an_embedding_are_told_from_the_picture_s_own(kandinsky, guidance):
    with asked(kandinsky.unet) as calls:
        plain = draw_kandinsky(kandinsky, guidance_scale=guidance)
    with attend(kandinsky) as attn:
        maps = attn.probe((0, 5), prompt=1)
        seen = draw_kandinsky(kandinsky, guidance_scale=guidance)
        told = kandinsky.unet.encoder_hid_proj.num_image_text_embeds
        assert {site.text for site in maps.sites} == {(0, told)}
        assert {site.kind for site in maps.sites} == {"joint"}
        row = 1 if guidance == 1 else 3
        for keys in {site.keys for site in maps.sites}:
            assert_maps(attn, maps, "(0, 5)", calls, keys, row, (0, 5))
    assert torch.equal(plain, seen)
    height, width = plain.shape[-2:]
    assert height != width
    assert {site.size for site in maps.sites} <= {(height, width), (height // 2, width // 2)}


def test_words_of_a_model_that_is_told_none_are_refused(kandinsky):
    tokenizer = tiny_sd_components()["tokenizer"]

    def run(**tokenizer):
        with attend(kandinsky, prompts=PROMPTS, **tokenizer) as attn:
            attn.probe("apple")

    with pytest.raises(ArgumentError, match="'apple': this model came without a tokenizer"):
        run()
    with pytest.raises(ArgumentError, match="conditioned on an image embedding and no words"):
        run(tokenizer=tokenizer)


def test_our_decoder_is_read_by_places():
    pipe = quiet(UnclipPipeline(**kandinsky_components()))
    embeds = torch.randn(2, TEXT_WIDTH)
    with attend(pipe) as attn:
        maps = attn.probe((0, 5))
        pipe(
            image_embeds=embeds,
            negative_image_embeds=torch.zeros_like(embeds),
            height=16,
            width=32,
            num_inference_steps=2,
            output_type="latent",
        )
    assert maps.for_image(1)["(0, 5)"].shape == (8, 16)


# unCLIP: places of a picture's embedding, then the text


def draw_unclip(pipe, prompts=PROMPTS, **call):
    pictures = pipe(
        prompts,
        prior_num_inference_steps=2,
        decoder_num_inference_steps=2,
        super_res_num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        **call,
    ).images
    return torch.from_numpy(pictures)


@pytest.mark.parametrize("guidance", [1.0, 4.0], ids=["CFG off", "CFG on"])
def test_the_words_stand_behind_the_embedding(imagining, guidance):
    call = {"decoder_guidance_scale": guidance, "prior_guidance_scale": guidance}
    with asked(imagining.decoder) as calls:
        plain = draw_unclip(imagining, **call)
    with attend(imagining, prompts=PROMPTS) as attn:
        maps = attn.probe("dog", prompt=1)
        assert torch.equal(draw_unclip(imagining, **call), plain)
        assert {site.text for site in maps.sites} == {(0, EXTRA_TOKENS + WINDOW)}
        for keys in {site.keys for site in maps.sites}:
            row = 1 if guidance == 1 else 3
            assert_maps(attn, maps, "dog", calls, keys, row, (EXTRA_TOKENS + 4,))
        assert " x 2 steps" in attn.report()


def test_an_edit_beside_the_picture_s_own_keys_agrees_with_maps_made_by_hand(imagining):
    def by_hand(probs_BNQK):
        made_BNQK = probs_BNQK.clone()
        made_BNQK[3, ..., EXTRA_TOKENS + 3] *= 3
        return made_BNQK

    plain = draw_unclip(imagining, PAIR)
    with asked(imagining.decoder) as calls:
        draw_unclip(imagining, PAIR)
    (keys,) = {call.keys for call in calls if call.keys != call.query_BNQE.shape[2]}
    with edited(imagining.decoder, keys, by_hand, range(2)):
        expected = draw_unclip(imagining, PAIR)
    with attend(imagining, prompts=PAIR) as attn:
        attn.edit(Reweight(target=1, weights={"dog": 3.0}))
        made = draw_unclip(imagining, PAIR)
    assert torch.equal(made[0], plain[0])
    difference, effect = (made - expected).abs().max(), (expected - plain).abs().max()
    assert difference < 2e-5
    assert effect > 100 * difference


# an IP-Adapter: further calls of the same module


def draw_adapted(pipe, prompts=PROMPTS, **call):
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(2, 1, 24, generator=generator)
    return pipe(
        prompts,
        ip_adapter_image_embeds=[embeds],
        num_inference_steps=2,
        generator=generator,
        output_type="latent",
        height=32,
        width=48,
        **call,
    ).images


def test_the_text_is_told_from_the_pictures_of_an_adapter(adapted):
    with asked(adapted.unet) as calls:
        plain = draw_adapted(adapted)
    assert {call.keys for call in calls} >= {KEYS, PICTURE_KEYS}
    with attend(adapted, prompts=PROMPTS) as attn:
        maps = [attn.probe("apple"), attn.probe("dog", prompt=1)]
        assert torch.equal(draw_adapted(adapted), plain)
        assert_maps(attn, maps[0], "apple", calls, KEYS, 2, (3,))
        assert_maps(attn, maps[1], "dog", calls, KEYS, 3, (4,))
        assert len(maps[0].measurements.list_accumulators(0)) == 4


def test_edits_leave_the_adapter_s_own_attention_alone(adapted):
    def by_hand(probs_BNQK):
        made_BNQK = probs_BNQK.clone()
        made_BNQK[3, ..., 3] = probs_BNQK[2, ..., 3] * 2  # "dog" from "apple", doubled
        made_BNQK[3, ..., :3], made_BNQK[3, ..., 4:] = (
            probs_BNQK[2, ..., :3],
            probs_BNQK[2, ..., 4:],
        )
        return made_BNQK

    plain = draw_adapted(adapted, PAIR)
    with edited(adapted.unet, KEYS, by_hand, range(2)):
        expected = draw_adapted(adapted, PAIR)
    with attend(adapted, prompts=PAIR) as attn:
        attn.edit(Replace(source=0, target=1))
        attn.edit(Reweight(target=1, weights={"dog": 2.0}))
        made = draw_adapted(adapted, PAIR)
    assert torch.equal(made[0], plain[0])
    difference, effect = (made - expected).abs().max(), (expected - plain).abs().max()
    assert difference < 2e-5
    assert effect > 100 * difference
