"""Inversion methods against the papers' own equations, in float64 on a toy model."""

import math

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from pipelines.inversion.bdia import BdiaInversion
from pipelines.inversion.ddim import DdimInversion, InverseDdimScheduler, invert_ddim
from pipelines.inversion.edit_friendly import EditFriendlyInversion, FlowEdit, TurboEdit
from pipelines.inversion.methods import INVERSION_METHODS, format_method, parse_method
from pipelines.inversion.noise_levels import build_noise_levels, build_run_step_coefficients
from pipelines.inversion.path_scheduler import PinnedScheduler, PrecomputedStepScheduler
from t2i.errors import ArgumentError
from tests.pipelines.inversion.toy import SHAPE, ToyRun, model

PREDICTIONS = ("epsilon", "v_prediction", "sample")
STEPS = 8


def ddim(prediction="v_prediction", **config):
    settings = {
        "prediction_type": prediction,
        "rescale_betas_zero_snr": prediction != "epsilon",
        "timestep_spacing": "trailing",
        "clip_sample": False,
    }
    return DDIMScheduler(**(settings | config))


def of_prediction(prediction):
    """A scheduler of a prediction type, "flow" for flow matching."""
    return FlowMatchEulerDiscreteScheduler() if prediction == "flow" else ddim(prediction)


def toy_run(scheduler=None, steps=STEPS):
    scheduler = scheduler or ddim()
    return ToyRun(build_noise_levels(scheduler, steps), scheduler)


def largest(difference):
    return float(difference.abs().max())


def record(run, path):
    """The source's residuals, as the recording of a pinned path finds them."""
    pinned = PinnedScheduler(
        run.pipeline_scheduler, path.steps, path.latents, path.max_last_residual
    )
    latents, residuals = path.latents[0], []
    for timestep in pinned.timesteps:
        prediction = model(latents, 0, float(timestep))
        latents = pinned.step(prediction, timestep, latents)[0]
        residuals.append(pinned.last_residual_1CHW)
    return residuals


def draw_target(run, path, residuals, target=1):
    scheduler = PrecomputedStepScheduler(run.pipeline_scheduler, path.steps, residuals.__getitem__)
    return run.sample_latents(scheduler, path.latents[0], guided=True, target=target)


# noise levels and steps


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_step_is_that_of_ddim(prediction, eta):
    """`build_step_coefficients` is diffusers' DDIM step without its noise, whatever the model
    predicts.
    """
    scheduler = ddim(prediction)
    scheduler.set_timesteps(STEPS)
    levels = build_noise_levels(scheduler, STEPS)
    own = PrecomputedStepScheduler(scheduler, build_run_step_coefficients(levels, eta=eta))
    latents = torch.randn(SHAPE, dtype=torch.float64)
    zeros = torch.zeros(SHAPE, dtype=torch.float64)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    for timestep in scheduler.timesteps:
        prediction_now = model(latents, 0, float(timestep))
        theirs = scheduler.step(
            prediction_now, timestep, latents, eta=eta, variance_noise=zeros
        ).prev_sample
        ours = own.step(prediction_now, timestep, latents)[0]
        assert largest(ours - theirs) < 1e-6 * max(1, largest(theirs))
        latents = ours


def test_a_flow_step_is_that_of_euler():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(STEPS)
    levels = build_noise_levels(FlowMatchEulerDiscreteScheduler(shift=3.0), STEPS)
    own = PrecomputedStepScheduler(scheduler, build_run_step_coefficients(levels))
    latents = torch.randn(SHAPE, dtype=torch.float64)
    for timestep in scheduler.timesteps:
        prediction = model(latents, 0, float(timestep))
        theirs = scheduler.step(prediction, timestep, latents).prev_sample
        latents = own.step(prediction, timestep, latents)[0]
        assert largest(latents - theirs) < 1e-5


def test_a_scheduler_of_unknown_noise_is_refused_in_words():
    scheduler = diffusers.EDMEulerScheduler()
    with pytest.raises(ArgumentError, match="noise levels are not those of the training"):
        build_noise_levels(scheduler, 5)


def test_an_epsilon_model_at_pure_noise_is_refused_in_words():
    with pytest.raises(ArgumentError, match="predicts 'epsilon', from which the picture cannot"):
        build_noise_levels(ddim("epsilon", rescale_betas_zero_snr=True), 5)


