"""Cross-attention until a gate, against attention written out by hand, in float64."""

import copy

import pytest
import torch

from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import attend
from t2i.conditioning.guidance import ClassifierFree
from t2i.conditioning.guidance_interval import Interval
from t2i.denoiser.caches import DeepBlocks, GatedCrossAttention
from t2i.denoiser.caches.gated_cross_attention import average_with_uncond
from t2i.denoiser.text_key_value_cache import is_text_cross_attention
from t2i.errors import ArgumentError, AttentionError
from t2i.text.prompt import Prompt
from tests.attention.runs import left_behind
from tests.denoiser.caches.by_hand import recording
from tests.tiny import tiny_sd_components, tiny_sdxl_components

PROMPT = "a red apple to the left of the cat"
GATE = GatedCrossAttention(after=2)


class ByHand:
    """Cross-attention without any of torch's or diffusers', which is told when to stop."""

    def __init__(self):
        self.computes, self.kept = True, None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        if not self.computes:
            rows = len(hidden_states)
            return self.kept[:1].repeat(rows, 1, 1) if len(self.kept) == 1 else self.kept[:rows]
        query, key, value = (
            layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, x in (
                (attn.to_q, hidden_states),
                (attn.to_k, encoder_hidden_states),
                (attn.to_v, encoder_hidden_states),
            )
        )
        probs = (query @ key.transpose(-1, -2) * attn.scale).softmax(dim=-1)
        attended = attn.to_out[0]((probs @ value).transpose(1, 2).flatten(2))
        uncond, cond = attended.chunk(2) if len(attended) > 1 else (attended, attended)
        self.kept = torch.cat([(uncond + cond) / 2] * 2)
        return attended


def pipeline(parts):
    pipe = TextToImagePipeline(**copy.deepcopy(parts))
    pipe.to(torch.float64)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompt=PROMPT, seed=3, **call):
    options = {"num_inference_steps": 5, "output_type": "latent"} | call
    return pipe(prompt, generator=torch.Generator().manual_seed(seed), **options).images


def check(pipe, computed, cache=GATE, **call):
    """Each pass of a run is the one with attention by hand, computed at these passes alone."""
    with recording(pipe.unet) as found:
        cached = draw(pipe, cache=[cache], **call)
    unet = copy.deepcopy(pipe.unet)
    processors = []
    for module in unet.modules():
        if is_text_cross_attention(module):
            processors.append(ByHand())
            module.set_processor(processors[-1])
    assert processors
    with torch.no_grad():
        for number, one in enumerate(found.passes):
            for processor in processors:
                processor.computes = number in computed
            expected = unet(*one["args"], **one["kwargs"])[0]
            difference = (expected - one["output"]).abs().max() / expected.abs().max()
            assert difference < 1e-12, number
    assert not torch.equal(cached, draw(pipe, **call))
    return found.passes


@pytest.mark.parametrize("parts", [tiny_sd_components, tiny_sdxl_components], ids=["SD1", "SDXL"])
def test_each_pass_is_the_one_by_hand(parts):
    check(pipeline(parts()), {0, 1})


def test_several_prompts_have_means_of_their_own():
    prompts = [PROMPT, "a blue dog"]
    passes = check(pipeline(tiny_sd_components()), {0, 1}, prompt=prompts, num_images_per_prompt=2)
    assert len(passes[0]["args"][0]) == 8


def test_the_rows_of_cond_go_on_with_the_mean_when_guidance_stops_as_in_the_paper():
    guidance = Interval(ClassifierFree(5.0), stop=0.4)
    passes = check(pipeline(tiny_sd_components()), {0, 1}, guidance=guidance)
    assert [len(one["args"][0]) for one in passes] == [2, 2, 1, 1, 1]


def test_without_guidance_the_own_output_is_kept():
    check(pipeline(tiny_sd_components()), {0, 1}, guidance_scale=1.0)


def test_a_pass_with_another_text_is_computed_and_kept():
    prompt = Prompt("a [cat:dog:0.6]", dialect="a1111")
    check(pipeline(tiny_sd_components()), {0, 1, 3}, prompt=prompt)


def test_a_share_of_the_run_and_a_gate_after_the_first_pass():
    check(pipeline(tiny_sd_components()), {0, 1, 2}, cache=GatedCrossAttention(after=0.6))
    check(pipeline(tiny_sd_components()), {0}, cache=GatedCrossAttention(after=1))


def test_a_gated_pass_calls_no_layer_of_cross_attention_and_leaves_nothing_behind():
    pipe = pipeline(tiny_sd_components())
    before = left_behind(pipe)
    passes = check(pipe, {0, 1})
    assert left_behind(pipe) == before
    crossed = [sum("attn2" in name for name in one["ran"]) for one in passes]
    others = [sum("attn2" not in name for name in one["ran"]) for one in passes]
    assert crossed[0] == crossed[1] > 0
    assert crossed[2:] == [0, 0, 0]
    assert len(set(others)) == 1


def test_other_branches_are_averaged_with_the_unconditional_one():
    rows = {name: torch.full((1, 2), value) for name, value in (("uncond", 0.0), ("cond", 2.0))}
    rows |= {"cond_1": torch.full((1, 2), 6.0)}
    means = average_with_uncond(rows)
    assert {name: float(mean[0, 0]) for name, mean in means.items()} == {
        "uncond": 1.0,
        "cond": 1.0,
        "cond_1": 3.0,
    }


def test_beside_deep_blocks_each_site_is_kept_of_the_last_pass_that_computes_it():
    """Full passes are 0, 3 and 6, the gate is before 3: deep sites are kept of pass 3."""
    pipe = pipeline(tiny_sd_components())
    with recording(pipe.unet) as found:
        draw(pipe, cache=[GatedCrossAttention(after=3), DeepBlocks()], num_inference_steps=8)
    crossed = [sorted(name for name in one["ran"] if "attn2.to_q" in name) for one in found.passes]
    shallow = ["up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_q"]
    assert len(crossed[0]) > 1
    deep = [name for name in crossed[0] if name not in shallow]
    assert crossed == [crossed[0], shallow, shallow, deep, [], [], [], []]


def test_a_probe_after_the_gate_is_refused_and_one_across_it_counts():
    pipe = pipeline(tiny_sd_components())

    def run(**probe):
        with attend(pipe) as attn:
            attn.probe("cat", **probe)
            draw(pipe, cache=[GATE])
            return attn.report()

    assert "x 2 steps" in (report := run())
    assert "calls that the run's caches left out" in report
    match = r"the cache cross:after=2 leaves out .* those that compute it \(0, 1\)"
    with pytest.raises(AttentionError, match=match):
        run(steps=(2, 5))


@pytest.mark.parametrize("after", [0, -1, 0.0, 1.0, 1.5, True, "10"], ids=repr)
def test_a_gate_before_the_first_pass_or_without_a_meaning_is_refused(after):
    with pytest.raises(ArgumentError, match="expected a number of passes from 1 on"):
        GatedCrossAttention(after=after)


def test_a_share_that_leaves_no_pass_before_the_gate_is_refused():
    pipe = pipeline(tiny_sd_components())
    with pytest.raises(ArgumentError, match="its gate is before the first, which cannot be"):
        draw(pipe, cache=[GatedCrossAttention(after=0.1)])


def test_a_denoiser_without_cross_attention_is_refused():
    with pytest.raises(ArgumentError, match="a cache of cross-attention for a Linear"):
        GATE.check_unet(torch.nn.Linear(2, 2))
