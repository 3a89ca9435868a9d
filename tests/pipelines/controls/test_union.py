"""Union ControlNets, for several types of hints, against diffusers' pipelines of them."""

from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetUnionModel,
    StableDiffusionXLControlNetUnionImg2ImgPipeline,
    StableDiffusionXLControlNetUnionPipeline,
)
from diffusers.models.controlnets.multicontrolnet_union import MultiControlNetUnionModel

from pipelines.image_to_image import ImageToImagePipeline
from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import attend
from t2i.cli.request.control_files import parse_control
from t2i.controls.control import Control
from t2i.controls.control_facts import control_to_dict
from t2i.controls.loading import load_control_network
from t2i.errors import ArgumentError, ModelError
from tests.pipelines.against import assert_same
from tests.pipelines.controls.networks import CalledWith, hint, tiny_controlnet
from tests.tiny import tiny_sd_components, tiny_sdxl_components

CALL = {"prompt": "a red apple", "guidance_scale": 5.0}


def tiny_union(unet, seed=5, **config: Any) -> ControlNetUnionModel:
    """A union network for a tiny UNet, with random weights in every layer."""
    torch.manual_seed(seed)
    kept = dict(tiny_controlnet(unet).config)
    kept = {name: one for name, one in kept.items() if not name.startswith("_")}
    for name in ("mid_block_type", "conditioning_channels"):
        kept.pop(name, None)
    channels = unet.config["block_out_channels"][0]
    own = {"num_trans_channel": channels, "num_proj_channel": channels, "num_trans_head": 2}
    network = ControlNetUnionModel(**(kept | own | config))
    for name, weight in network.named_parameters():
        if "controlnet_" in name or "spatial_ch" in name or "task_embedding" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return network.eval()


@pytest.fixture(scope="module")
def parts():
    return tiny_sdxl_components()


@pytest.fixture(scope="module")
def nets(parts):
    return [tiny_union(parts["unet"], seed) for seed in (5, 6)]


def draw(parts, *controls, **call):
    pipe = TextToImagePipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    options = CALL | {"num_inference_steps": 2, "output_type": "latent"} | call
    return pipe(generator=torch.Generator().manual_seed(3), controls=controls, **options).images


@pytest.mark.parametrize(
    ("given", "number", "call"),
    [
        ({"type": "canny"}, 3, {}),
        (
            {"type": 1, "scale": 0.6, "steps": (0.0, 0.6)},
            1,
            {"num_images_per_prompt": 2, "negative_prompt": "blue"},
        ),
        ({"type": "segments", "mode": "guess"}, 5, {"guidance_scale": 1.0}),
    ],
)
def test_a_union_network_acts_as_in_diffusers(parts, nets, given, number, call):
    theirs = StableDiffusionXLControlNetUnionPipeline(
        **parts, controlnet=nets[0], add_watermarker=False
    )
    control = Control(nets[0], hint(1), **given)
    named = {
        "control_image": [control.picture],
        "control_mode": [number],
        "controlnet_conditioning_scale": control.scale,
        "control_guidance_start": control.steps[0],
        "control_guidance_end": control.steps[1],
        "guess_mode": control.mode == "guess",
    }
    ours = CalledWith(TextToImagePipeline(**parts), {"controls": [control]})
    assert_same(ours, CalledWith(theirs, named), **(CALL | call))
    assert not torch.equal(draw(parts, control, **call), draw(parts, **call))


def test_several_union_networks_act_as_in_diffusers(parts, nets):
    theirs = StableDiffusionXLControlNetUnionPipeline(
        **parts, controlnet=MultiControlNetUnionModel(nets), add_watermarker=False
    )
    controls = [
        Control(nets[0], hint(1), 0.9, type="depth"),
        Control(nets[1], hint(2), 0.4, type="openpose"),
    ]
    named = {
        "control_image": [one.picture for one in controls],
        "control_mode": [one.type_number for one in controls],
        "controlnet_conditioning_scale": [one.scale for one in controls],
    }
    ours = CalledWith(TextToImagePipeline(**parts), {"controls": controls})
    assert_same(ours, CalledWith(theirs, named), **CALL)


