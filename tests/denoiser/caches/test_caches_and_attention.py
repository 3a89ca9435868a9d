"""Probes and edits of runs with a cache: what no pass computed is counted, or refused."""

import pytest
import torch
from torch.nn import functional

from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from t2i.attention import AttendAndExcite, LocalBlend, Replace, StepHeatMaps, attend
from t2i.denoiser.caches import DeepBlocks, GatedCrossAttention
from t2i.errors import ArgumentError, AttentionError
from t2i.text.prompt import Prompt
from tests.attention.runs import CAT, DOG, assert_equal, draw, left_behind, ours
from tests.denoiser.caches.by_hand import recording
from tests.tiny import tiny_sd_components

DEEP = DeepBlocks(every=3)
SIX = {"num_inference_steps": 6}
SHALLOW, BELOW = "up_blocks.1.attentions.1", "down_blocks.0.attentions.0"
"""Of the two sites the first is computed in cut passes, the second in full ones alone."""


@pytest.fixture(scope="module")
def pipe():
    return ours()


@pytest.fixture
def editor():
    pipe = PromptEditPipeline(**tiny_sd_components())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def edited(editor, source, target, **call):
    options = {"num_inference_steps": 6, "output_type": "latent"} | call
    return editor(source, target, **options).images


def test_a_probe_reads_the_passes_that_compute_a_site_and_changes_no_bit(pipe):
    cached = draw(pipe, CAT, cache=[DEEP], **SIX)
    before = left_behind(pipe)
    with attend(pipe) as attn:
        maps = attn.probe("cat")
        assert_equal(cached, draw(pipe, CAT, cache=[DEEP], **SIX))
        heard = {
            name.split(".transformer")[0]: accumulator.steps[0]
            for (_, name), accumulator in maps.measurements.accumulators.items()
        }
        assert heard[SHALLOW] == 6
        assert heard[BELOW] == 2
        deep = len(heard) - 1
        report = attn.report()
    assert f"no map of {4 * deep} calls that the run's caches left out" in report
    assert torch.isfinite(maps["cat"]).all()
    assert left_behind(pipe) == before


