"""Deep blocks every n-th pass, against a UNet's forward written out by hand, in float64."""

import copy

import pytest
import torch
from peft import LoraConfig

from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline
from pipelines.text_to_image import TextToImagePipeline
from t2i.conditioning.guidance import ClassifierFree
from t2i.conditioning.guidance_interval import Interval
from t2i.controls.control import Control
from t2i.denoiser.caches import DeepBlocks
from t2i.denoiser.caches.unet_depth import find_unet_depth
from t2i.denoiser.schedulers import build_scheduler
from t2i.errors import ArgumentError
from t2i.text.prompt import Prompt
from tests.denoiser.caches.by_hand import largest_difference, recording
from tests.denoiser.tiny_models import kandinsky_components
from tests.pipelines.controls.networks import hint, tiny_adapter, tiny_controlnet
from tests.pipelines.test_adapters import PICTURE, adapter_for, seeing
from tests.sweeps import sweep
from tests.tiny import picture, tiny_sd_components, tiny_sdxl_components, tiny_unet

__all__ = ["seeing"]  # a fixture

PROMPT = "a red apple to the left of the cat"
FLOAT64 = 1e-12
"""Relative to the largest value of a prediction."""
SD1 = {
    "block_out_channels": (8, 16, 16, 16),
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "layers_per_block": 2,
}
SDXL = {
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 1, 2),
}
EMBEDDED = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
}


def pipeline(parts, kind=TextToImagePipeline):
    """In float64, with parts of its own."""
    pipe = kind(**copy.deepcopy(parts))
    pipe.to(torch.float64)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def check(pipe, full, branch=0, cache=None, **call):
    """Each pass of a run is the one by hand; returns the passes, as recorded."""
    options = {"prompt": PROMPT, "num_inference_steps": 5, "output_type": "latent"} | call
    images = options.get("num_images_per_prompt", 1) * (
        len(options["prompt"]) if isinstance(options["prompt"], list) else 1
    )
    seeds = [torch.Generator().manual_seed(seed) for seed in range(images)]
    chosen = DeepBlocks(every=3, branch=branch) if cache is None else cache
    with recording(pipe.unet) as found:
        cached = pipe(generator=seeds, cache=[chosen], **options).images
    assert torch.isfinite(cached).all()
    assert largest_difference(pipe.unet, found, branch, full) < FLOAT64
    seeds = [torch.Generator().manual_seed(seed) for seed in range(images)]
    assert not torch.equal(cached, pipe(generator=seeds, **options).images)
    return found.passes


# The first branch, one of another level, and the last.
@pytest.mark.parametrize("branch", sweep([0, 3, 10, 1, 2, 5], quick=3))
def test_each_pass_of_sd1_is_the_one_by_hand(branch):
    pipe = pipeline(tiny_sd_components() | {"unet": tiny_unet(**SD1)})
    passes = check(pipe, {0, 3}, branch, negative_prompt="blue")
    assert [len(one["args"][0]) for one in passes] == [2] * 5  # both halves of guidance


@pytest.mark.parametrize("branch", sweep([0, 4, 1, 7], quick=2))
def test_each_pass_of_sdxl_is_the_one_by_hand(branch):
    check(pipeline(tiny_sdxl_components(**SDXL)), {0, 3}, branch)


@pytest.mark.parametrize("branch", [0, 1, 2])
def test_each_pass_of_two_levels_of_one_layer_is_the_one_by_hand(branch):
    pipe = pipeline(tiny_sd_components() | {"unet": tiny_unet(**EMBEDDED)})
    check(pipe, {0, 3}, branch)


def test_a_size_that_does_not_halve_evenly():
    pipe = pipeline(tiny_sd_components() | {"unet": tiny_unet(**SD1)})
    for branch in (0, 4):
        check(pipe, {0, 3}, branch, height=60, width=44)


def test_several_prompts_and_images_keep_their_own_rows():
    prompts = [PROMPT, "a blue dog"]
    passes = check(pipeline(tiny_sd_components()), {0, 3}, prompt=prompts, num_images_per_prompt=2)
    assert len(passes[0]["args"][0]) == 8


@pytest.mark.parametrize(
    ("sampler", "full"),
    [
        # Second order: nine passes for five steps.
        ("heun", {0, 3, 6}),
        ("dpm++ 2m", {0, 3}),
        ("euler a", {0, 3}),
    ],
)
def test_other_samplers(sampler, full):
    pipe = pipeline(tiny_sd_components())
    pipe.scheduler = build_scheduler(sampler, pipe.scheduler.config)
    passes = check(pipe, full)
    assert len(passes) == (9 if sampler == "heun" else 5)


