"""Caches belong to a run: off they are nothing, afterwards nothing is left, others are not cut."""

import gc
import threading
import weakref

import pytest
import torch

from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import attend
from t2i.denoiser.caches import DeepBlocks, GatedCrossAttention
from t2i.denoiser.caches.pass_state import PassState
from t2i.errors import ArgumentError
from t2i.text.prompt import Prompt
from tests.attention.runs import left_behind
from tests.tiny import tiny_scheduler, tiny_sd_components, tiny_sdxl_components

PROMPT = "a red apple"
DEEP = DeepBlocks(every=3)


@pytest.fixture
def pipe():
    pipe = TextToImagePipeline(**tiny_sd_components())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompt=PROMPT, **call):
    options = {"num_inference_steps": 5, "output_type": "latent"} | call
    return pipe(prompt, generator=torch.Generator().manual_seed(3), **options).images


def beside(pipe):
    """Another pipeline around the same models."""
    other = TextToImagePipeline(**pipe.components | {"scheduler": tiny_scheduler()})
    other.set_progress_bar_config(disable=True)
    return other


def forwards(unet):
    return [name for name, module in unet.named_modules() if "forward" in vars(module)]


def test_without_a_cache_nothing_is_installed_and_the_picture_is_the_same(pipe):
    installed = []

    def see(_pipe, step, _timestep, _tensors):
        installed.append(forwards(pipe.unet))
        return {}

    without = draw(pipe, callback_on_step_end=see)
    wrapped = set(map(tuple, installed))
    for cache in (None, [], ()):
        assert torch.equal(without, draw(pipe, cache=cache, callback_on_step_end=see))
    assert set(map(tuple, installed)) == wrapped
    draw(pipe, cache=[DEEP], callback_on_step_end=see)
    assert "mid_block" in installed[-1]
    assert "mid_block" not in installed[0]


def test_a_cache_whose_passes_are_all_full_changes_no_bit(pipe):
    every = DeepBlocks(full=tuple(range(5)))
    with pytest.warns(UserWarning, match="cut none of the 5 passes of the run"):
        assert torch.equal(draw(pipe), draw(pipe, cache=[every]))


def test_one_cache_serves_runs_that_know_nothing_of_each_other(pipe):
    first = draw(pipe, cache=[DEEP])
    draw(pipe, "a dog", cache=[DEEP])
    assert torch.equal(first, draw(pipe, cache=[DEEP]))


def test_the_model_is_left_as_it_was_also_after_an_error(pipe):
    before = left_behind(pipe)
    plain = draw(pipe)
    draw(pipe, cache=[DEEP])
    assert left_behind(pipe) == before

    def stop(_pipe, step, _timestep, _tensors):
        if step == 2:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        draw(pipe, cache=[DEEP], callback_on_step_end=stop)
    assert left_behind(pipe) == before
    assert torch.equal(plain, draw(pipe))


@pytest.mark.parametrize("in_thread", [False, True], ids=["in a callback", "in another thread"])
def test_another_run_of_the_model_within_the_run_is_not_cut(pipe, in_thread):
    other = beside(pipe)
    plain, cached = draw(other), draw(pipe, cache=[DEEP])
    found = []

    def see(_pipe, step, _timestep, _tensors):
        if step == 1:
            if in_thread:
                thread = threading.Thread(target=lambda: found.append(draw(other)))
                thread.start()
                thread.join()
            else:
                found.append(draw(other))
        return {}

    assert torch.equal(cached, draw(pipe, cache=[DEEP], callback_on_step_end=see))
    assert torch.equal(found[0], plain)


def test_two_runs_with_a_cache_each_may_be_nested(pipe):
    other = beside(pipe)
    cached, deeper = draw(pipe, cache=[DEEP]), draw(other, cache=[DeepBlocks(every=2, branch=1)])
    found = []

    def see(_pipe, step, _timestep, _tensors):
        if step == 1:
            found.append(draw(other, cache=[DeepBlocks(every=2, branch=1)]))
        return {}

    assert torch.equal(cached, draw(pipe, cache=[DEEP], callback_on_step_end=see))
    assert torch.equal(found[0], deeper)