@pytest.mark.parametrize("cache", [[DEEP], []], ids=["cache", "no cache"])
def test_the_sites_of_a_daam_map_weigh_the_same_however_often_they_ran(pipe, cache):
    with attend(pipe) as attn:
        maps = attn.probe("cat", convention="daam")
        draw(pipe, CAT, cache=cache, **SIX)
    heads = []
    for one in maps.measurements.accumulators.values():
        assert one.steps[0] in ((2, 6) if cache else (6,))
        # As DAAM has it: the sum over all six steps, of a site that ran in two of them threefold.
        total = (one.total_NSQ * (6 // one.steps[0])).unflatten(-1, one.site.size)
        resized = functional.interpolate(total, maps.grid_size, mode="bicubic")
        heads += list(resized.clamp(min=0).mean(dim=1))
    assert_equal(maps["cat"], torch.stack(heads).mean(0))


def test_without_a_cache_nothing_is_reported_left_out(pipe):
    with attend(pipe) as attn:
        attn.probe("cat")
        draw(pipe, CAT)
        assert "left out" not in attn.report()


def test_maps_of_single_steps_are_those_of_the_sites_that_were_computed(pipe):
    with attend(pipe) as attn:
        by_step = StepHeatMaps(attn.probe("cat"))
        with by_step.collecting(pipe):
            draw(pipe, CAT, cache=[DEEP], **SIX)
    assert len(by_step.steps) == 6
    assert all(torch.isfinite(maps["cat"]).all() for maps in by_step.steps)


@pytest.mark.parametrize("kind", ["probe", "edit"])
def test_a_participant_of_left_out_passes_alone_is_refused_with_those_it_may_have(pipe, kind):
    match = (
        r"acts at the steps 1 to 2, at all of which the cache deep:every=3 leaves out the "
        r"attention of 1 site. Choose steps among those that compute it \(0, 3\), choose"
    )

    def run():
        with attend(pipe) as attn:
            if kind == "probe":
                attn.probe("cat", steps=(1, 3), sites=BELOW)
            else:
                attn.edit(Replace(steps=(1, 3), sites=BELOW))
            draw(pipe, [CAT, DOG], cache=[DEEP], **SIX)

    with pytest.raises(AttentionError, match=match):
        run()


def test_an_edit_in_some_computed_pass_acts_there_and_through_what_is_kept(pipe):
    plain = draw(pipe, [CAT, DOG], cache=[DEEP], **SIX)
    with attend(pipe) as attn:
        attn.edit(Replace(steps=(0, 1), sites=BELOW))
        changed = draw(pipe, [CAT, DOG], cache=[DEEP], **SIX)
        assert "1 site x 1 step, 1 call" in attn.report()
    assert_equal(plain[:1], changed[:1])
    assert not torch.equal(plain[1], changed[1])


def test_a_blend_reads_its_maps_in_the_passes_that_have_them(pipe):
    with attend(pipe) as attn:
        attn.edit(LocalBlend(words=("cat", "dog")))
        drawn = draw(pipe, [CAT, DOG], cache=[DEEP], **SIX)
    assert torch.isfinite(drawn).all()


def test_extra_passes_of_an_edit_are_full_and_leave_what_is_kept_alone(pipe):
    with attend(pipe) as attn, recording(pipe.unet) as found:
        attn.edit(AttendAndExcite(words=("cat",), steps=(1, 2), thresholds=()))
        draw(pipe, CAT, cache=[DEEP], **SIX)
    ran = ["mid_block" in " ".join(one["ran"]) for one in found.passes]
    # The extra passes are of the rows of "cond" alone.
    extra = [len(one["args"][0]) == 1 for one in found.passes]
    assert any(extra)
    assert all(full for full, is_extra in zip(ran, extra, strict=True) if is_extra)
    own = [full for full, is_extra in zip(ran, extra, strict=True) if not is_extra]
    assert own == [True, False, False, True, False, False]


def test_edits_of_a_recorded_source_have_its_cache(editor):
    source = editor.remember(CAT, seed=3, num_inference_steps=6, cache=[DEEP])
    beside = edited(editor, CAT, DOG, seed=3, cache=[DEEP])
    with recording(editor.unet) as found:
        replayed = edited(editor, source, DOG, num_inference_steps=None)
    torch.testing.assert_close(replayed, beside, rtol=0, atol=1e-4)
    assert ["mid_block" in " ".join(one["ran"]) for one in found.passes] == [
        number in (0, 3) for number in range(6)
    ]
    assert not torch.equal(replayed[1], edited(editor, CAT, DOG, seed=3)[1])


def test_the_cache_of_a_recorded_source_is_in_its_folder(editor, tmp_path):
    from pipelines.prompt_to_prompt.recorded_source import load_recorded_source

    steps = {"num_inference_steps": 6}
    editor.remember(CAT, seed=3, cache=[DEEP], folder=tmp_path / "cut", **steps)
    loaded = load_recorded_source(tmp_path / "cut")
    kept = editor.remember(CAT, seed=3, cache=[DEEP], **steps)
    of_loaded = edited(editor, loaded, DOG, num_inference_steps=None)
    assert_equal(of_loaded, edited(editor, kept, DOG, num_inference_steps=None))


@pytest.mark.parametrize(
    ("recorded", "given"), [([DEEP], []), ([DEEP], [DeepBlocks(every=2)]), (None, [DEEP])], ids=str
)
def test_another_cache_than_that_of_the_recording_is_refused(editor, recorded, given):
    source = editor.remember(CAT, seed=3, num_inference_steps=4, cache=recorded)
    with pytest.raises(ArgumentError, match=r"The source was recorded with cache=.* has cache="):
        edited(editor, source, DOG, num_inference_steps=None, cache=given)
    edited(editor, source, DOG, num_inference_steps=None, cache=recorded)


def test_a_target_recorded_as_the_next_source_is_that_edit_exactly(editor):
    source = editor.remember(CAT, seed=3, num_inference_steps=6, cache=[DEEP])
    first = edited(editor, source, DOG, num_inference_steps=None)[1]
    target = editor.remember_target(source, DOG)
    assert target.facts["cache"] == source.facts["cache"]
    again = edited(editor, target, DOG, num_inference_steps=None)[0]
    torch.testing.assert_close(again, first, rtol=0, atol=1e-5)


CHANGING = Prompt("a red apple to the left of a [cat:dog:0.7]", dialect="a1111")
ALSO_CHANGING = Prompt("a green apple to the left of a [cat:dog:0.7]", dialect="a1111")


@pytest.mark.parametrize("cache", [DEEP, GatedCrossAttention(after=2)], ids=str)
def test_a_text_that_changes_at_other_steps_than_a_recorded_source_with_a_cache_is_refused(
    editor, cache
):
    plain = editor.remember(CAT, seed=3, cache=[cache], **SIX)
    match = r"that of the source never and that of the targets at \[4\]"
    with pytest.raises(ArgumentError, match=match):
        edited(editor, plain, CHANGING, num_inference_steps=None)
    with pytest.raises(ArgumentError, match=match):
        editor.remember_target(plain, CHANGING)
    changing = editor.remember(CHANGING, seed=3, cache=[cache], **SIX)
    with pytest.raises(ArgumentError, match=r"the source at \[4\] and that of the targets never"):
        edited(editor, changing, CAT, num_inference_steps=None)
    without = editor.remember(CAT, seed=3, **SIX)
    edited(editor, without, CHANGING, num_inference_steps=None)


@pytest.mark.parametrize("cache", [DEEP, GatedCrossAttention(after=2)], ids=str)
def test_a_target_that_changes_with_its_recorded_source_equals_the_one_beside_it(editor, cache):
    source = editor.remember(CHANGING, seed=3, cache=[cache], **SIX)
    beside = edited(editor, CHANGING, ALSO_CHANGING, seed=3, cache=[cache])
    replayed = edited(editor, source, ALSO_CHANGING, num_inference_steps=None)
    torch.testing.assert_close(replayed, beside, rtol=0, atol=1e-4)


def test_a_text_that_a_callback_changes_in_an_edit_of_a_recorded_source_is_refused(editor):
    source = editor.remember(CAT, seed=3, cache=[DEEP], **SIX)

    def change(_pipe, step, _timestep, tensors):
        return {"prompt_embeds": tensors["prompt_embeds"] * 2} if step == 3 else {}

    with pytest.raises(AttentionError, match=r"Step 4 computes .* but the recorded source left it"):
        edited(
            editor,
            source,
            DOG,
            num_inference_steps=None,
            callback_on_step_end=change,
            callback_on_step_end_tensor_inputs=("prompt_embeds",),
        )