@pytest.mark.parametrize(
    "name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler"]
)
def test_levels_do_not_depend_on_how_a_sampler_scales_its_latents(name):
    config = ddim(rescale_betas_zero_snr=False).config
    theirs = build_noise_levels(getattr(diffusers, name).from_config(config), STEPS)
    ours = build_noise_levels(ddim(rescale_betas_zero_snr=False), STEPS)
    if theirs.num_steps == ours.num_steps:
        assert theirs.timesteps == pytest.approx(ours.timesteps, abs=1)
    for (f, g), a, s in zip(theirs.denoised, theirs.signal, theirs.noise, strict=False):
        assert (f, g) == pytest.approx((a, -s), abs=1e-6)


# ddim


@pytest.mark.parametrize("prediction", [*PREDICTIONS, "flow"])
def test_the_fixed_point_is_the_inverse_of_ddim(prediction):
    """After enough iterations the model's own steps lead back to the picture."""
    run = toy_run(of_prediction(prediction))
    latents = invert_ddim(run, 200)
    again = run.sample_latents(
        PrecomputedStepScheduler(run.pipeline_scheduler, build_run_step_coefficients(run.levels)),
        latents[0],
        guided=False,
    )
    assert largest(again - run.clean_1CHW) < 1e-9


def test_more_iterations_lead_nearer_to_the_picture():
    errors = []
    for iterations in (1, 2, 4, 8):
        run = toy_run()
        latents = invert_ddim(run, iterations)
        steps = build_run_step_coefficients(run.levels)
        again = run.sample_latents(
            PrecomputedStepScheduler(run.pipeline_scheduler, steps), latents[0], guided=False
        )
        errors.append(largest(again - run.clean_1CHW))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 100


@pytest.mark.parametrize("slopes", [(-0.99, 0.0), (-1.0, 0.4), (-1.5, -0.5, 0.6), (-2.4, 0.1)])
def test_an_iteration_that_swings_about_its_fixed_point_reaches_it(slopes):
    """Each iterate is `slope` times as far from the fixed point as the one before: from -1 on the
    plain iteration never comes nearer.
    """
    scheduler = ddim("epsilon", rescale_betas_zero_snr=False)
    levels = build_noise_levels(scheduler, STEPS)
    step = build_run_step_coefficients(levels)[-1]
    slope_11HW = torch.tensor(slopes, dtype=torch.float64).reshape(1, 1, 1, -1)
    f, g = step.denoised
    divisor = step.clean * f + step.latents
    clean = torch.ones(1, 1, 4, len(slopes), dtype=torch.float64)
    fixed = clean / divisor / (1 - slope_11HW)

    def error_after(iterations):
        inverse = InverseDdimScheduler(scheduler, levels, clean, iterations, levels_to_invert=1)
        latents = clean
        for timestep in inverse.timesteps:
            prediction = -slope_11HW * divisor / (step.clean * g) * latents
            latents = inverse.step(prediction, timestep, latents)[0]
        return largest(latents - fixed)

    assert error_after(20) < 0.02 * error_after(1)
    assert error_after(8) < 0.5 * error_after(1)


def test_one_iteration_asks_the_model_at_the_latents_of_the_step_before():
    """DDIM inversion as first published, in epsilon: x_t from the prediction at (x_(t-1), t)."""
    run = toy_run(ddim("epsilon"))
    latents = run.clean_1CHW
    levels = run.levels
    for level in reversed(range(STEPS)):
        a, s = levels.signal[level], levels.noise[level]
        a_to, s_to = levels.signal[level + 1], levels.noise[level + 1]
        epsilon = model(latents, 0, levels.timesteps[level])
        latents = a / a_to * (latents - s_to * epsilon) + s * epsilon
    assert largest(invert_ddim(run, 1)[0] - latents) < 1e-9 * largest(latents)


def test_v_prediction_is_inverted_by_the_angle_of_the_step():
    """x_t = (x_(t-1) + v sin(dphi)) / cos(dphi), with a = cos(phi)."""
    run = toy_run()
    levels, clean = run.levels, run.clean_1CHW
    angles = [math.atan2(s, a) for a, s in zip(levels.signal, levels.noise, strict=True)]
    turned = angles[-2] - angles[-1]
    v = model(clean, 0, levels.timesteps[-1])
    expected = (clean + v * math.sin(turned)) / math.cos(turned)
    assert largest(invert_ddim(run, 1)[-2] - expected) < 1e-12


# independent noise


