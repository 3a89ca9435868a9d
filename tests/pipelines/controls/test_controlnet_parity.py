"""ControlNets in our pipelines against diffusers' pipelines of them, bit for bit."""

import copy

import pytest
import torch
from diffusers import (
    MultiControlNetModel,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
)

from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline
from pipelines.text_to_image import TextToImagePipeline
from t2i.controls.control import Control
from t2i.denoiser.schedulers import build_scheduler
from tests.pipelines.against import assert_same
from tests.pipelines.controls.networks import CalledWith, hint, tiny_controlnet
from tests.tiny import tiny_scheduler, tiny_sd_components, tiny_sdxl_components, tiny_unet

PROMPTS = ["a red apple to the left of the cat", "zebra, blue"]
UNSAFE = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


class Alike:
    """Ours, called with `controls`, and diffusers' pipeline, called with what it calls them."""

    def __init__(self, ours, theirs, picture="image"):
        self.ours, self.theirs, self.picture = ours, theirs, picture

    def same(self, controls, theirs=None, **call):
        """Both make the same of these controls, and another picture than without them."""
        named = {
            self.picture: [one.picture for one in controls],
            "controlnet_conditioning_scale": [one.scale for one in controls],
            "control_guidance_start": [one.steps[0] for one in controls],
            "control_guidance_end": [one.steps[1] for one in controls],
            "guess_mode": controls[0].mode == "guess",
        }
        if len(controls) == 1:
            named = {
                name: value[0] if isinstance(value, list) else value
                for name, value in named.items()
            }
        theirs = CalledWith(self.theirs, named | (theirs or {}))
        controlled = assert_same(CalledWith(self.ours, {"controls": controls}), theirs, **call)
        options = {"num_inference_steps": 4, "output_type": "latent"} | call
        options.pop("seeds", None)
        seed = torch.Generator().manual_seed(3)
        free = self.ours(generator=seed, **(options | {"output_type": "latent"})).images
        assert controlled.shape == free.shape
        assert not torch.equal(controlled, free)
        return controlled


@pytest.fixture(scope="module")
def parts():
    return tiny_sd_components()


@pytest.fixture(scope="module")
def nets(parts):
    return [tiny_controlnet(parts["unet"], seed) for seed in (5, 6)]


def text_to_image(parts, net):
    theirs = StableDiffusionControlNetPipeline(**parts, controlnet=net, **UNSAFE)
    return Alike(TextToImagePipeline(**parts), theirs)


@pytest.mark.parametrize(
    ("control", "call"),
    [
        ({}, {"prompt": PROMPTS[0]}),
        (
            {"scale": 0.6},
            {"prompt": PROMPTS, "negative_prompt": ["blue", ""], "height": 16, "width": 48},
        ),
        ({"steps": (0.0, 0.6)}, {"prompt": PROMPTS[0], "num_images_per_prompt": 2}),
        ({"steps": (0.3, 1.0)}, {"prompt": PROMPTS[0], "guidance_scale": 1.0}),
        ({"mode": "guess"}, {"prompt": "", "guidance_scale": 4.0}),
        ({"mode": "guess", "scale": 0.7}, {"prompt": PROMPTS, "guidance_scale": 1.0}),
    ],
)
def test_a_controlnet_acts_as_in_diffusers(parts, nets, control, call):
    # Their size is the hint's where none is given; ours is the model's.
    call = {"height": 32, "width": 32} | call
    picture = hint(1, (40, 24))
    text_to_image(parts, nets[0]).same([Control(nets[0], picture, **control)], **call)


@pytest.mark.parametrize("mode", ["balanced", "guess"])
def test_several_controlnets_act_as_in_diffusers(parts, nets, mode):
    controls = [
        Control(nets[0], hint(1), 0.9, (0.0, 0.6), mode),
        Control(nets[1], hint(2), 0.4, (0.3, 1.0), mode),
    ]
    pair = text_to_image(parts, MultiControlNetModel(nets))
    pair.same(controls, prompt=PROMPTS, negative_prompt=["a dog", ""], height=32, width=32)


@pytest.mark.parametrize("name", ["euler", "heun", "dpm++ 2m karras"])
def test_samplers_act_as_in_diffusers(parts, nets, name):
    parts = parts | {"scheduler": build_scheduler(name, parts["scheduler"].config)}
    control = Control(nets[0], hint(1), steps=(0.2, 0.8))
    text_to_image(parts, nets[0]).same([control], prompt=PROMPTS[0])


def test_each_prompt_may_have_its_own_hint(parts, nets):
    pictures = [hint(1), hint(2)]
    theirs = StableDiffusionControlNetPipeline(**parts, controlnet=nets[0], **UNSAFE)
    ours = CalledWith(TextToImagePipeline(**parts), {"controls": [Control(nets[0], pictures)]})
    call = {"prompt": PROMPTS, "num_images_per_prompt": 2}
    assert_same(ours, CalledWith(theirs, {"image": pictures}), **call)


