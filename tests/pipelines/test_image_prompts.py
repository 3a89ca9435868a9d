"""Several IP-Adapters with a mask each and a scale by block, against diffusers."""

import pytest
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.image_processor import IPAdapterMaskProcessor
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import Replace, attend
from t2i.errors import ArgumentError
from tests.pipelines.against import assert_same
from tests.pipelines.test_adapters import PICTURE, PROMPT, TWO_STEPS, adapted, adapter_for, seeing
from tests.tiny import TEXT_WIDTH, tiny_sdxl_components

__all__ = ["seeing"]  # a fixture

GOLD = Image.new("RGB", (30, 40), "gold")
PICTURES = [PICTURE, GOLD]
SDXL_BLOCKS = {
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": 1,
}


def half(side):
    """A mask of the image's size: white on the left or on the right."""
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 32) if side == "left" else (16, 0, 32, 32))
    return mask


def masks_of_diffusers(*masks):
    """One mask for each adapter, as diffusers' documentation makes them."""
    return [IPAdapterMaskProcessor().preprocess([one], height=32, width=32) for one in masks]


def masked(masks):
    return {"cross_attention_kwargs": {"ip_adapter_masks": masks}}


@pytest.mark.parametrize("sides", [("left", "right"), ("left", None)], ids=str)
def test_each_adapter_acts_in_its_mask_as_in_diffusers(seeing, sides):
    ours, theirs = adapted(seeing, count=2)
    tensors = [None if side is None else masks_of_diffusers(half(side))[0] for side in sides]
    call = TWO_STEPS | {"ip_adapter_image": PICTURES}
    equal = assert_same(ours, theirs, **call, **masked(tensors))
    pictures = [None if side is None else half(side) for side in sides]
    seed = torch.Generator().manual_seed(3)
    asked = {"generator": seed, "output_type": "latent"}
    told = assert_same(ours, theirs, **call, **masked(tensors), output_type="latent")
    from_pictures = ours(**call, **masked(pictures), **asked).images
    assert torch.equal(told, from_pictures)
    assert not torch.equal(equal, assert_same(ours, theirs, **call))


def test_several_images_of_one_adapter_have_a_mask_each(seeing):
    ours, theirs = adapted(seeing)
    for pipe in (ours, theirs):
        pipe.set_ip_adapter_scale([[0.8, 0.4]])
    both = IPAdapterMaskProcessor().preprocess([half("left"), half("right")], height=32, width=32)
    call = TWO_STEPS | {"ip_adapter_image": [PICTURES], "output_type": "latent"}
    told = assert_same(ours, theirs, **call, **masked([both.transpose(0, 1)]))
    pictures = masked([[half("left"), half("right")]])
    drawn = ours(**call, **pictures, generator=torch.Generator().manual_seed(3)).images
    assert torch.equal(told, drawn)


@pytest.mark.parametrize(
    ("kind", "kind_of_diffusers", "more"),
    [
        (ImageToImagePipeline, StableDiffusionImg2ImgPipeline, {}),
        (InpaintPipeline, StableDiffusionInpaintPipeline, {"mask_image": half("right")}),
    ],
    ids=["image to image", "inpaint"],
)
def test_masks_of_images_that_are_changed(seeing, kind, kind_of_diffusers, more):
    """Image to image and inpainting in the one loop, as in diffusers."""
    parts = dict(adapted(seeing, count=2)[0].components)
    ours = kind(**parts)
    theirs = kind_of_diffusers(
        **{name: parts[name] for name in parts if name in seeing},
        safety_checker=None,
        requires_safety_checker=False,
    )
    call = TWO_STEPS | {"image": Image.new("RGB", (32, 32), "navy"), "strength": 1.0}
    call |= {"ip_adapter_image": PICTURES, **more}
    assert_same(ours, theirs, **call, **masked(masks_of_diffusers(half("left"), half("right"))))


def xl_pair(seeing):
    parts = tiny_sdxl_components(**SDXL_BLOCKS)
    parts |= {name: seeing[name] for name in ("image_encoder", "feature_extractor")}
    ours = TextToImagePipeline(**parts)
    theirs = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    weights = adapter_for(ours.unet, 2 * TEXT_WIDTH)
    ours.unet._load_ip_adapter_weights([weights] * 2)
    return ours, theirs


