"""Perturbed self-attention: only the rows it is meant for, and nothing left behind."""

from functools import partial

import pytest
import torch
from diffusers import StableDiffusionPAGPipeline
from diffusers.models.attention_processor import AttnProcessor, SlicedAttnProcessor

from pipelines.loop import sample_latents
from t2i.conditioning.conditioning import stack_branches_to_conditioning
from t2i.conditioning.guidance import ClassifierFree
from t2i.conditioning.guidance_interval import Interval
from t2i.conditioning.perturbed_guidance import PerturbedAttention, list_perturbed_site_patterns
from t2i.conditioning.run_state import RunState
from t2i.denoiser.families import sd
from t2i.denoiser.perturbed_attention import (
    find_self_attention_modules,
    perturbing_self_attention,
    wrap_perturbed_denoiser,
)
from t2i.denoiser.timesteps import set_timesteps
from t2i.errors import ArgumentError, AttentionError
from tests.tiny import TEXT_WIDTH, tiny_scheduler, tiny_sd_components, tiny_unet

ROLES = ("uncond", "perturbed", "cond", "perturbed")


def answer(unet, rows=4):
    """The answer to rows that all say the same."""
    torch.manual_seed(3)
    latents_BCHW = torch.randn(1, 4, 8, 8).repeat(rows, 1, 1, 1)
    text_BTD = torch.randn(1, 16, TEXT_WIDTH).repeat(rows, 1, 1)
    return unet(latents_BCHW, torch.tensor(500), encoder_hidden_states=text_BTD).sample


def state(unet):
    """What must be the very same objects afterwards."""
    modules = list(unet.modules())
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules]
    return list(unet.attn_processors.values()), [m.__dict__.get("forward") for m in modules], hooks


def same(before, after):
    return (
        all(
            x is y
            for b, a in zip(before[:2], after[:2], strict=True)
            for x, y in zip(b, a, strict=True)
        )
        and before[2] == after[2]
    )


@torch.no_grad()
def test_only_the_rows_of_the_role_change_wherever_they_are():
    unet = tiny_unet()
    without = answer(unet)
    with perturbing_self_attention(unet, ["mid"], ROLES):
        inside = answer(unet)
    for row, role in enumerate(ROLES):
        assert torch.equal(inside[row], without[row]) == (role != "perturbed")
    assert (inside[1] - without[1]).abs().max() > 1e-4


@torch.no_grad()
def test_each_position_of_the_perturbed_rows_attends_to_itself_alone():
    """With one image position at the site there is nothing else to attend to: nothing changes."""
    unet = tiny_unet()
    latents = torch.randn(2, 4, 2, 2)  # the middle block sees one position
    text = torch.randn(2, 16, TEXT_WIDTH)
    without = unet(latents, 500, encoder_hidden_states=text).sample
    with perturbing_self_attention(unet, ["mid"], ("cond", "perturbed")):
        inside = unet(latents, 500, encoder_hidden_states=text).sample
    torch.testing.assert_close(inside, without, rtol=0, atol=1e-6)


