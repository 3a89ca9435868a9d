"""Guidance formulas in closed form: intervals, projection, CFG-Zero*, perturbation, composition."""

import math
from dataclasses import replace

import pytest
import torch

from t2i.conditioning.composed_guidance import Composed
from t2i.conditioning.conditioning import stack_branches_to_conditioning
from t2i.conditioning.guidance import ClassifierFree, Conditional, ZeroStar
from t2i.conditioning.guidance_interval import Interval
from t2i.conditioning.perturbed_guidance import PerturbedAttention, list_perturbed_site_patterns
from t2i.conditioning.projected_guidance import AdaptiveProjected
from t2i.conditioning.run_state import RunState
from t2i.errors import ArgumentError

SHAPE = (2, 4, 8, 8)
A, B = 1.7, -0.9


@pytest.fixture
def run():
    told = stack_branches_to_conditioning({"cond": torch.zeros(2, 3, 4)})
    latents = torch.randn(SHAPE, dtype=torch.float64)
    return RunState(latents, told, Conditional(), torch.arange(10), x0_coefficients=[(A, B)] * 10)


@pytest.fixture
def predictions():
    branches = ("uncond", "cond", "cond1", "cond2", "perturbed")
    return {branch: torch.randn(SHAPE, dtype=torch.float64) for branch in branches}


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# intervals


def test_outside_its_interval_a_guidance_computes_the_prompt_alone(run, predictions):
    guidance = Interval(ClassifierFree(7.5), 0.25, 0.55)
    branches = []
    for run.step in range(10):
        branches.append(guidance.branches(run))
        inside = 2 <= run.step < 5
        expected = (ClassifierFree(7.5) if inside else Conditional()).combine(predictions, run)
        assert torch.equal(guidance.combine(predictions, run), expected)
    assert branches == [("cond",)] * 2 + [("uncond", "cond")] * 3 + [("cond",)] * 5
    assert guidance.possible_branches == ("uncond", "cond")


@pytest.mark.parametrize(("start", "stop"), [(-0.1, 1), (0.5, 0.5), (0.8, 0.2), (0, 1.1)])
def test_an_interval_that_is_none_is_refused(start, stop):
    with pytest.raises(ArgumentError, match="expected fractions of the run with 0 <= start < stop"):
        Interval(ClassifierFree(7.5), start, stop)


def test_an_interval_refuses_what_it_cannot_leave_out():
    with pytest.raises(ArgumentError, match=r"only the first part .* not cond1"):
        Interval(Composed((1.0, 1.0), 7.5))
    with pytest.raises(ArgumentError, match="that is no interval itself"):
        Interval(Interval(ClassifierFree(7.5)))


# CFG-Zero*


def test_zero_star_forgives_an_unconditional_prediction_of_another_length(run, predictions):
    """Where uncond is cond but for its length, s_star restores it and nothing is left to guide."""
    given = {"cond": predictions["cond"], "uncond": 0.3 * predictions["cond"]}
    guided = ZeroStar(7.5).combine(given, run)
    # 1e-8 is added to |uncond|^2, as published.
    torch.testing.assert_close(guided, predictions["cond"], rtol=0, atol=1e-7)


def test_zero_star_leaves_what_is_guided_orthogonal_to_the_unconditional_prediction(
    run, predictions
):
    """Least squares: (cond - s_star uncond) has nothing of uncond."""
    one, two = (ZeroStar(scale).combine(predictions, run) for scale in (1.0, 2.0))
    inner = ((two - one) * predictions["uncond"]).sum(dim=(1, 2, 3))
    assert inner.abs().max() < 1e-7
    close(one, predictions["cond"])


def test_zero_init_predicts_zero_and_computes_one_branch(run, predictions):
    guidance = ZeroStar(7.5, zero_init_steps=1, rescale=0.5)
    assert guidance.branches(run) == ("cond",)
    assert not guidance.combine({"cond": predictions["cond"]}, run).any()
    run.step = 1
    assert guidance.branches(run) == ("uncond", "cond")
    assert guidance.combine(predictions, run).any()


def test_zero_star_of_zeros_is_finite(run, predictions):
    given = predictions | {"uncond": torch.zeros(SHAPE, dtype=torch.float64)}
    close(ZeroStar(7.5).combine(given, run), 7.5 * predictions["cond"])


