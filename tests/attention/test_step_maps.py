"""Heat maps of each step: together they are those of the run."""

import pytest
import torch

from t2i.attention import attend
from t2i.attention.probes.step_heat_maps import StepHeatMaps
from t2i.text.prompt import Prompt
from tests.attention.runs import CAT, draw, ours
from tests.tiny import tiny_sd_components


@pytest.fixture(scope="module")
def pipe():
    return ours(**tiny_sd_components())


@pytest.mark.parametrize("convention", ["mean", "daam"])
def test_the_maps_of_the_steps_add_up_to_those_of_the_run(pipe, convention):
    with attend(pipe) as attn:
        maps = attn.probe("red apple", "cat", convention=convention)
        by_step = StepHeatMaps(maps)
        with by_step.collecting(pipe):
            draw(pipe, CAT)
    assert len(by_step.steps) == 4
    for word in maps:
        every = torch.stack([one[word] for one in by_step.steps])
        together = every.mean(0) if convention == "mean" else every.sum(0)
        assert torch.allclose(together, maps[word], atol=1e-6)
        assert not torch.allclose(every[0], every[1], atol=1e-6)
    assert not any(isinstance(one, StepHeatMaps) for one in pipe.step_callbacks)


def test_the_maps_of_the_steps_are_refined_by_the_run(pipe):
    with attend(pipe) as attn:
        maps = attn.probe("cat", convention="refined")
        by_step = StepHeatMaps(maps)
        with by_step.collecting(pipe):
            draw(pipe, CAT)
    assert {one["cat"].shape for one in by_step.steps} == {maps["cat"].shape}


def test_words_of_some_steps_alone_have_no_map_at_the_others(pipe):
    with attend(pipe) as attn:
        maps = attn.probe("cat", "dog")
        by_step = StepHeatMaps(maps)
        with by_step.collecting(pipe):
            draw(pipe, Prompt("a red [cat:dog:0.5]"))
    assert [one.has_read("cat") for one in by_step.steps][:1] == [True]
    assert [one.has_read("dog") for one in by_step.steps][:1] == [False]
    assert by_step.steps[-1].has_read("dog")
    assert not by_step.steps[-1].has_read("cat")