def test_a_run_that_ends_early_is_not_complained_of(pipe):
    def stop(own, step, _timestep, _tensors):
        own._interrupt = True
        return {}

    draw(pipe, cache=[DEEP], callback_on_step_end=stop)


def test_a_text_that_changes_at_each_step_is_said_to_leave_no_pass_to_cut(pipe):
    with pytest.warns(UserWarning, match="its text changes at each step"):
        draw(pipe, Prompt("a [cat|dog]", dialect="a1111"), cache=[DEEP])


def test_two_caches_of_the_same_modules_exclude_one_another(pipe):
    match = "deep:every=3 and deep:every=2, which exclude one another"
    with pytest.raises(ArgumentError, match=match):
        draw(pipe, cache=[DEEP, DeepBlocks(every=2)])


@pytest.mark.parametrize("cache", ["deep", DEEP, [DeepBlocks], {"deep": 3}], ids=str)
def test_what_is_no_list_of_caches_is_refused(pipe, cache):
    match = "expected a list of caches, such as"
    with pytest.raises(ArgumentError, match=match):
        draw(pipe, cache=cache)
    with pytest.raises(ArgumentError, match=match):
        PromptEditPipeline(**tiny_sd_components()).remember(PROMPT, seed=3, cache=cache)


def test_a_compiled_unet_is_refused(pipe):
    pipe.unet.compile()
    with pytest.raises(ArgumentError, match="a cache for a compiled UNet"):
        draw(pipe, cache=[DEEP])


CACHES = [DeepBlocks(every=4), GatedCrossAttention(after=1)]


@pytest.mark.parametrize("cache", CACHES, ids=str)
@pytest.mark.parametrize("inference", [False, True], ids=["no_grad", "inference_mode"])
def test_a_text_changed_in_place_is_a_changed_text(pipe, cache, inference):
    def draw_changed(in_place):
        def change(_pipe, step, _timestep, tensors):
            if step != 1:
                return {}
            text = tensors["prompt_embeds"]
            return {"prompt_embeds": text.mul_(2) if in_place else text * 2}

        with torch.inference_mode(inference):
            return draw(
                pipe,
                cache=[cache],
                callback_on_step_end=change,
                callback_on_step_end_tensor_inputs=("prompt_embeds",),
            )

    assert torch.equal(draw_changed(True), draw_changed(False))


@pytest.mark.parametrize("name", ["add_text_embeds", "add_time_ids"])
def test_a_changed_pooled_embedding_or_size_is_a_changed_text(name):
    pipe = TextToImagePipeline(**tiny_sdxl_components())
    pipe.set_progress_bar_config(disable=True)
    full = []

    def change(_pipe, step, _timestep, tensors):
        return {name: tensors[name] * 2} if step == 1 else {}

    def ran(*_):
        full.append(True)

    hook = pipe.unet.mid_block.resnets[0].register_forward_hook(ran)
    draw(
        pipe,
        cache=[DeepBlocks(every=4)],
        callback_on_step_end=change,
        callback_on_step_end_tensor_inputs=(name,),
    )
    hook.remove()
    assert len(full) == 3  # passes 0 and 4, and 2 with the changed one


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_nothing_that_was_kept_outlives_the_run(pipe, cache, monkeypatch):
    kept, at_decoding = [], []
    keep, decode = PassState.keep, pipe.to_images

    def see(state, rows):
        kept.extend(map(weakref.ref, rows.values()))
        return keep(state, rows)

    def see_decoding(*arguments):
        gc.collect()
        at_decoding.append([one() is None for one in kept])
        return decode(*arguments)

    monkeypatch.setattr(PassState, "keep", see)
    monkeypatch.setattr(pipe, "to_images", see_decoding)
    with attend(pipe) as attn:
        attn.probe("apple")
        draw(pipe, cache=[cache])
    assert kept
    assert all(all(one) for one in at_decoding)
    assert all(one() is None for one in kept)