def test_scales_by_block_and_by_the_names_of_instantstyle(seeing):
    ours, theirs = xl_pair(seeing)
    call = TWO_STEPS | {"ip_adapter_image": PICTURES}
    images = {}
    style, layout = {"up": {"block_0": [0.0, 1.0, 0.0]}}, {"down": {"block_2": [0.0, 0.5]}}
    for name, scales in {"style": [style, layout], "same": [style | layout, 0.0]}.items():
        theirs.set_ip_adapter_scale(scales)
        images[name] = assert_same(ours, theirs, **call)
    ours.set_ip_adapter_scale(["style", "layout*0.5"])
    assert torch.equal(assert_same(ours, theirs, **call), images["style"])
    ours.set_ip_adapter_scale(["style + layout*0.5", 0])
    assert torch.equal(assert_same(ours, theirs, **call), images["same"])
    assert not torch.equal(images["style"], images["same"])
    sites = {
        name.removesuffix(".processor"): processor.scale
        for name, processor in ours.unet.attn_processors.items()
        if hasattr(processor, "scale") and any(processor.scale)
    }
    assert {name.split(".transformer")[0] for name in sites} == {
        "up_blocks.0.attentions.1",
        "down_blocks.2.attentions.1",
    }


def test_probes_and_prompt_edits_go_with_masked_adapters(seeing):
    """Probes leave the images as they are, and read the text's keys alone."""
    ours, _ = adapted(seeing, count=2)
    call = {"num_inference_steps": 2, "ip_adapter_image": PICTURES, "output_type": "latent"}
    call |= masked([half("left"), half("right")])

    def drawn(probed):
        call["generator"] = torch.Generator().manual_seed(3)
        if not probed:
            return ours(PROMPT, **call).images, None
        with attend(ours) as attn:
            maps = attn.probe("apple", "cat")
            images = ours(PROMPT, **call).images
            assert all(site.keys == 16 for site in attn.sites() if site.kind == "cross")
        return images, maps

    plain, _ = drawn(False)
    probed, maps = drawn(True)
    assert torch.equal(plain, probed)
    assert torch.isfinite(maps["apple"]).all()
    editor = PromptEditPipeline(**ours.components)
    del call["generator"]
    call["edits"] = [Replace(steps=None)]
    source, target = editor(PROMPT, "a red pear to the left of the cat", seed=3, **call).images
    torch.testing.assert_close(source, plain[0], atol=1e-4, rtol=1e-4)
    assert not torch.equal(source, target)
    free = {name: value for name, value in call.items() if name != "cross_attention_kwargs"}
    assert not torch.equal(
        editor(PROMPT, "a red pear to the left of the cat", seed=3, **free).images[0], source
    )


def test_a_recorded_source_has_no_image_prompt(components):
    editor = PromptEditPipeline(**components)
    kept = editor.remember(PROMPT, seed=3, num_inference_steps=2)
    with pytest.raises(ArgumentError, match="ip_adapter_image with a recorded source"):
        editor(kept, PROMPT, ip_adapter_image=PICTURE)


def test_masks_without_a_subject_or_of_another_number_are_refused(seeing, components):
    plain = TextToImagePipeline(**components)
    with pytest.raises(ArgumentError, match="Got ip_adapter_masks without an image prompt"):
        plain(**TWO_STEPS, **masked([half("left")]))
    ours, _ = adapted(seeing, count=2)
    call = TWO_STEPS | {"ip_adapter_image": PICTURES}
    wrong = {
        "Got 1 mask for 2 IP-Adapters": [half("left")],
        r"Got 2 masks in ip_adapter_masks\[1\] for 1 image of": [None, [half("left")] * 2],
        r"Got ip_adapter_masks\[0\], which is black all over": [Image.new("L", (8, 8)), None],
        r"ip_adapter_masks\[0\] of the shape \(32, 32\), expected": [torch.ones(32, 32), None],
        r"ip_adapter_masks\[0\] of type str, expected a picture": ["left.png", None],
        r"ip_adapter_masks\[0\] with numbers that are not from 0 to 1": [
            torch.full((1, 1, 8, 8), torch.nan),
            None,
        ],
        r"ip_adapter_masks\[1\] with numbers that are not": [None, torch.full((1, 1, 8, 8), 255)],
        r"ip_adapter_masks\[1\], an empty list": [None, []],
    }
    for message, masks in wrong.items():
        with pytest.raises(ArgumentError, match=message):
            ours(**call, **masked(masks))


