"""Guidance formulas: what must be true of them whatever the model predicts."""

import math

import pytest
import torch

from t2i.conditioning.conditioning import stack_branches_to_conditioning
from t2i.conditioning.guidance import ClassifierFree, Conditional, choose_guidance
from t2i.conditioning.run_state import RunState
from t2i.errors import ArgumentError


@pytest.fixture
def run():
    text_BTD = torch.zeros(2, 3, 4)
    told = stack_branches_to_conditioning({"uncond": text_BTD, "cond": text_BTD})
    return RunState(torch.zeros(2, 4, 8, 8), told, Conditional(), torch.arange(5))


@pytest.fixture
def predictions():
    return {branch: torch.randn(2, 4, 8, 8, dtype=torch.float64) for branch in ("uncond", "cond")}


def test_scale_one_is_the_conditional_prediction(run, predictions):
    torch.testing.assert_close(
        ClassifierFree(1.0).combine(predictions, run), predictions["cond"], atol=1e-14, rtol=0
    )


def test_scale_zero_is_the_unconditional_prediction(run, predictions):
    assert torch.equal(ClassifierFree(0.0).combine(predictions, run), predictions["uncond"])


def test_the_prediction_is_linear_in_the_scale(run, predictions):
    two, four, six = (ClassifierFree(s).combine(predictions, run) for s in (2.0, 4.0, 6.0))
    torch.testing.assert_close(four - two, six - four, atol=1e-13, rtol=0)
    torch.testing.assert_close(
        four - two, 2 * (predictions["cond"] - predictions["uncond"]), atol=1e-13, rtol=0
    )


def test_branches_that_agree_are_left_as_they_are(run, predictions):
    same = {"uncond": predictions["cond"], "cond": predictions["cond"]}
    guided = ClassifierFree(7.5, rescale=0.7).combine(same, run)
    torch.testing.assert_close(guided, predictions["cond"], atol=1e-14, rtol=0)


def test_full_rescale_gives_back_the_contrast_of_the_conditional_prediction(run, predictions):
    guided = ClassifierFree(7.5, rescale=1.0).combine(predictions, run)
    for picture in range(2):
        expected = predictions["cond"][picture].std().item()
        assert guided[picture].std().item() == pytest.approx(expected, rel=1e-12)
    plain = ClassifierFree(7.5).combine(predictions, run)
    assert plain[0].std() > 2 * guided[0].std()


def test_rescale_is_linear_between_none_and_full(run, predictions):
    none, half, full = (ClassifierFree(7.5, r).combine(predictions, run) for r in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, (none + full) / 2, atol=1e-13, rtol=0)


def test_pictures_of_a_batch_are_guided_one_by_one(run, predictions):
    guidance = ClassifierFree(7.5, rescale=0.5)
    both = guidance.combine(predictions, run)
    second = guidance.combine({name: p[1:] for name, p in predictions.items()}, run)
    torch.testing.assert_close(both[1:], second, atol=1e-14, rtol=0)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 1.0])
def test_up_to_scale_one_only_the_prompt_is_computed(run, scale):
    guidance = choose_guidance(scale)
    assert guidance.possible_branches == guidance.branches(run) == ("cond",)


def test_above_scale_one_both_branches_are_computed(run):
    guidance = choose_guidance(1.5, 0.2)
    assert guidance == ClassifierFree(1.5, 0.2)
    assert guidance.possible_branches == guidance.branches(run) == ("uncond", "cond")


@pytest.mark.parametrize("scale", [math.nan, math.inf, "7.5", None])
def test_a_scale_that_is_no_finite_number_is_refused(scale):
    with pytest.raises(ArgumentError, match=r"guidance_scale=.*expected a finite number"):
        choose_guidance(scale)


@pytest.mark.parametrize("rescale", [math.nan, -0.1])
def test_an_impossible_rescale_is_refused_also_where_guidance_is_off(rescale):
    with pytest.raises(ArgumentError, match="guidance_rescale="):
        choose_guidance(1.0, rescale)
