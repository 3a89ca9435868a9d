"""Controls in every pipeline: their modes, masks and blocks, and what cannot be used."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, MultiControlNetModel
from PIL import Image

from pipelines.text_to_image import TextToImagePipeline
from t2i.controls.control import Control
from t2i.errors import ArgumentError
from tests.pipelines.controls.networks import hint, tiny_controlnet
from tests.tiny import tiny_sd_components, tiny_sdxl_components

PROMPT = "a red apple"


@pytest.fixture(scope="module")
def parts():
    return tiny_sd_components()


@pytest.fixture(scope="module")
def net(parts):
    return tiny_controlnet(parts["unet"])


@pytest.fixture
def draw(parts):
    pipe = TextToImagePipeline(**parts)
    pipe.set_progress_bar_config(disable=True)

    def draw(*controls, seed=3, **call):
        options = {"prompt": PROMPT, "num_inference_steps": 2, "output_type": "latent"} | call
        generator = torch.Generator().manual_seed(seed)
        return pipe(generator=generator, controls=list(controls), **options).images

    return draw


class Residuals:
    """What the UNet is given by controls, pass after pass: 4 + 1 residuals of the tiny model."""

    def __init__(self, unet):
        self.passes = []
        self.handle = unet.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, _module, _args, kwargs):
        down = kwargs["down_block_additional_residuals"] or []
        self.passes.append([*down, kwargs["mid_block_additional_residual"]])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


def first_pass(parts, draw, control, **call):
    with Residuals(parts["unet"]) as seen:
        draw(control, **call)
    return seen.passes[0]


def test_without_controls_nothing_reaches_the_unet(parts, draw):
    with Residuals(parts["unet"]) as seen:
        draw()
    assert seen.passes == [[None], [None]]


def test_the_mode_prompt_decays_from_the_deepest_block_in_all_rows(parts, net, draw):
    balanced = first_pass(parts, draw, Control(net, hint()))
    decayed = first_pass(parts, draw, Control(net, hint(), mode="prompt"))
    count = len(balanced)
    for index, (whole, part) in enumerate(zip(balanced, decayed, strict=True)):
        assert torch.equal(part, whole * 0.825 ** (count - 1 - index))
    assert torch.equal(balanced[-1], decayed[-1])


def test_stable_diffusion_has_thirteen_residuals_and_xl_ten():
    from t2i.controls.block_scales import (
        compute_decay_per_residual,
        list_block_of_each_controlnet_residual,
    )

    sd = {"layers_per_block": 2, "block_out_channels": (320, 640, 1280, 1280)}
    blocks = list_block_of_each_controlnet_residual(sd)
    assert [blocks.count(f"down.{n}") for n in range(4)] == [4, 3, 3, 2]
    assert blocks[-1] == "mid"
    assert compute_decay_per_residual(13) == [0.825 ** (12 - i) for i in range(13)]
    xl = list_block_of_each_controlnet_residual(sd | {"block_out_channels": (320, 640, 1280)})
    assert len(xl) == 10
    assert [xl.count(f"down.{n}") for n in range(3)] == [4, 3, 2]


def test_residual_blocks_are_those_of_a_real_network(parts, net):
    from t2i.controls.block_scales import list_block_of_each_controlnet_residual

    assert (
        len(list_block_of_each_controlnet_residual(net.config))
        == len(net.controlnet_down_blocks) + 1
    )


def test_the_mode_control_decays_too_and_leaves_the_unconditional_row_alone(parts, net, draw):
    in_prompt = first_pass(parts, draw, Control(net, hint(), mode="prompt"))
    in_control = first_pass(parts, draw, Control(net, hint(), mode="control"))
    for both, own in zip(in_prompt, in_control, strict=True):
        assert not own[0].any()
        assert own[1].any()
        assert torch.allclose(own[1], both[1], atol=1e-5)


def test_a_mask_keeps_the_residuals_where_it_is_white(parts, net, draw):
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 16:] = 255
    whole = first_pass(parts, draw, Control(net, hint()))
    part = first_pass(parts, draw, Control(net, hint(), mask=Image.fromarray(mask)))
    for all_of_it, masked in zip(whole, part, strict=True):
        half = masked.shape[-1] // 2
        assert not masked[..., :half].any()
        assert torch.equal(masked[..., half:], all_of_it[..., half:])


def test_two_controls_share_the_image_by_their_masks(net, draw):
    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1
    both = draw(Control(net, hint(1), mask=left), Control(net, hint(1), mask=1 - left))
    assert torch.allclose(both, draw(Control(net, hint(1))), atol=1e-5)


def test_blocks_choose_and_weigh_residuals(parts, net, draw):
    whole = first_pass(parts, draw, Control(net, hint()))
    mid = first_pass(parts, draw, Control(net, hint(), blocks=("mid",)))
    assert not any(one.any() for one in mid[:-1])
    assert torch.equal(mid[-1], whole[-1])
    scales = {"down.0": 0.5, "down.1": 2.0, "mid": 0.0}
    weighed = first_pass(parts, draw, Control(net, hint(), blocks=scales))
    assert torch.equal(weighed[0], whole[0] * 0.5)
    assert torch.equal(weighed[-2], whole[-2] * 2.0)
    assert not weighed[-1].any()


def test_steps_outside_the_window_do_not_run_the_network(net, draw):
    calls = []
    handle = net.register_forward_hook(lambda *_: calls.append(1))
    for steps, expected in (((0.0, 0.5), 2), ((0.5, 1.0), 2), ((1, 2), 1), (None, 4)):
        calls.clear()
        draw(Control(net, hint(), steps=steps), num_inference_steps=4)
        assert len(calls) == expected
    handle.remove()


def test_a_path_an_array_and_a_picture_are_one_hint(net, draw, tmp_path):
    picture = hint(1)
    picture.save(tmp_path / "hint.png")
    drawn = draw(Control(net, picture))
    array = np.asarray(picture)
    for same in (
        *(tmp_path / "hint.png", str(tmp_path / "hint.png"), array, array.astype("f") / 255),
        torch.tensor(array).permute(2, 0, 1),
    ):
        assert torch.equal(draw(Control(net, same)), drawn)


def test_what_is_clear_in_a_hint_is_black(net, draw):
    clear = hint(1).copy()
    clear.putalpha(0)
    assert torch.equal(draw(Control(net, clear)), draw(Control(net, Image.new("RGB", (32, 32)))))


def test_a_control_works_beside_a_unet_of_half_precision(parts, net):
    from tests.tiny import tiny_unet

    pipe = TextToImagePipeline(**(parts | {"unet": tiny_unet().to(torch.bfloat16)}))
    pipe.set_progress_bar_config(disable=True)
    pipe.text_encoder.to(torch.bfloat16)
    try:
        call = {"num_inference_steps": 2, "output_type": "latent"}
        drawn = pipe(PROMPT, controls=[Control(net, hint())], **call).images
    finally:
        pipe.text_encoder.to(torch.float32)
    assert drawn.dtype == torch.bfloat16
    assert net.dtype == torch.float32


# what cannot be used


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": "prompts"}, "Did you mean 'prompt'"),
        ({"steps": (0.8, 0.2)}, "expected the first to be at most the second"),
        ({"steps": (0.0, 1.5)}, "shares from 0.0 to 1.0"),
        ({"scale": float("nan")}, "Got scale=nan"),
        ({"picture": 3}, "Got int as the picture of a Control"),
        ({"picture": []}, "an empty list as the picture"),
        ({"mask": object()}, "as the mask of a Control"),
        ({"blocks": ()}, "expected names of the UNet's blocks"),
        ({"blocks": "mid"}, "expected names of the UNet's blocks"),
        ({"blocks": {"mid": "x"}}, "finite number"),
        ({"model": torch.nn.Linear(1, 1)}, "type Linear for a Control, expected a ControlNetModel"),
    ],
)
def test_a_control_that_cannot_be_made_is_refused(net, given, message):
    with pytest.raises(ArgumentError, match=message):
        Control(**({"model": net, "picture": hint()} | given))


def test_several_networks_are_several_controls(net):
    with pytest.raises(ArgumentError, match="give a Control for each of its networks"):
        Control(MultiControlNetModel([net, net]), hint())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"cross_attention_dim": 768}, r"width 768 \(Stable Diffusion 1\).* UNet has 32"),
        ({"block_out_channels": (16, 16)}, r"blocks of channels \(16, 16\)"),
        ({"layers_per_block": 2}, "layers per block 2"),
        ({"in_channels": 9}, "latents of 9 channels, and this model's have 4"),
        ({"conditioning_channels": 8}, "hints of 8 channels, expected 3"),
        ({"conditioning_embedding_out_channels": (8, 8)}, "2 pixels per latent.*has 4"),
    ],
)
def test_a_network_for_another_model_is_refused_before_anything_runs(parts, draw, config, message):
    other = tiny_controlnet(parts["unet"], **config)
    with pytest.raises(ArgumentError, match=f"Control 0 is a ControlNet .*{message}"):
        draw(Control(other, hint()), prompt=None, prompt_embeds=torch.zeros(1, 16, 32))


def test_a_network_for_xl_is_refused_by_stable_diffusion(parts, draw):
    other = tiny_controlnet(tiny_sdxl_components()["unet"])
    with pytest.raises(ArgumentError, match="take a ControlNet that was made for this model"):
        draw(Control(other, hint()))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"blocks": ("down.7",)}, "names the block 'down.7'.*Choices: down.0, down.1, mid"),
        ({"steps": (0.3, 0.4)}, r"acts at none of the run's 2 steps"),
        ({"mask": Image.new("L", (32, 32))}, "black everywhere"),
        ({"picture": [hint(), hint(), hint()]}, "Got 3 pictures in a control for 1 image"),
        ({"picture": torch.full((3, 32, 32), 255.0)}, "values from 255 to 255, expected 0 to 1"),
        ({"picture": torch.full((3, 32, 32), float("nan"))}, "finite numbers"),
        ({"picture": torch.zeros(5, 32, 32)}, "expected 3 channels"),
        ({"mask": torch.ones(3, 3, 32, 32)}, "expected one channel"),
        ({"picture": [hint(), np.zeros((32, 32, 3), "f")]}, "cannot be used"),
    ],
)
def test_a_control_that_a_run_cannot_use_is_refused(net, draw, given, message):
    with pytest.raises(ArgumentError, match=message):
        draw(Control(**({"model": net, "picture": hint()} | given)))


def test_controls_are_a_list_of_controls(net, parts):
    pipe = TextToImagePipeline(**parts)
    for wrong in (Control(net, hint()), [net], None):
        with pytest.raises(ArgumentError, match=r"expected a list of Control\(model, picture\)"):
            pipe(PROMPT, controls=wrong)


def test_a_mask_needs_residuals_with_positions(parts, draw):
    pooling = tiny_controlnet(parts["unet"], global_pool_conditions=True)
    assert isinstance(pooling, ControlNetModel)
    with pytest.raises(ArgumentError, match="one value for the whole image"):
        draw(Control(pooling, hint(), mask=torch.ones(1, 32, 32)))


def test_a_missing_picture_is_named(net, draw, tmp_path):
    from t2i.errors import DataError

    with pytest.raises(DataError, match=r"nowhere\.png"):
        draw(Control(net, tmp_path / "nowhere.png"))


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_controlnet_does_not_see_how_long_other_prompts_are(parts, net, compiled):
    double = {name: copy.deepcopy(parts[name]).double() for name in ("unet", "text_encoder")}
    pipe = TextToImagePipeline(**(parts | double))
    pipe.set_progress_bar_config(disable=True)
    network: Any = copy.deepcopy(net).double()
    if compiled:
        network = torch.compile(network, backend="eager")
    prompts = ["a red apple", "a cat to the left of " * 6, ""]
    options = {"controls": [Control(network, hint(1))], "num_inference_steps": 2}
    options |= {"output_type": "latent"}

    def draw(prompt, *seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return pipe(prompt, generator=generators, **options).images

    alone = [draw(prompt, seed) for seed, prompt in enumerate(prompts)]
    assert torch.allclose(draw(prompts, 0, 1, 2), torch.cat(alone), rtol=0, atol=1e-11)
    assert not any(module._forward_pre_hooks for module in network.modules())