def test_edit_friendly_is_the_paper_s():
    """z_t = (x_(t-1) - mu_t(x_t)) / sigma_t, then x_(t-1) = mu_t + sigma_t z_t: all but the last.

    mu and sigma of DDPM, equations 3 and 4 of the paper.
    """
    run = toy_run()
    path = EditFriendlyInversion().compute_source_latents_path(run)
    residuals = record(run, path)
    levels = run.levels
    target = path.latents[0]
    for level in range(STEPS - 1):
        a, s = levels.signal[level], levels.noise[level]
        a_to, s_to = levels.signal[level + 1], levels.noise[level + 1]
        sigma = s_to / s * math.sqrt(1 - (a / a_to) ** 2)

        def mean(latents, prompt, a=a, s=s, a_to=a_to, s_to=s_to, sigma=sigma, level=level):
            v = model(latents, prompt, levels.timesteps[level])
            denoised, noise = a * latents - s * v, s * latents + a * v
            return a_to * denoised + math.sqrt(max(0, s_to**2 - sigma**2)) * noise

        z = (path.latents[level + 1] - mean(path.latents[level], 0)) / sigma
        target = mean(target, 1) + sigma * z
    scheduler = PrecomputedStepScheduler(run.pipeline_scheduler, path.steps, residuals.__getitem__)
    ours = path.latents[0]
    for timestep in scheduler.timesteps[:-1]:
        ours = scheduler.step(model(ours, 1, float(timestep)), timestep, ours)[0]
    assert largest(ours - target) < 1e-9 * largest(target)


def test_the_noise_of_each_level_is_independent():
    run = toy_run()
    path = EditFriendlyInversion().compute_source_latents_path(run)
    levels = run.levels
    noises = [
        (latents - levels.signal[i] * run.clean_1CHW) / levels.noise[i]
        for i, latents in enumerate(path.latents[:-1])
    ]
    together = torch.stack([noise.flatten() for noise in noises])
    shared = torch.corrcoef(together) - torch.eye(STEPS)
    assert largest(shared) < 0.7  # 36 values each: the largest of 28 correlations
    assert float(shared.mean()) < 0.1


def test_difference_is_flow_edit_on_a_flow_model():
    """x_target = x* + d, d' = d + (t' - t) (v(x_target, target) - v(x*, source))."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    run = ToyRun(build_noise_levels(scheduler, STEPS), scheduler)
    path = FlowEdit().compute_source_latents_path(run)
    times = [*run.levels.noise]
    d = torch.zeros_like(run.clean_1CHW)
    for level in range(STEPS):
        source, timestep = path.latents[level], run.levels.timesteps[level]
        change = model(source + d, 1, timestep) - model(source, 0, timestep)
        d = d + (times[level + 1] - times[level]) * change
    drawn = draw_target(run, path, record(run, path))
    assert largest(drawn - (run.clean_1CHW + d)) < 1e-6


def test_difference_without_keeping_is_inf_edit():
    """y' = x0 + D(a y + s n, target) - D(a x0 + s n, source)."""
    run = toy_run()
    path = FlowEdit(keep=0.0).compute_source_latents_path(run)
    levels, clean = run.levels, run.clean_1CHW
    y = clean
    for level, source in enumerate(path.latents[:-1]):
        a, (f, g) = levels.signal[level], levels.denoised[level]
        target = source + a * (y - clean)

        def denoised(latents, prompt, f=f, g=g, level=level):
            return f * latents + g * model(latents, prompt, levels.timesteps[level])

        y = clean + denoised(target, 1) - denoised(source, 0)
    drawn = draw_target(run, path, record(run, path))
    assert largest(drawn - y) < 1e-9


def test_keeping_along_the_path_is_edit_friendly_without_eta():
    run, other = toy_run(), toy_run()
    along, deterministic = (
        FlowEdit().compute_source_latents_path(run),
        EditFriendlyInversion(eta=0.0).compute_source_latents_path(other),
    )
    assert along.steps == deterministic.steps
    a, s = run.levels.signal[3], run.levels.noise[3]
    a_to, s_to = run.levels.signal[4], run.levels.noise[4]
    fixed = FlowEdit(keep=(s_to / a_to) / (s / a)).compute_source_latents_path(toy_run())
    assert fixed.steps[3].clean == pytest.approx(along.steps[3].clean, abs=1e-12)
    assert fixed.steps[3].latents == pytest.approx(along.steps[3].latents, abs=1e-12)


def test_turbo_has_one_step_less_noise_than_it_tells():
    run = toy_run(steps=4)
    path = TurboEdit().compute_source_latents_path(run)
    assert len(path.steps) == 4
    assert torch.equal(path.latents[-1], path.latents[-2])
    left = path.latents[0] - run.levels.signal[1] * run.clean_1CHW
    assert float(left.std()) == pytest.approx(run.levels.noise[1], rel=0.35)


