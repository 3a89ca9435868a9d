"""Samplers by the names people type, on the noise schedule of the model at hand."""

from importlib.util import find_spec

import pytest
import torch

from t2i.denoiser.schedulers import SAMPLERS, ZERO_SNR_SCHEDULERS, build_scheduler
from t2i.denoiser.timesteps import set_timesteps
from t2i.errors import ArgumentError
from tests.tiny import tiny_scheduler

NEEDS_A_PACKAGE = {"LMSDiscreteScheduler": "scipy", "DPMSolverSDEScheduler": "torchsde"}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_built_or_names_the_package_it_needs(name):
    config = tiny_scheduler(prediction_type="v_prediction", timestep_spacing="trailing").config
    class_name = SAMPLERS[name].class_name
    package = NEEDS_A_PACKAGE.get(class_name)
    if package is not None and find_spec(package) is None:
        with pytest.raises(ArgumentError, match=f"needs {package}, .*: pip install {package}"):
            build_scheduler(name, config)
        return
    built = build_scheduler(name, config)
    assert type(built).__name__ == class_name
    assert built.config["prediction_type"] == "v_prediction"
    assert built.config["beta_end"] == config["beta_end"]
    assert built.config["timestep_spacing"] == "trailing"
    assert not built.config.get("clip_sample")
    assert set_timesteps(built, 4, torch.device("cpu")) == 4
    for key, value in SAMPLERS[name].settings.items():
        assert built.config[key] == value


@pytest.mark.parametrize(
    ("typed", "class_name"),
    [
        ("DDIM", "DDIMScheduler"),
        ("Euler a", "EulerAncestralDiscreteScheduler"),
        ("euler_a", "EulerAncestralDiscreteScheduler"),
        ("k_euler_a", "EulerAncestralDiscreteScheduler"),
        ("DPM++ 2M Karras", "DPMSolverMultistepScheduler"),
        ("dpmpp-2m-karras", "DPMSolverMultistepScheduler"),
        ("UniPC", "UniPCMultistepScheduler"),
    ],
)
def test_spellings_people_use_mean_the_same(typed, class_name):
    built = build_scheduler(typed, tiny_scheduler().config)
    assert type(built).__name__ == class_name
    assert built.config.get("use_karras_sigmas", False) == ("karras" in typed.lower())


def test_the_nearest_sampler_is_named():
    with pytest.raises(ArgumentError, match=r"Unknown sampler 'eulr'. Did you mean 'euler'\?"):
        build_scheduler("eulr", tiny_scheduler().config)


def test_zero_terminal_snr_is_kept_or_the_sampler_is_refused_with_the_reason():
    config = tiny_scheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction").config
    for name, sampler in SAMPLERS.items():
        if sampler.class_name in ZERO_SNR_SCHEDULERS:
            assert build_scheduler(name, config).config["rescale_betas_zero_snr"]
        else:
            with pytest.raises(ArgumentError, match=r"zero-terminal SNR.*Choose one of: ddim, "):
                build_scheduler(name, config)


def test_a_flow_matching_model_keeps_its_own_sampler():
    with pytest.raises(ArgumentError, match="FlowMatchEulerDiscreteScheduler: leave out the sampl"):
        build_scheduler("euler", {"_class_name": "FlowMatchEulerDiscreteScheduler"})


def test_latents_are_never_clipped():
    assert not build_scheduler("ddpm", {"beta_end": 0.02}).config["clip_sample"]
    assert not build_scheduler("ddim", {"clip_sample": True}).config["clip_sample"]


def test_timesteps_and_sigmas_of_ones_own_are_followed():
    euler = build_scheduler("euler", tiny_scheduler().config)
    assert set_timesteps(euler, 50, torch.device("cpu"), timesteps=[900, 500, 100]) == 3
    assert euler.timesteps.tolist() == [900, 500, 100]
    assert set_timesteps(euler, 50, torch.device("cpu"), sigmas=[10.0, 5.0, 0.0]) == 2


@pytest.mark.parametrize("steps", [0, -3, 2.5, "20", None, True, 10_001, 10**9])
def test_steps_must_be_a_whole_number_that_a_run_can_have(steps):
    with pytest.raises(ArgumentError, match=r"num_inference_steps=.*whole number from 1 to 10,000"):
        set_timesteps(tiny_scheduler(), steps, torch.device("cpu"))


def test_more_steps_than_the_model_was_trained_on_are_refused():
    with pytest.raises(ArgumentError, match=r"DDIMScheduler cannot step like this: .*1001"):
        set_timesteps(tiny_scheduler(), 1001, torch.device("cpu"))


@pytest.mark.parametrize("given", [[], [1, 1], [1, 2], ["x"], [float("nan")], [None], 7, "ab"])
def test_timesteps_and_sigmas_of_ones_own_must_fall(given):
    euler = build_scheduler("euler", tiny_scheduler().config)
    for name in ("timesteps", "sigmas"):
        with pytest.raises(ArgumentError, match=f"Got {name}=.*each less than the one before"):
            set_timesteps(euler, 5, torch.device("cpu"), **{name: given})


@pytest.mark.parametrize("given", [[1200, 400], [400, -1], [1000], torch.tensor([1000, 5])])
@pytest.mark.parametrize("name", ["dpm++ 2m", "euler", "lcm", "ddpm"])
def test_timesteps_of_ones_own_are_of_those_the_model_was_trained_at(name, given):
    sampler = build_scheduler(name, tiny_scheduler().config)
    with pytest.raises(ArgumentError, match=r"Got timesteps from .*, expected some of 999 to 0"):
        set_timesteps(sampler, 5, torch.device("cpu"), timesteps=given)


def test_a_sampler_that_takes_no_timesteps_says_so():
    with pytest.raises(ArgumentError, match="DDIMScheduler does not take sigmas of one's own"):
        set_timesteps(tiny_scheduler(), 5, torch.device("cpu"), sigmas=[1.0])
    with pytest.raises(ArgumentError, match="both timesteps and sigmas"):
        set_timesteps(tiny_scheduler(), 5, torch.device("cpu"), timesteps=[1], sigmas=[1.0])