@torch.no_grad()
def test_identity_holds_for_attention_over_pictures_with_norm_and_residual():
    """The older blocks' attention takes (B, C, H, W), normalises and adds its input."""
    unet = tiny_unet(
        down_block_types=("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
    )
    site = unet.down_blocks[0].attentions[0]
    hidden = torch.randn(2, 16, 1, 1)
    attended = site(hidden)
    with perturbing_self_attention(unet, ["down_blocks.0"], ("perturbed", "cond")):
        inside = site(hidden)
    torch.testing.assert_close(inside, attended, rtol=0, atol=1e-6)


def test_the_model_is_left_as_it_was_also_after_an_exception():
    unet = tiny_unet()
    before = state(unet)
    with perturbing_self_attention(unet, ["mid", "up"], ROLES):
        assert not same(before, state(unet))
    assert same(before, state(unet))
    with pytest.raises(KeyboardInterrupt), perturbing_self_attention(unet, ["mid"], ROLES):
        raise KeyboardInterrupt
    assert same(before, state(unet))


def test_without_a_perturbed_row_nothing_is_installed():
    unet = tiny_unet()
    before = state(unet)
    with perturbing_self_attention(unet, ["mid"], ("uncond", "cond")):
        assert same(before, state(unet))


@torch.no_grad()
def test_roles_for_another_number_of_rows_are_refused():
    unet = tiny_unet()
    with (
        pytest.raises(ArgumentError, match="Got a pass of 3 rows, but branches for 4"),
        perturbing_self_attention(unet, ["mid"], ROLES),
    ):
        answer(unet, rows=3)


@pytest.mark.parametrize(
    "processor", [AttnProcessor(), SlicedAttnProcessor(3)], ids=["old", "sliced"]
)
@torch.no_grad()
def test_processors_that_compute_their_own_scores_are_perturbed(processor):
    """Slices of 3 rows x heads lie across the rows of the batch."""
    unet = tiny_unet()
    without = answer(unet)
    with perturbing_self_attention(unet, ["mid", "up"], ROLES):
        expected = answer(unet)
    unet.set_attn_processor(processor)
    scores = [vars(module).get("get_attention_scores") for module in unet.modules()]
    with perturbing_self_attention(unet, ["mid", "up"], ROLES):
        inside = answer(unet)
    torch.testing.assert_close(inside, expected, rtol=0, atol=1e-5)
    assert (inside[1] - without[1]).abs().max() > 1e-4
    assert scores == [vars(module).get("get_attention_scores") for module in unet.modules()]


@torch.no_grad()
def test_a_processor_that_goes_past_the_tap_is_refused():
    class Elsewhere:
        def __call__(self, attn, hidden_states, **_):
            return hidden_states

    unet = tiny_unet()
    unet.set_attn_processor(Elsewhere())
    with (
        pytest.raises(AttentionError, match=r"mid_block.* never came to the tap"),
        perturbing_self_attention(unet, ["mid"], ROLES),
    ):
        answer(unet)


@torch.no_grad()
def test_two_that_overlap_leave_the_model_as_it_was_whichever_ends_first():
    unet = tiny_unet()
    before = state(unet)
    first, second = (perturbing_self_attention(unet, ["mid"], ROLES) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not same(before, state(unet))
    second.__exit__(None, None, None)
    assert same(before, state(unet))


def test_patterns_choose_self_attention_by_name():
    unet = tiny_unet()
    everywhere = find_self_attention_modules(unet, ["."])
    assert all(name.endswith("attn1") for name in everywhere)
    assert len(everywhere) == 4
    assert list(find_self_attention_modules(unet, ["mid"])) == [
        "mid_block.attentions.0.transformer_blocks.0.attn1"
    ]
    assert len(find_self_attention_modules(unet, ["mid", "down_blocks.0", "mid_block"])) == 2


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("mid_blok", "called 'mid_blok'. Did you mean 'mid_block'.*down_blocks.0, mid_block, up_b"),
        ("attn2", "No self-attention of this model is called 'attn2'"),
        ("up(", r"site 'up\(', which is no regular expression"),
    ],
)
def test_a_site_that_the_model_has_not_is_refused_before_the_first_pass(site, message):
    with pytest.raises(ArgumentError, match=message):
        wrap_perturbed_denoiser(lambda *_: None, tiny_unet(), [site])


def test_a_guidance_without_sites_leaves_the_denoiser_alone():
    def denoise(latents_BCHW, timestep, told):
        raise AssertionError

    assert (
        wrap_perturbed_denoiser(
            denoise, tiny_unet(), list_perturbed_site_patterns(ClassifierFree(7.5))
        )
        is denoise
    )


@pytest.mark.parametrize("scale", [1.0, 5.0])
@torch.no_grad()
def test_against_diffusers_pag_pipeline(scale):
    components = tiny_sd_components()
    latents = torch.randn(2, 4, 8, 8)
    cond, uncond = torch.randn(2, 16, TEXT_WIDTH), torch.randn(2, 16, TEXT_WIDTH)
    theirs = StableDiffusionPAGPipeline(
        **components,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        pag_applied_layers=["mid", "up_blocks.1"],
    )
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        prompt_embeds=cond,
        negative_prompt_embeds=uncond if scale > 1 else None,
        guidance_scale=scale,
        pag_scale=3.0,
        num_inference_steps=4,
        latents=latents,
        output_type="latent",
    ).images

    guidance = PerturbedAttention(scale, 3.0, ("mid", "up_blocks.1"))
    found = ours(components["unet"], guidance, cond, uncond, latents, steps=4)
    difference = (found - expected).abs().max().item()
    assert difference < 1e-5, f"PAG differs by {difference} from diffusers"
    assert expected.std() > 0.1


@torch.no_grad()
def test_an_interval_perturbs_within_it_only():
    unet, latents = tiny_unet(), torch.randn(1, 4, 8, 8)
    text = torch.randn(2, 1, 16, TEXT_WIDTH)
    guidance = PerturbedAttention(3.0)
    rows = []

    def note(module, args, kwargs):
        rows.append(len(args[0]))

    hook = unet.register_forward_pre_hook(note, with_kwargs=True)
    ours(unet, Interval(guidance, 0.25, 0.75), *text, latents, steps=4)
    hook.remove()
    assert rows == [1, 3, 3, 1]


def ours(unet, guidance, cond, uncond, latents, steps):
    stepper = tiny_scheduler()
    set_timesteps(stepper, steps, torch.device("cpu"))
    told = stack_branches_to_conditioning(
        {name: uncond if name == "uncond" else cond for name in guidance.possible_branches}
    )
    run = RunState(latents, told, guidance, stepper.timesteps)
    denoise = wrap_perturbed_denoiser(
        partial(sd.run_unet, unet), unet, list_perturbed_site_patterns(guidance)
    )
    return sample_latents(run, denoise, stepper)