def test_a_controlnet_that_pools_acts_as_in_diffusers(parts):
    net = tiny_controlnet(parts["unet"], global_pool_conditions=True)
    text_to_image(parts, net).same([Control(net, hint(1))], prompt=PROMPTS[0])


def test_a_control_steers_a_start_picture_as_in_diffusers(parts, nets):
    theirs = StableDiffusionControlNetImg2ImgPipeline(**parts, controlnet=nets[0], **UNSAFE)
    pair = Alike(ImageToImagePipeline(**parts), theirs, "control_image")
    start = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    control = Control(nets[0], hint(1), steps=(0.0, 0.7))
    pair.same([control], prompt=PROMPTS[0], image=start, strength=0.8)


@pytest.mark.parametrize("crop", [None, 4])
@pytest.mark.parametrize("channels", [4, 9])
def test_a_control_steers_inpainting_as_in_diffusers(parts, nets, channels, crop):
    parts = parts | {"unet": tiny_unet(in_channels=channels)}
    theirs = StableDiffusionControlNetInpaintPipeline(**parts, controlnet=nets[0], **UNSAFE)
    pair = Alike(InpaintPipeline(**parts), theirs, "control_image")
    mask = hint(4).convert("L").point(lambda _: 0)
    mask.paste(255, (6, 10, 20, 25))
    call = {"prompt": PROMPTS[0], "image": hint(3), "mask_image": mask, "strength": 0.9}
    call |= {"height": 32, "width": 32}
    if crop is not None:
        call |= {"padding_mask_crop": crop, "num_inference_steps": 3}
        found = [
            pipe(**call, generator=torch.Generator().manual_seed(2)).images[0].tobytes()
            for pipe in (
                CalledWith(pair.ours, {"controls": [Control(nets[0], hint(1), 0.5)]}),
                CalledWith(pair.theirs, {"control_image": hint(1)}),
                pair.ours,
            )
        ]
        assert found[0] == found[1] != found[2]
        return
    pair.same([Control(nets[0], hint(1))], **call)


@pytest.fixture(scope="module")
def xl_parts():
    return tiny_sdxl_components()


@pytest.fixture(scope="module")
def xl_net(xl_parts):
    return tiny_controlnet(xl_parts["unet"])


@pytest.mark.parametrize(
    ("control", "call"),
    [
        ({"scale": 0.7}, {"prompt": PROMPTS, "negative_prompt": ["a dog", ""]}),
        ({"mode": "guess"}, {"prompt": PROMPTS[0], "original_size": (64, 80)}),
        ({"steps": (0.0, 0.5)}, {"prompt": PROMPTS[0], "denoising_end": 0.7}),
    ],
)
def test_sdxl_acts_as_in_diffusers(xl_parts, xl_net, control, call):
    theirs = StableDiffusionXLControlNetPipeline(
        **xl_parts, controlnet=xl_net, add_watermarker=False
    )
    pair = Alike(TextToImagePipeline(**xl_parts), theirs)
    call = {"guidance_scale": 5.0} | call
    pair.same([Control(xl_net, hint(1), **control)], **call)


def test_sdxl_starts_and_inpaints_as_in_diffusers(xl_parts, xl_net):
    control = Control(xl_net, hint(1), 0.8)
    start, mask = torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    theirs = StableDiffusionXLControlNetImg2ImgPipeline(
        **xl_parts, controlnet=xl_net, add_watermarker=False
    )
    call = {"prompt": PROMPTS[0], "image": start, "strength": 0.7, "guidance_scale": 5.0}
    Alike(ImageToImagePipeline(**xl_parts), theirs, "control_image").same([control], **call)
    theirs = StableDiffusionXLControlNetInpaintPipeline(
        **xl_parts, controlnet=xl_net, add_watermarker=False
    )
    call |= {"mask_image": mask, "height": 32, "width": 32}
    Alike(InpaintPipeline(**xl_parts), theirs, "control_image").same([control], **call)


def test_stable_diffusion_2_acts_as_in_diffusers(parts):
    unet = tiny_unet(use_linear_projection=True, attention_head_dim=(2, 4))
    config = tiny_scheduler(prediction_type="v_prediction").config
    parts = parts | {"unet": unet, "scheduler": build_scheduler("ddim", config)}
    net = tiny_controlnet(unet, use_linear_projection=True)
    assert net.down_blocks[0].attentions[0].use_linear_projection
    pair = text_to_image(parts, net)
    for given in ({"scale": 0.7, "steps": (0.0, 0.6)}, {"mode": "guess"}):
        control = Control(net, hint(1), **given)
        pair.same([control], prompt=PROMPTS, negative_prompt=["a dog", ""], height=32, width=32)


def test_half_precision_acts_as_in_diffusers(parts):
    half = {name: copy.deepcopy(parts[name]).bfloat16() for name in ("unet", "text_encoder", "vae")}
    net = tiny_controlnet(parts["unet"]).bfloat16()
    control = Control(net, hint(1), 0.7, (0.0, 0.6))
    drawn = text_to_image(parts | half, net).same([control], prompt=PROMPTS[0])
    assert drawn.dtype == torch.bfloat16