def test_scales_per_image_need_as_many_masks(seeing):
    ours, _ = adapted(seeing)
    ours.set_ip_adapter_scale([[0.8, 0.4]])
    call = TWO_STEPS | {"ip_adapter_image": [PICTURES]}
    with pytest.raises(ArgumentError, match=r"IP-Adapter 0 has 2 scales.* 2 images with no masks"):
        ours(**call)
    ours.set_ip_adapter_scale([[0.8, 0.4, 0.2]])
    with pytest.raises(ArgumentError, match=r"IP-Adapter 0 has 3 scales.* for 2 images with masks"):
        ours(**call, **masked([[half("left"), half("right")]]))


def test_a_tensor_that_is_no_picture_is_refused(seeing):
    ours, _ = adapted(seeing)
    with pytest.raises(ArgumentError, match=r"shape \(1, 8\) for an IP-Adapter that sees pictures"):
        ours(**TWO_STEPS, ip_adapter_image=torch.ones(1, 8))


@pytest.mark.parametrize(
    ("embeds", "got"),
    [
        ([PICTURE], "a Image"),
        ([[0.5] * 24], "a list"),
        ("face.safetensors", "a str"),
        ([None], "a NoneType"),
        (torch.ones(2, 1, 24).numpy(), "a ndarray"),
        ([torch.ones(24)], r"a tensor of the shape \(24,\)"),
        ([torch.ones(2, 24)], r"a tensor of the shape \(2, 24\)"),
    ],
    ids=["picture", "list", "str", "None", "array", "one axis", "two axes"],
)
def test_embeddings_that_are_no_tensor_of_them_are_refused(seeing, embeds, got):
    ours, _ = adapted(seeing)
    with pytest.raises(ArgumentError, match=f"Got {got} as the embeddings of IP-Adapter 0 in ip_"):
        ours(**TWO_STEPS, ip_adapter_image_embeds=embeds)


def test_an_adapter_for_an_encoder_of_another_width_is_refused(seeing):
    ours, _ = adapted(seeing)
    embeds = [torch.randn(2, 1, 23)]
    with pytest.raises(ArgumentError, match=r"IP-Adapter 0 reads embeddings of width 24.* have 23"):
        ours(**TWO_STEPS, ip_adapter_image_embeds=embeds)
    config = CLIPVisionConfig(**ours.image_encoder.config.to_dict() | {"projection_dim": 20})
    ours.image_encoder = CLIPVisionModelWithProjection(config)
    with pytest.raises(ArgumentError, match="trained with another image encoder"):
        ours(**TWO_STEPS, ip_adapter_image=PICTURE)


def test_a_plus_adapter_reads_the_hidden_states_as_in_diffusers(seeing):
    ours, theirs = adapted(seeing)
    plus = IPAdapterPlusImageProjection(
        embed_dims=16, output_dims=TEXT_WIDTH, hidden_dims=8, depth=1, heads=2, num_queries=4
    )
    for pipe in (ours, theirs):
        pipe.unet.encoder_hid_proj.image_projection_layers[0] = plus
    assert_same(ours, theirs, **TWO_STEPS, ip_adapter_image=PICTURE)


@pytest.fixture(scope="module")
def refusing(seeing):
    """For calls that are refused: nothing changes it."""
    return xl_pair(seeing)[0]


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ([0.5], "Got 1 scale for 2 IP-Adapters"),
        (["styel", 1], "Got the scale 'styel'. Did you mean 'style'"),
        (["style*x", 1], r"expected a number after \*"),
        (["style+style", 1], "with style twice"),
        ([{"upp": 1.0}, 1], "Got the scale of 'upp'. Did you mean 'up'"),
        ([{"down": {"block_0": 1.0}}, 1], r"down.block_0: the UNet has no such.*down.block_1 \(2"),
        ([{"up": {"block_0": [1.0, 0.0]}}, 1], "Got 2 scales for up.block_0, which has 3 att"),
        ([{"mid": "much"}, 1], "Got mid='much' as the scale"),
        ([float("nan"), 1], "Got scale=nan as the scale of an IP-Adapter"),
    ],
)
def test_scales_that_are_none_are_refused(refusing, scale, message):
    ours = refusing
    with pytest.raises(ArgumentError, match=message):
        ours.set_ip_adapter_scale(scale)


def test_the_names_of_blocks_are_those_of_sdxl(seeing):
    ours, _ = adapted(seeing)
    with pytest.raises(ArgumentError, match=r"UNet is not SDXL's.*down.block_0 \(1 layer\)"):
        ours.set_ip_adapter_scale("style")