@pytest.mark.parametrize("steps", [-1, 1.5, True])
def test_impossible_zero_init_steps_are_refused(steps):
    with pytest.raises(ArgumentError, match=r"zero_init_steps=.*expected a whole number from 0"):
        ZeroStar(7.5, steps)


# adaptive projection

PLAIN = {"momentum": 0.0, "norm_threshold": 0.0, "eta": 1.0}


@pytest.mark.parametrize("space", ["denoised", "prediction"])
def test_projection_that_keeps_everything_is_classifier_free(run, predictions, space):
    guidance = AdaptiveProjected(7.5, **PLAIN, space=space)
    close(guidance.combine(predictions, run), ClassifierFree(7.5).combine(predictions, run))


@pytest.mark.parametrize("space", ["denoised", "prediction"])
def test_projection_at_scale_one_is_the_conditional_prediction(run, predictions, space):
    close(AdaptiveProjected(1.0, space=space).combine(predictions, run), predictions["cond"])


def test_without_its_parallel_part_the_clean_picture_moves_at_right_angles(run, predictions):
    guided = AdaptiveProjected(7.5, 0.0, 0.0, eta=0.0).combine(predictions, run)
    D_cond = A * run.latents_BCHW + B * predictions["cond"]
    D_guided = A * run.latents_BCHW + B * guided
    assert ((D_guided - D_cond) * D_cond).sum(dim=(1, 2, 3)).abs().max() < 1e-10
    assert (D_guided - D_cond).norm() > 1


def test_a_long_difference_is_shortened_to_the_threshold(run, predictions):
    scale, threshold = 7.5, 0.25
    guidance = AdaptiveProjected(scale, 0.0, threshold, eta=1.0)
    moved = B * (guidance.combine(predictions, run) - predictions["cond"])
    lengths = moved.flatten(1).norm(dim=1)
    close(lengths, torch.full((2,), (scale - 1) * threshold, dtype=torch.float64))


def test_a_short_difference_is_left_as_it_is(run, predictions):
    bounded = AdaptiveProjected(7.5, 0.0, 1e6, eta=0.5).combine(predictions, run)
    close(bounded, AdaptiveProjected(7.5, 0.0, 0.0, eta=0.5).combine(predictions, run))


def test_momentum_is_a_geometric_sum_of_the_differences_so_far(run, predictions):
    guidance = AdaptiveProjected(2.0, -0.5, 0.0, eta=1.0)
    diff = predictions["cond"] - predictions["uncond"]
    for run.step, factor in enumerate((1.0, 0.5, 0.75, 0.625)):  # 1, 1 - 1/2, 1 - 1/2 + 1/4, ...
        close(guidance.combine(predictions, run), predictions["cond"] + factor * diff)


def test_momentum_averages_in_the_space_of_clean_pictures(run, predictions):
    """The same difference of predictions counts for less where b is smaller."""
    run.x0_coefficients = [(1.0, -4.0), (1.0, -1.0)]
    guidance = AdaptiveProjected(2.0, -0.5, 0.0, eta=1.0)
    guidance.combine(predictions, run)
    run.step = 1
    diff = predictions["cond"] - predictions["uncond"]
    close(guidance.combine(predictions, run), predictions["cond"] + (1 - 0.5 * 4) * diff)


def test_momentum_belongs_to_the_run_and_runs_may_take_turns(run, predictions):
    guidance = AdaptiveProjected(7.5)
    other = replace(run, guidance_memory={})
    alone = guidance.combine(predictions, replace(run, guidance_memory={}))
    first = guidance.combine(predictions, run)
    between = guidance.combine(predictions, other)
    assert torch.equal(first, between)
    assert torch.equal(first, alone)
    assert not torch.equal(guidance.combine(predictions, run), first)


def test_pictures_of_a_batch_are_projected_one_by_one(run, predictions):
    guidance = AdaptiveProjected(7.5, norm_threshold=3.0)
    single = replace(run, latents_BCHW=run.latents_BCHW[1:], guidance_memory={})
    for _ in range(2):
        both = guidance.combine(predictions, run)
        second = guidance.combine({name: p[1:] for name, p in predictions.items()}, single)
        close(both[1:], second)