def test_turbo_limits_the_last_residual():
    run = toy_run(steps=4)
    path = TurboEdit(max_last_residual=0.5).compute_source_latents_path(run)
    residuals = record(run, path)
    assert float(residuals[-1].norm()) == pytest.approx(0.5)
    assert float(residuals[0].norm()) > 0.5


# exactness


@pytest.mark.parametrize(
    "method",
    [
        EditFriendlyInversion(),
        EditFriendlyInversion(skip=0.25, eta=0.5),
        FlowEdit(),
        FlowEdit(skip=0.5),
        BdiaInversion(),
    ],
    ids=format_method,
)
@pytest.mark.parametrize("prediction", [*PREDICTIONS, "flow"])
def test_a_target_equal_to_the_source_is_the_picture(method, prediction):
    run = toy_run(of_prediction(prediction))
    path = method.compute_source_latents_path(run)
    drawn = draw_target(run, path, record(run, path), target=0)
    assert largest(drawn - run.clean_1CHW) < 1e-10 * max(map(largest, path.latents))


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_bdia_is_undone_step_by_step(gamma):
    """Only its first step has a residual: the others lead back by themselves."""
    run = toy_run()
    path = BdiaInversion(gamma=gamma).compute_source_latents_path(run)
    residuals = record(run, path)
    assert largest(torch.cat(residuals[1:])) < 1e-8 * max(map(largest, path.latents))
    assert run.passes == 4 + STEPS - 1


def test_bdia_is_the_paper_s():
    """z_(i-1) = gamma (z_(i+1) - up(z_i)) + down(z_i), with DDIM's increments in v."""
    run = toy_run()
    path = BdiaInversion(gamma=0.8).compute_source_latents_path(run)
    levels = run.levels

    def moved(latents, level, to):
        f, g = levels.denoised[level]
        denoised = f * latents + g * model(latents, 0, levels.timesteps[level])
        noise = (latents - levels.signal[level] * denoised) / levels.noise[level]
        return levels.signal[to] * denoised + levels.noise[to] * noise

    for level in range(1, STEPS):
        older, own, cleaner = path.latents[level - 1 : level + 2]
        expected = 0.8 * (older - moved(own, level, level - 1)) + moved(own, level, level + 1)
        assert largest(expected - cleaner) < 1e-9 * largest(older)


def test_ddim_is_not_pinned_and_direct_is():
    assert not DdimInversion().compute_source_latents_path(toy_run()).pinned
    assert parse_method("direct").compute_source_latents_path(toy_run()).pinned


def test_one_step_from_pure_noise_is_refused_in_words():
    with pytest.raises(ArgumentError, match="give at least 2 steps"):
        DdimInversion().compute_source_latents_path(toy_run(steps=1))


# names


@pytest.mark.parametrize("name", INVERSION_METHODS)
def test_a_method_is_read_as_it_is_written(name):
    method = parse_method(name)
    assert parse_method(format_method(method)) == method


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dirct", "Unknown inversion method 'dirct'.*direct"),
        ("ddim:iteration=2", "ddim has no argument 'iteration'.*iterations"),
        ("ddim:iterations=two", "Got iterations='two' for ddim, expected a whole number"),
        ("ddim:iterations", "Got 'iterations' in 'ddim:iterations', expected name=value"),
        ("ddim:iterations=1,iterations=2", "Got 'iterations' twice"),
        ("ddim:iterations=0", "Got iterations=0, expected a number from 1"),
        ("edit-friendly:skip=1", "Got skip=1.0, expected a share of the run"),
        ("edit-friendly:eta=2", "Got eta=2.0, expected a number from 0 to 1"),
        ("difference:keep=most", "Got keep=most, expected path, or a number"),
        ("difference:keep=2", "Got keep=2.0, expected path, or a number"),
        ("bdia:gamma=0", "Got gamma=0.0, expected a number above 0"),
        ("negative-prompt:prox=l2", "Got prox='l2', expected none, l0 or l1"),
        ("negative-prompt:prox=l0,quantile=2", "Got quantile=2.0, expected a number from 0 to 1"),
        ("turbo:max_last_residual=0", "Got max_last_residual=0.0, expected a number above 0"),
        ("null-text:inner_steps=0", "Got inner_steps=0, expected a number from 1"),
    ],
)
def test_a_wrong_method_is_refused_in_words(text, message):
    with pytest.raises(ArgumentError, match=message):
        parse_method(text)
