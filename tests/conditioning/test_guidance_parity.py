"""The formulas against diffusers' guiders, on the same predictions."""

import pytest
import torch
from diffusers.guiders import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    ClassifierFreeZeroStarGuidance,
    PerturbedAttentionGuidance,
)
from diffusers.hooks import LayerSkipConfig

from t2i.conditioning.conditioning import stack_branches_to_conditioning
from t2i.conditioning.guidance import ClassifierFree, Conditional, ZeroStar
from t2i.conditioning.guidance_interval import Interval
from t2i.conditioning.perturbed_guidance import PerturbedAttention
from t2i.conditioning.projected_guidance import AdaptiveProjected
from t2i.conditioning.run_state import RunState

STEPS = 10


def start():
    told = stack_branches_to_conditioning({"cond": torch.zeros(2, 3, 4)})
    return RunState(torch.zeros(2, 4, 8, 8), told, Conditional(), torch.arange(STEPS))


def predictions(branches, dtype=torch.float64):
    return {branch: torch.randn(2, 4, 8, 8, dtype=dtype) for branch in branches}


def at(guider, step):
    """diffusers' guider told where the run is."""
    guider.set_state(step, STEPS, torch.tensor(step))
    return guider


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_classifier_free_equals_diffusers_bit_for_bit(rescale):
    given = predictions(("uncond", "cond"))
    theirs = (
        at(ClassifierFreeGuidance(7.5, rescale), 0).forward(given["cond"], given["uncond"]).pred
    )
    assert torch.equal(ClassifierFree(7.5, rescale).combine(given, start()), theirs)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_zero_star_equals_diffusers(rescale):
    theirs = at(ClassifierFreeZeroStarGuidance(7.5, zero_init_steps=2, guidance_rescale=rescale), 2)
    ours = ZeroStar(7.5, zero_init_steps=2, rescale=rescale)
    run = start()
    run.step = 2
    for dtype, tolerance in ((torch.float32, 0.0), (torch.float64, 1e-5)):
        # In float64 theirs rounds s_star to float32; ours, see the closed form, does not.
        given = predictions(("uncond", "cond"), dtype)
        expected = theirs.forward(given["cond"], given["uncond"]).pred
        found = ours.combine(given, run)
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("momentum", [0.0, -0.5, 0.3])
@pytest.mark.parametrize("norm_threshold", [0.0, 5.0, 1000.0])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_projection_of_predictions_equals_diffusers_over_a_run(momentum, norm_threshold, eta):
    theirs = AdaptiveProjectedGuidance(
        # "Original" is the paper's form, of which diffusers takes scale - 1.
        guidance_scale=6.5,
        adaptive_projected_guidance_momentum=momentum or None,
        adaptive_projected_guidance_rescale=norm_threshold,
        eta=eta,
        guidance_rescale=0.3,
        use_original_formulation=True,
    )
    ours = AdaptiveProjected(7.5, momentum, norm_threshold, eta, rescale=0.3, space="prediction")
    run = start()
    for run.step in range(4):
        given = predictions(("uncond", "cond"))
        at(theirs, run.step).prepare_inputs(dict.fromkeys(["x"], (given["cond"], given["uncond"])))
        expected = theirs.forward(given["cond"], given["uncond"]).pred
        torch.testing.assert_close(ours.combine(given, run), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_perturbed_attention_mixes_as_diffusers_does(scale, rescale):
    theirs = PerturbedAttentionGuidance(
        guidance_scale=scale,
        perturbed_guidance_scale=2.8,
        perturbed_guidance_start=0.0,
        perturbed_guidance_stop=1.0,
        perturbed_guidance_config=LayerSkipConfig(
            [0], fqn="x", skip_attention=False, skip_attention_scores=True, skip_ff=False
        ),
        guidance_rescale=rescale,
        use_original_formulation=scale == 1.0,
    )
    ours = PerturbedAttention(scale, 2.8, rescale=rescale)
    given = predictions(("uncond", "cond", "perturbed"))
    uncond = given["uncond"] if scale > 1 else None
    if scale == 1.0:
        # diffusers takes scale 0 for "off" in this form.
        theirs = theirs.new(guidance_scale=0.0)
    expected = at(theirs, 3).forward(given["cond"], uncond, given["perturbed"]).pred
    torch.testing.assert_close(ours.combine(given, start()), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("first", "end"), [(0.0, 1.0), (0.2, 0.8), (0.25, 0.55), (0.0, 0.05)])
def test_an_interval_guides_the_steps_that_diffusers_guides(first, end):
    theirs = ClassifierFreeGuidance(7.5, start=first, stop=end)
    ours = Interval(ClassifierFree(7.5), first, end)
    run = start()
    for run.step in range(STEPS):
        assert (len(ours.branches(run)) == 2) == (at(theirs, run.step).num_conditions == 2)