def test_projection_asks_for_what_the_run_does_not_know(run, predictions):
    unknown = replace(run, x0_coefficients=())
    with pytest.raises(ArgumentError, match=r"needs RunState.x0_coefficients.*space='prediction'"):
        AdaptiveProjected(7.5).combine(predictions, unknown)
    assert AdaptiveProjected(7.5, space="prediction").combine(predictions, unknown).isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"momentum": 1.0}, "momentum=1.0, expected a number between -1 and 1"),
        ({"norm_threshold": -1.0}, "norm_threshold=-1.0, expected a length"),
        ({"eta": math.nan}, "eta=nan, expected a finite number"),
        ({"space": "denoise"}, "space='denoise'. Did you mean 'denoised'?"),
        ({"rescale": -1.0}, "guidance_rescale=-1.0"),
    ],
)
def test_impossible_projections_are_refused(wrong, message):
    with pytest.raises(ArgumentError, match=message):
        AdaptiveProjected(7.5, **wrong)


# perturbed attention


def test_perturbed_attention_moves_away_from_the_perturbed_prediction(run, predictions):
    cond, uncond, perturbed = (predictions[name] for name in ("cond", "uncond", "perturbed"))
    close(
        PerturbedAttention(4.0, 3.0).combine(predictions, run),
        uncond + 4 * (cond - uncond) + 3 * (cond - perturbed),
    )
    close(PerturbedAttention(1.0, 3.0).combine(predictions, run), cond + 3 * (cond - perturbed))


def test_perturbed_attention_computes_no_unconditional_branch_up_to_scale_one(run):
    assert PerturbedAttention(1.0).branches(run) == ("cond", "perturbed")
    assert PerturbedAttention(1.1).branches(run) == ("uncond", "cond", "perturbed")


def test_sites_are_known_through_an_interval_and_none_for_other_guidance():
    inner = PerturbedAttention(3.0, sites=("mid", "up"))
    assert (
        list_perturbed_site_patterns(inner)
        == list_perturbed_site_patterns(Interval(inner, 0.1, 0.9))
        == ("mid", "up")
    )
    assert (
        list_perturbed_site_patterns(ClassifierFree(7.5))
        == list_perturbed_site_patterns(Interval(ClassifierFree(7.5)))
        == ()
    )


@pytest.mark.parametrize("sites", [(), "mid", ("",), (3,)])
def test_sites_that_name_nothing_are_refused(sites):
    with pytest.raises(ArgumentError, match=r"sites=.*expected a tuple of parts of module names"):
        PerturbedAttention(7.5, sites=sites)


@pytest.mark.parametrize("scale", [0, -1, math.inf])
def test_a_perturbed_scale_that_guides_nowhere_is_refused(scale):
    with pytest.raises(ArgumentError, match=r"perturbed_scale=.*expected"):
        PerturbedAttention(7.5, scale)


# composition


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_one_part_of_weight_one_is_classifier_free_bit_for_bit(run, predictions, rescale):
    composed = Composed((1.0,), 7.5, rescale)
    assert composed.possible_branches == ClassifierFree.possible_branches
    expected = ClassifierFree(7.5, rescale).combine(predictions, run)
    assert torch.equal(composed.combine(predictions, run), expected)


def test_parts_add_up_by_their_weights(run, predictions):
    composed = Composed((1.0, -0.5, 2.0), 3.0)
    assert (
        composed.branches(run) == composed.possible_branches == ("uncond", "cond", "cond1", "cond2")
    )
    uncond = predictions["uncond"]
    away = [predictions[name] - uncond for name in composed.cond_branches]
    expected = uncond + 3 * (away[0] - 0.5 * away[1] + 2 * away[2])
    close(composed.combine(predictions, run), expected)


def test_two_halves_of_one_part_are_that_part(run, predictions):
    given = predictions | {"cond1": predictions["cond"]}
    close(Composed((0.5, 0.5), 7.5).combine(given, run), ClassifierFree(7.5).combine(given, run))


@pytest.mark.parametrize("weights", [(), [1.0], (math.nan,), ("1",)])
def test_weights_that_are_no_numbers_are_refused(weights):
    with pytest.raises(ArgumentError, match=r"weights=.*expected"):
        Composed(weights, 7.5)
