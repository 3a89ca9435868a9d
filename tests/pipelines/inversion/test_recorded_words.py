"""What is known of a recording before it is made, and what is read from it without a pass."""

import io

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from pipelines.inversion.methods import parse_method
from pipelines.prompt_to_prompt.inverted_source import count_path_steps, resolve_inversion_method
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.prompt_to_prompt.recorded_heat_maps import (
    check_heat_map_words,
    find_absent_words,
    read_recorded_heat_maps,
)
from pipelines.prompt_to_prompt.recorded_source import load_recorded_source
from pipelines.prompt_to_prompt.recording_size import estimate_recording_bytes
from t2i.attention import Concept, attend
from t2i.denoiser.schedulers import build_scheduler
from t2i.errors import ArgumentError, DataError
from t2i.text.prompt import Prompt
from tests.tiny import picture, tiny_sd_components, tiny_sdxl_components

pytestmark = pytest.mark.usefixtures("poor_replays_are_expected")

SOURCE = "a red cat"
RUN = {"num_inference_steps": 3, "guidance_scale": 3.0, "seed": 1}


@pytest.fixture(scope="module")
def pipe():
    pipe = PromptEditPipeline(**tiny_sd_components())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(name="picture")
def _picture():
    return picture()


@pytest.mark.parametrize("prompt", [SOURCE, Prompt("a [red:blue:0.5] cat", "a1111")])
def test_recorded_heat_maps_are_those_of_a_probe_of_the_same_run(pipe, prompt, tmp_path):
    words = ("cat", "a", "red") if prompt == SOURCE else ("cat", "a", "red", "blue")
    with attend(pipe) as attn:
        expected = attn.probe(*words)
        kept = pipe.remember(prompt, folder=tmp_path / "kept", **RUN)
    for source in (kept, load_recorded_source(tmp_path / "kept")):
        maps = read_recorded_heat_maps(pipe, source, *words)
        assert list(maps) == list(words)
        for word in words:
            assert torch.equal(maps[word], expected[word])
            assert maps.probability_share(word) == expected.probability_share(word)


def test_a_word_that_the_recorded_prompt_lacks_is_refused_in_words(pipe, picture):
    source = pipe.invert(picture, SOURCE, "edit-friendly", **RUN)
    with pytest.raises(ArgumentError, match="'dog' is not in the prompt"):
        read_recorded_heat_maps(pipe, source, "dog")


def test_words_are_looked_up_in_a_prompt_before_it_is_recorded(pipe):
    changing = Prompt("a [red:blue:0.5] cat", "a1111")
    check_heat_map_words(pipe, SOURCE, ["red cat"], 3)
    check_heat_map_words(pipe, changing, ["red", "blue"], 4)
    for prompt in (SOURCE, changing):
        with pytest.raises(ArgumentError, match="'dog' is not in the prompt"):
            check_heat_map_words(pipe, prompt, ["cat", "dog"], 4)
        check_heat_map_words(pipe, prompt, ["cat", Concept("dog")], 4)
    assert find_absent_words(SOURCE, ["red cat", "dog", "Cat"], 3) == ["dog"]
    assert find_absent_words(changing, ["red cat", "blue cat", "a dog"], 4) == ["a dog"]


def test_a_source_recorded_without_its_sites_is_refused_in_words(pipe, picture):
    source = pipe.invert(picture, SOURCE, "edit-friendly", **RUN)
    del source.facts["text_sites"]
    with pytest.raises(DataError, match="recorded without the sizes of its sites"):
        read_recorded_heat_maps(pipe, source, "cat")


def test_notes_are_kept_in_the_folder(pipe, picture, tmp_path):
    notes = {"file": "cat.jpg", "list": [1, 2]}
    pipe.invert(picture, SOURCE, "edit-friendly", folder=tmp_path / "a", notes=notes, **RUN)
    assert load_recorded_source(tmp_path / "a").facts["notes"] == notes


@pytest.mark.parametrize("family", ["sd", "sdxl", "embedded"])
@pytest.mark.parametrize("size", [32, 40])
def test_the_size_of_a_recording_is_known_before_it_is_made(family, size):
    """To the byte: of queries, keys and latents."""
    if family == "embedded":
        pipe = PromptEditPipeline.from_pretrained("embedded")
    else:
        parts = tiny_sd_components() if family == "sd" else tiny_sdxl_components()
        pipe = PromptEditPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    source = pipe.remember(SOURCE, height=size, width=32, max_positions=64, **RUN)
    assert estimate_recording_bytes(pipe, 3, size, 32, 64) == source.bytes


def test_a_recording_above_its_budget_runs_no_pass(pipe, picture, monkeypatch):
    monkeypatch.setattr(pipe.unet, "forward", lambda *_, **__: pytest.fail("a pass ran"))
    with pytest.raises(ArgumentError, match=r"Recording this source takes .* raise it"):
        pipe.invert(picture, SOURCE, "direct", budget=1000, **RUN)


def test_skipped_steps_are_not_recorded(pipe, picture):
    method = parse_method("edit-friendly:skip=0.4")
    source = pipe.invert(picture, SOURCE, method, **RUN)
    assert source.steps.count == count_path_steps(method, 3) == 2


def test_progress_bars_say_what_runs(pipe, picture, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(pipe, "_progress_bar_config", {"file": shown, "desc": "seed 7"})
    source = pipe.invert(picture, SOURCE, "direct:iterations=1", **RUN)
    labels = [line.rpartition("\r")[2].partition(":")[0] for line in shown.getvalue().split("\n")]
    assert labels == ["inversion", "recording", "replay", ""]
    shown.truncate(0)
    pipe(source, "a red dog", edits=[])
    assert "seed 7: 100%" in shown.getvalue()


@pytest.mark.parametrize("method", ["ddim", "direct", "negative-prompt", "null-text", "bdia"])
def test_methods_that_invert_steps_are_refused_for_models_of_few_steps(method):
    parts = tiny_sd_components()
    parts["scheduler"] = build_scheduler("lcm", parts["scheduler"].config)
    few = PromptEditPipeline(**parts)
    with pytest.raises(ArgumentError, match=f"The method {method} inverts each step.*choose turbo"):
        resolve_inversion_method(few, method)
    resolve_inversion_method(few, "edit-friendly")


def test_null_text_is_refused_for_flow_models():
    parts = tiny_sd_components() | {"scheduler": FlowMatchEulerDiscreteScheduler()}
    with pytest.raises(ArgumentError, match=r"method null-text optimises .*: choose difference"):
        resolve_inversion_method(PromptEditPipeline(**parts), "null-text")