def test_image_to_image_and_inpainting_begin_with_a_full_pass():
    parts = tiny_sd_components()
    image = pipeline(parts, ImageToImagePipeline)
    assert len(check(image, {0, 3}, image=picture(), strength=0.8)) == 4
    mask = hint().convert("L").point(lambda value: 255 * (value > 127))
    inpaint = pipeline(parts | {"unet": tiny_unet(in_channels=9)}, InpaintPipeline)
    check(inpaint, {0, 3}, image=picture(), mask_image=mask, strength=1.0)


def test_loras_are_in_the_layers_that_are_computed_and_in_those_that_are_kept():
    pipe = pipeline(tiny_sd_components())
    plain = check(pipe, {0, 3})
    torch.manual_seed(8)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "conv1", "to_v"]))
    for name, weight in pipe.unet.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted = check(pipe, {0, 3})
    assert not torch.equal(plain[1]["output"], adapted[1]["output"])


def test_an_image_prompt_is_in_every_pass(seeing):
    pipe = TextToImagePipeline(**copy.deepcopy(seeing))
    pipe.unet._load_ip_adapter_weights([adapter_for(pipe.unet)])
    pipe.set_ip_adapter_scale([0.8])
    pipe.to(torch.float64)
    pipe.set_progress_bar_config(disable=True)
    check(pipe, {0, 3}, ip_adapter_image=PICTURE)


@pytest.mark.parametrize("branch", [0, 3])
def test_residuals_of_a_controlnet_count_where_their_layers_are_computed(branch):
    parts = tiny_sd_components() | {"unet": tiny_unet(**SD1)}
    network = tiny_controlnet(parts["unet"])
    pipe = pipeline(parts)
    control = Control(network.to(torch.float64), hint(1))
    passes = check(pipe, {0, 3}, branch, controls=[control])
    for number, one in enumerate(passes):
        residuals = one["kwargs"]["down_block_additional_residuals"]
        used = 12 if number in (0, 3) else branch + 1
        assert [residual.abs().max() > 0 for residual in residuals] == [True] * used + [False] * (
            12 - used
        )
    assert passes[1]["kwargs"]["mid_block_additional_residual"].abs().max() == 0


@pytest.mark.parametrize("branch", sweep([2, 9, 0, 3, 6], quick=2))
def test_features_of_a_t2i_adapter_count_where_their_layers_are_computed(branch):
    parts = tiny_sd_components() | {"unet": tiny_unet(**SD1)}
    adapter = tiny_adapter(parts["unet"])
    pipe = pipeline(parts)
    control = Control(adapter.to(torch.float64), hint(1))
    passes = check(pipe, {0, 3}, branch, controls=[control])
    used = [
        one.abs().max() > 0 for one in passes[1]["kwargs"]["down_intrablock_additional_residuals"]
    ]
    # The layers of a block are connections 1 and 2, 4 and 5, 7 and 8, 10 and 11.
    assert used == [branch >= last for last in (2, 5, 8, 11)]


def test_guidance_that_stops_goes_on_with_the_rows_of_cond():
    guidance = Interval(ClassifierFree(5.0), stop=0.5)
    passes = check(pipeline(tiny_sd_components()), {0, 3}, guidance=guidance)
    assert [len(one["args"][0]) for one in passes] == [2, 2, 1, 1, 1]


def test_a_pass_with_a_branch_that_was_not_kept_is_full():
    guidance = Interval(ClassifierFree(5.0), start=0.5)
    passes = check(pipeline(tiny_sd_components()), {0, 2, 3}, guidance=guidance)
    assert [len(one["args"][0]) for one in passes] == [1, 1, 2, 2, 2]


def test_a_pass_with_another_text_is_full():
    prompt = Prompt("a [cat:dog:0.4]", dialect="a1111")
    check(pipeline(tiny_sd_components()), {0, 2, 3}, prompt=prompt)


def test_the_power_schedule_and_passes_of_ones_own():
    pipe = pipeline(tiny_sd_components())
    own = DeepBlocks(full=(0, 1, 4))
    check(pipe, {0, 1, 4}, cache=own)
    power = DeepBlocks(every=2, schedule="power")
    check(pipe, {0, 2, 3, 5, 7}, cache=power, num_inference_steps=10)


