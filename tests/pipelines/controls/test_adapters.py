"""T2I-Adapters as controls: equal to diffusers' pipelines bit for bit, and beside others."""

import pytest
import torch
from diffusers import (
    MultiAdapter,
    StableDiffusionAdapterPipeline,
    StableDiffusionXLAdapterPipeline,
)
from PIL import Image

from pipelines.text_to_image import TextToImagePipeline
from t2i.controls.block_scales import compute_residual_scales, list_block_of_each_residual
from t2i.controls.control import Control
from t2i.controls.loading import load_control_network
from t2i.errors import ArgumentError
from tests.pipelines.against import assert_same
from tests.pipelines.controls.networks import (
    CalledWith,
    hint,
    tiny_adapter,
    tiny_controlnet,
)
from tests.tiny import tiny_sd_components, tiny_sdxl_components, tiny_unet

PROMPT = "a red apple"
UNSAFE = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
FOUR = {
    "block_out_channels": (8, 16, 16, 16),
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "sample_size": 16,
}
SIZE = {"height": 64, "width": 64}
# diffusers' pipeline of Stable Diffusion multiplies by 1 / scaling_factor before it decodes.
LATENT = {"output_type": "latent"}


@pytest.fixture(scope="module")
def parts():
    return tiny_sd_components() | {"unet": tiny_unet(**FOUR)}


@pytest.fixture(scope="module")
def adapters(parts):
    return [tiny_adapter(parts["unet"], seed) for seed in (5, 6)]


def draw(parts, *controls, **call):
    pipe = TextToImagePipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    options = {"prompt": PROMPT, "num_inference_steps": 2, "output_type": "latent", **SIZE} | call
    seed = torch.Generator().manual_seed(3)
    return pipe(generator=seed, controls=list(controls), **options).images


@pytest.mark.parametrize(
    ("scale", "call"),
    [
        (1.0, {}),
        (0.7, {"num_images_per_prompt": 2, "negative_prompt": "blue"}),
        (0.4, {"guidance_scale": 1.0, "width": 32}),
    ],
)
def test_an_adapter_acts_as_in_diffusers(parts, adapters, scale, call):
    theirs = StableDiffusionAdapterPipeline(**parts, adapter=adapters[0], **UNSAFE)
    picture = hint(1, (40, 24))
    call = {"prompt": PROMPT, **SIZE} | call
    controlled = assert_same(
        CalledWith(
            TextToImagePipeline(**parts), {"controls": [Control(adapters[0], picture, scale)]}
        ),
        CalledWith(theirs, {"image": picture, "adapter_conditioning_scale": scale}),
        **call,
        **LATENT,
    )
    assert not torch.equal(controlled, draw(parts, **call, num_inference_steps=4))


def test_several_adapters_act_as_in_diffusers(parts, adapters):
    theirs = StableDiffusionAdapterPipeline(**parts, adapter=MultiAdapter(adapters), **UNSAFE)
    pictures, scales = [hint(1, (64, 64)), hint(2, (64, 64))], [0.9, 0.3]
    controls = [Control(*one) for one in zip(adapters, pictures, scales, strict=True)]
    assert_same(
        CalledWith(TextToImagePipeline(**parts), {"controls": controls}),
        CalledWith(theirs, {"image": pictures, "adapter_conditioning_scale": scales}),
        prompt=PROMPT,
        **SIZE,
        **LATENT,
    )


def test_an_adapter_of_gray_hints_acts_as_in_diffusers(parts):
    adapter = tiny_adapter(parts["unet"], in_channels=1)
    theirs = StableDiffusionAdapterPipeline(**parts, adapter=adapter, **UNSAFE)
    picture = hint(1, (64, 64)).convert("L")
    ours = CalledWith(TextToImagePipeline(**parts), {"controls": [Control(adapter, picture)]})
    assert_same(ours, CalledWith(theirs, {"image": picture}), prompt=PROMPT, **SIZE, **LATENT)


