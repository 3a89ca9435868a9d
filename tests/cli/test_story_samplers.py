"""Samplers of other tools in our spelling."""

import pytest

from t2i.denoiser.sampler_names import (
    SAMPLER_NAMES,
    SAMPLER_NAMES_BY_CLASS,
    SAMPLERS_WITH_SPACINGS,
    translate_sampler_name_and_spacing,
)
from t2i.denoiser.schedulers import SAMPLERS, SAMPLERS_WITH_SIGMAS, SAMPLERS_WITHOUT_SIGMAS


def test_our_names_of_samplers_are_those_of_the_schedulers() -> None:
    assert SAMPLERS_WITHOUT_SIGMAS.keys() | SAMPLERS_WITH_SIGMAS.keys() == SAMPLER_NAMES
    assert SAMPLERS_WITH_SIGMAS.keys() == SAMPLERS_WITH_SPACINGS
    for name in SAMPLERS:
        assert translate_sampler_name_and_spacing(name) == (name, "")
    for class_name, name in SAMPLER_NAMES_BY_CLASS.items():
        assert SAMPLERS[name].class_name == class_name


@pytest.mark.parametrize(
    ("theirs", "spacing", "ours", "left"),
    [
        ("DPM++ 2M Karras", "", "dpm++ 2m karras", ""),
        ("DPM++ 2M", "Karras", "dpm++ 2m karras", ""),
        ("DPM++ 2M", "Automatic", "dpm++ 2m", ""),
        ("dpmpp_2m", "karras", "dpm++ 2m karras", ""),
        ("dpmpp_2m_sde_gpu", "exponential", "dpm++ 2m sde exponential", ""),
        ("euler_ancestral", "normal", "euler a", ""),
        ("euler_ancestral", "karras", "euler a", "karras"),
        ("euler", "sgm_uniform", "euler", "sgm_uniform"),
        ("uni_pc", "simple", "unipc", "simple"),
        ("dpm_2_ancestral", "normal", "dpm2 a", ""),
        ("dpmpp_2m_k", "", "dpm++ 2m karras", ""),
        ("k_euler_a", "", "euler a", ""),
        ("kdpm_2", "", "dpm2", ""),
        ("DPM fast", "", None, ""),
        ("DPM++ 2S a Karras", "", None, "karras"),
    ],
)
def test_samplers_of_other_tools_get_our_names(
    theirs: str, spacing: str, ours: str | None, left: str
) -> None:
    assert translate_sampler_name_and_spacing(theirs, spacing) == (ours, left)
