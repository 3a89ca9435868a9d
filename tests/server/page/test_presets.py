"""A preset is chosen on the page where the model has any."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def job_of(page: Any) -> Any:
    """The request of the picture that was drawn last."""
    jobs = page.request.get(page.url.rstrip("/") + "/api/v1/jobs?limit=1").json()["jobs"]
    return jobs[0]


def test_a_preset_is_chosen_shown_and_drawn_with(page: Any, preset_folder: Path) -> None:
    page.click("summary:has-text('More')")
    page.get_by_label("Model", exact=True).select_option(str(preset_folder))
    preset = page.get_by_label("Preset", exact=True)
    assert preset.is_visible()
    assert preset.locator("option").all_inner_texts() == [
        "none: the model's defaults",
        "fast: 0.25 of the time, 0.4 points worse",
        "cut",
    ]
    steps = page.get_by_label("Steps", exact=True)
    steps.fill("")
    assert steps.get_attribute("placeholder") == "10"
    preset.select_option("fast")
    assert steps.get_attribute("placeholder") == "2"
    assert page.get_by_label("Guidance", exact=True).get_attribute("placeholder") == "1"
    sampler = page.get_by_label("Sampler", exact=True)
    assert sampler.locator("option").first.inner_text() == "lcm"
    page.click(".draw")
    page.wait_for_selector(".picture:not(.source):not([src^='data:'])")
    page.wait_for_selector(".draw:not(.stop)")
    job = job_of(page)
    assert job["request"]["preset"] == "fast"
    assert "steps" not in job["request"]
    assert job["result"]["data"]["request"]["num_inference_steps"] == 2


def test_another_model_takes_the_preset_away(page: Any, preset_folder: Path) -> None:
    page.click("summary:has-text('More')")
    model = page.get_by_label("Model", exact=True)
    model.select_option(str(preset_folder))
    preset = page.get_by_label("Preset", exact=True)
    preset.select_option("cut")
    model.select_option("embedded")
    assert "cut" not in preset.locator("option").all_inner_texts()
    model.select_option(str(preset_folder))
    assert preset.input_value() == ""