def test_adapters_for_three_blocks_with_attention_act_as_in_diffusers():
    blocks = {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    }
    parts = tiny_sd_components() | {"unet": tiny_unet(**blocks, sample_size=16)}
    adapter = tiny_adapter(parts["unet"])
    theirs = StableDiffusionAdapterPipeline(**parts, **UNSAFE, adapter=adapter)
    control = Control(adapter, hint(1, (64, 64)))
    ours = CalledWith(TextToImagePipeline(**parts), {"controls": [control]})
    image = {"image": control.picture}
    assert_same(ours, CalledWith(theirs, image), prompt=PROMPT, **SIZE, **LATENT)
    # its features belong to the three blocks, the deepest at full strength in each mode
    assert list_block_of_each_residual(control) == ["down.0", "down.1", "down.2"]
    prompt_mode = Control(adapter, hint(1), mode="prompt", blocks={"down.0": 1.0, "down.2": 0.5})
    assert compute_residual_scales(prompt_mode) == [0.62, 0.0, 0.5]


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_sdxls_adapters_act_as_in_diffusers(share):
    parts = tiny_sdxl_components(
        block_out_channels=(16, 16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1,
        sample_size=16,
    )
    adapter = tiny_adapter(parts["unet"])
    theirs = StableDiffusionXLAdapterPipeline(**parts, adapter=adapter)
    control = Control(adapter, hint(1, (64, 64)), 0.8, (0.0, share))
    assert_same(
        CalledWith(TextToImagePipeline(**parts), {"controls": [control]}),
        CalledWith(
            theirs,
            {
                "image": control.picture,
                "adapter_conditioning_scale": 0.8,
                "adapter_conditioning_factor": share,
            },
        ),
        prompt=PROMPT,
        guidance_scale=5.0,
        **SIZE,
    )


def test_an_adapter_runs_once_a_run(parts, adapters):
    calls = []
    handle = adapters[0].register_forward_hook(lambda *_: calls.append(1))
    draw(parts, Control(adapters[0], hint(1)), num_inference_steps=4)
    handle.remove()
    assert len(calls) == 1


def features_of(parts, control):
    seen = []

    def note(_module, _args, kwargs):
        seen.append([one.clone() for one in kwargs["down_intrablock_additional_residuals"]])

    handle = parts["unet"].register_forward_pre_hook(note, with_kwargs=True)
    draw(parts, control)
    handle.remove()
    return seen[0]


def test_modes_masks_and_blocks_weigh_an_adapters_features(parts, adapters):
    whole = features_of(parts, Control(adapters[0], hint(1)))
    prompt = features_of(parts, Control(adapters[0], hint(1), mode="prompt"))
    control = features_of(parts, Control(adapters[0], hint(1), mode="control"))
    left = torch.zeros(1, 64, 64)
    left[..., :32] = 1
    masked = features_of(parts, Control(adapters[0], hint(1), mask=left))
    last = features_of(parts, Control(adapters[0], hint(1), blocks=("down.3",)))
    for index, scale in enumerate((0.25, 0.62, 0.825, 1.0)):
        assert torch.equal(prompt[index], whole[index] * scale)
        assert not control[index][0].any()
        assert torch.equal(control[index][1], prompt[index][1])
        half = whole[index].shape[-1] // 2
        assert torch.equal(masked[index][..., :half], whole[index][..., :half])
        assert not masked[index][..., half:].any()
        assert last[index].any() == (index == 3)


def test_an_adapter_and_a_controlnet_go_together(parts, adapters):
    controls = [
        Control(adapters[0], hint(1)),
        Control(tiny_controlnet(parts["unet"]), hint(2), mode="control"),
    ]
    found = [draw(parts, *some) for some in (controls, controls[:1], controls[1:], ())]
    for number, one in enumerate(found):
        assert torch.isfinite(one).all()
        assert not any(torch.equal(one, other) for other in found[:number])


def test_a_saved_adapter_is_loaded_as_it_was(parts, adapters, tmp_path):
    adapters[0].save_pretrained(tmp_path / "sketch")
    loaded = load_control_network(tmp_path / "sketch", parts["unet"])
    expected = draw(parts, Control(adapters[0], hint(1)))
    assert torch.equal(draw(parts, Control(loaded, hint(1))), expected)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"channels": [8, 16, 32, 16]}, r"blocks of channels \(8, 16, 32, 16\).*has \(8, 16, 16"),
        ({"adapter_type": "full_adapter_xl"}, "full_adapter_xl"),
        ({"in_channels": 2}, "hints of 2 channels, expected 1 or 3"),
    ],
)
def test_an_adapter_for_another_model_is_refused(parts, config, message):
    with pytest.raises(ArgumentError, match=f"Control 0 is a T2I-Adapter.*{message}"):
        draw(parts, Control(tiny_adapter(parts["unet"], **config), hint(1)))


def test_what_an_adapter_cannot_do_is_refused(parts, adapters):
    with pytest.raises(ArgumentError, match="has no such mode"):
        Control(adapters[0], hint(1), mode="guess")
    with pytest.raises(ArgumentError, match="Got a MultiAdapter as the model of one Control"):
        Control(MultiAdapter(adapters), hint(1))
    with pytest.raises(ArgumentError, match="must be multiples of 32"):
        draw(parts, Control(adapters[0], hint(1)), width=48)
    with pytest.raises(ArgumentError, match="Got 3 pictures in a control for 1 image"):
        draw(parts, Control(adapters[0], [hint(1)] * 3))
    with pytest.raises(ArgumentError, match="names the block 'mid'"):
        draw(parts, Control(adapters[0], Image.new("RGB", (8, 8)), blocks=("mid",)))