def test_a_union_network_steers_a_start_picture_as_in_diffusers(parts, nets):
    theirs = StableDiffusionXLControlNetUnionImg2ImgPipeline(
        **parts, controlnet=nets[0], add_watermarker=False
    )
    start = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    ours = CalledWith(
        ImageToImagePipeline(**parts), {"controls": [Control(nets[0], hint(1), type="normal")]}
    )
    named = {"control_image": [hint(1)], "control_mode": [4], "controlnet_conditioning_scale": 1.0}
    assert_same(ours, CalledWith(theirs, named), **CALL, image=start, strength=0.8)


def test_the_type_of_a_hint_matters_and_names_are_numbers(parts, nets):
    drawn = {one: draw(parts, Control(nets[0], hint(1), type=one)) for one in ("canny", 3, 4)}
    assert torch.equal(drawn["canny"], drawn[3])
    assert not torch.equal(drawn[4], drawn[3])
    facts = [control_to_dict(Control(nets[0], hint(1), type=one)) for one in ("canny", 3, 4)]
    assert facts[0] == facts[1] != facts[2]


def test_its_attention_is_read_where_it_attends_to_words(parts, nets):
    control = Control(nets[0], hint(1), mode="control", type="canny")
    plain = draw(parts, control)
    pipe = TextToImagePipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    with attend(pipe) as attn:
        maps = attn.probe("apple", sites="control.0")
        options = CALL | {"num_inference_steps": 2, "output_type": "latent"}
        probed = pipe(generator=torch.Generator().manual_seed(3), controls=[control], **options)
        names = {site.name for site in attn.sites() if site.control_number == 0}
    assert torch.equal(probed.images, plain)
    assert torch.isfinite(maps["apple"]).all()
    # the blocks' own, and none of the attention over the hints
    assert {name.split("/")[1].split(".")[0] for name in names} == {"down_blocks", "mid_block"}


def test_a_saved_union_network_is_loaded_as_it_was(parts, nets, tmp_path):
    nets[0].save_pretrained(tmp_path / "union")
    loaded = load_control_network(tmp_path / "union", parts["unet"])
    expected = draw(parts, Control(nets[0], hint(1), type="depth"))
    assert torch.equal(draw(parts, Control(loaded, hint(1), type="depth")), expected)
    config = tmp_path / "union" / "config.json"
    config.write_text(config.read_text().replace('"num_control_type": 6', '"num_control_type": 7'))
    with pytest.raises(ModelError, match=r"control_add_embedding|task_embedding"):
        load_control_network(tmp_path / "union", parts["unet"])


def test_the_command_line_names_the_type():
    control = parse_control("union:edges.png:type=canny,scale=0.5")
    assert control.type == "canny"
    assert parse_control(control.option_value) == control


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Got type=None for a ControlNetUnionModel of 6 types.*from 0 to 5. Choices: canny"),
        ({"type": "cany"}, "Did you mean 'canny'"),
        ({"type": "tile"}, "Got type='tile'"),  # of the networks of 8 types
        ({"type": 6}, "Got type=6"),
        ({"type": True}, "Got type=True"),
    ],
)
def test_a_type_that_a_network_does_not_have_is_refused(nets, given, message):
    with pytest.raises(ArgumentError, match=message):
        Control(nets[0], hint(1), **given)


def test_what_is_no_union_network_has_no_type(parts, nets):
    with pytest.raises(ArgumentError, match="ControlNetModel, which reads one type of hints"):
        Control(tiny_controlnet(parts["unet"]), hint(1), type="canny")
    with pytest.raises(ArgumentError, match="Got a MultiControlNetUnionModel as the model"):
        Control(MultiControlNetUnionModel(nets), hint(1), type="canny")
    sd = tiny_sd_components()
    with pytest.raises(ArgumentError, match="take a ControlNet that was made for this model"):
        draw(sd, Control(nets[0], hint(1), type="canny"))