def test_freeu_changes_no_kept_feature_in_place():
    pipe = pipeline(tiny_sd_components())
    call = {"prompt": PROMPT, "num_inference_steps": 4, "output_type": "latent"}

    def draw(full):
        seed = torch.Generator().manual_seed(3)
        return pipe(cache=[DeepBlocks(branch=2, full=full)], generator=seed, **call).images

    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    with recording(pipe.unet) as found:
        draw((0,))
    entering = []

    def see(_module, args):
        entering.append(args[0][:, :32].clone())

    # The layer that reads connection 2 is the second of the first upward block.
    hook = pipe.unet.up_blocks[0].resnets[1].register_forward_pre_hook(see)
    draw((0,))
    hook.remove()
    assert len(found.passes) == 4
    for later in entering[1:]:
        assert torch.equal(later, entering[0])


def test_a_cut_pass_calls_no_module_beyond_the_branch():
    pipe = pipeline(tiny_sd_components() | {"unet": tiny_unet(**SD1)})
    passes = check(pipe, {0, 3}, 1)
    full, cut = (set(passes[number]["ran"]) for number in (0, 1))
    shallow = (
        *("time_embedding.", "time_proj", "conv_", "down_blocks.0.resnets.0."),
        *("down_blocks.0.attentions.0.", "up_blocks.3.resnets.1.", "up_blocks.3.resnets.2."),
        *("up_blocks.3.attentions.1.", "up_blocks.3.attentions.2."),
    )
    assert cut == {name for name in full if name.startswith(shallow)}
    assert len(cut) < len(full) / 4
    assert [set(one["ran"]) == full for one in passes] == [True, False, False, True, False]


def test_the_deeper_the_branch_the_nearer_to_the_plain_run():
    pipe = pipeline(tiny_sd_components() | {"unet": tiny_unet(**SD1)})
    call = {"prompt": PROMPT, "num_inference_steps": 6, "output_type": "latent"}

    def draw(**cache):
        seed = torch.Generator().manual_seed(3)
        return pipe(generator=seed, **call, **cache).images

    plain = draw()
    errors = [
        float((draw(cache=[DeepBlocks(every=2, branch=branch)]) - plain).norm())
        for branch in (0, 5, 10)
    ]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 1}, "Got every=1, expected a whole number from 2 on"),
        ({"every": 2.5}, "Got every=2.5"),
        ({"branch": -1}, "Got branch=-1, expected the number of a skip connection"),
        ({"schedule": "powr"}, "Unknown schedule 'powr'. Did you mean 'power'"),
        ({"centre": 1.0}, "Got centre=1.0, expected a share"),
        ({"power": 1.0}, "Got power=1.0, expected a number above 1"),
        ({"power": 10.5}, "Got power=10.5, expected a number above 1, up to 10"),
        ({"power": 30_000}, "expected a number above 1, up to 10"),
        ({"full": 3}, "Got full=3, expected a tuple of the numbers of the passes"),
        ({"full": "0/3"}, "Got full='0/3', expected a tuple of the numbers"),
        ({"full": (1, 3)}, r"Got full=\(1, 3\), which skips the first pass of the run"),
        (
            {"full": (0, 3, 3)},
            r"Got full=\(0, 3, 3\), expected a tuple of the numbers of the passes",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_arguments_that_no_run_can_use_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        DeepBlocks(**arguments)


def test_full_passes_beyond_the_run_are_refused():
    pipe = pipeline(tiny_sd_components())
    match = "Got full=0/40 for a run of 4 passes, whose last is 3: leave out the later ones"
    with pytest.raises(ArgumentError, match=match):
        pipe(PROMPT, num_inference_steps=4, cache=[DeepBlocks(full=(0, 40))])


def test_a_branch_that_the_unet_does_not_have_is_refused_with_those_it_has():
    pipe = pipeline(tiny_sd_components())
    with pytest.raises(ArgumentError, match=r"has 4 skip connections: expected 0, .* to 2"):
        pipe(PROMPT, cache=[DeepBlocks(branch=3)])


def test_denoisers_of_other_blocks_are_refused():
    with pytest.raises(ArgumentError, match="a UNet with a ResnetDownsampleBlock2D"):
        find_unet_depth(kandinsky_components()["unet"])
    with pytest.raises(ArgumentError, match="deep blocks for a Linear, which has none"):
        find_unet_depth(torch.nn.Linear(2, 2))
