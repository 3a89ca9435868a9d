"""A call owns its scheduler and its state: others on the same pipeline change nothing of it."""

import copy
import sys
import threading

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig
from PIL import Image

from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.run.exclusive_access import holding_locks
from pipelines.text_to_image import TextToImagePipeline
from pipelines.unclip.unclip import UnclipPipeline
from t2i.attention import Replace, attend
from t2i.conditioning.perturbed_guidance import PerturbedAttention
from t2i.denoiser.schedulers import build_scheduler
from t2i.errors import ArgumentError, T2IError
from tests.denoiser.tiny_models import kandinsky_components, prior_components
from tests.sweeps import sweep
from tests.tiny import TEXT_WIDTH, tiny_sd_components, tiny_sdxl_components

SAMPLERS = ("ddim", "dpm++ 2m", "unipc", "euler a", "heun", "pndm", "dpm++ 3m sde karras")
PICTURE = Image.new("RGB", (32, 32), "teal")
MASK = Image.new("L", (32, 32))
MASK.paste(255, (0, 0, 16, 32))
LATENT = {"output_type": "latent", "return_dict": False}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def kin(components):
    """Pipelines of every kind over the same parts, the scheduler too."""
    kinds = (TextToImagePipeline, ImageToImagePipeline, InpaintPipeline, PromptEditPipeline)
    return [quiet(kind(**components)) for kind in kinds]


@pytest.fixture
def pipe(components):
    return quiet(TextToImagePipeline(**components | {"scheduler": sampler("ddim", components)}))


def sampler(name, components):
    return build_scheduler(name, components["scheduler"].config)


def at_once(*draws, rounds=2):
    """What each gives while the others run, in threads that take turns as often as can be."""
    given = [[] for _ in draws]
    barrier = threading.Barrier(len(draws))

    def work(index, draw):
        barrier.wait()
        try:
            for _ in range(rounds):
                given[index].append(draw())
        except BaseException as error:
            given[index].append(error)

    threads = [
        threading.Thread(target=work, args=(index, draw), daemon=True)
        for index, draw in enumerate(draws)
    ]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "two calls wait for one another"
    finally:
        sys.setswitchinterval(interval)
    return given


def assert_as_alone(*draws):
    alone = [draw() for draw in draws]
    for before, together in zip(alone, at_once(*draws), strict=True):
        for one in together:
            if isinstance(one, BaseException):
                raise one
            assert torch.equal(one, before), f"max {(one - before).abs().max()}"


def drawing(pipe, prompt="a red cat", seed=1, **call):
    return lambda: pipe(prompt, generator=seeded(seed), **LATENT | call)[0]


# threads


# One that keeps nothing, one that keeps former predictions, one of two passes a step.
@pytest.mark.parametrize("name", sweep(SAMPLERS, quick=["ddim", "dpm++ 2m", "heun"]))
def test_threads_with_other_steps_draw_what_each_draws_alone(components, name):
    pipe = quiet(TextToImagePipeline(**components | {"scheduler": sampler(name, components)}))
    steps = (2, 3, 5)
    assert_as_alone(*(drawing(pipe, num_inference_steps=n, guidance_scale=n) for n in steps))


def test_pipelines_of_every_kind_over_the_same_parts_draw_what_each_draws_alone(components):
    parts = components | {"scheduler": sampler("dpm++ 2m", components)}
    draw, change, fill, edit = kin(parts)
    assert_as_alone(
        drawing(draw, num_inference_steps=3),
        drawing(change, image=PICTURE, num_inference_steps=6),
        drawing(fill, image=PICTURE, mask_image=MASK, num_inference_steps=4),
        lambda: edit("a red cat", "a red dog", seed=2, num_inference_steps=5, **LATENT)[0],
    )


def test_a_probe_and_guidance_that_perturbs_in_one_thread_leave_the_others_alone(pipe):
    def probed():
        with attend(pipe) as attn:
            maps = attn.probe("cat")
            drawn = drawing(pipe, num_inference_steps=4)()
        assert maps["cat"].max() > 0
        return drawn

    perturbed = PerturbedAttention(5.0, 2.0, sites=("mid",))
    assert_as_alone(
        probed,
        drawing(pipe, num_inference_steps=6),
        drawing(pipe, num_inference_steps=3, guidance=perturbed),
    )


def test_edits_of_prompts_in_two_threads_wait_for_one_another(components):
    edit = quiet(PromptEditPipeline(**components))
    assert_as_alone(
        *(
            lambda n=n: edit("a red cat", "a red dog", seed=n, num_inference_steps=n, **LATENT)[0]
            for n in (3, 4)
        )
    )


def test_lora_scales_of_two_threads_are_each_their_own():
    parts = tiny_sd_components()
    torch.manual_seed(3)
    for part in ("unet", "text_encoder"):
        model = parts[part]
        names = [n for n, _ in model.named_modules() if n.split(".")[-1] in ("to_v", "v_proj")]
        model.add_adapter(LoraConfig(r=2, target_modules=names, init_lora_weights=False))
    pipe = quiet(TextToImagePipeline(**parts))
    draws = [
        drawing(pipe, num_inference_steps=3, cross_attention_kwargs=options)
        for options in (None, {"scale": 0.2}, {"scale": 3.0})
    ]
    assert not torch.equal(draws[1](), draws[2]())
    assert_as_alone(*draws)


def test_weights_that_hooks_bring_are_used_by_one_call_at_a_time():
    parts = tiny_sd_components()
    for part in ("unet", "text_encoder", "vae"):
        cpu_offload(parts[part], execution_device="cpu")
    pipe = quiet(TextToImagePipeline(**parts))
    assert_as_alone(*(drawing(pipe, num_inference_steps=n) for n in (1, 2)))


def test_sdxl_in_threads_draws_what_it_draws_alone():
    pipe = quiet(TextToImagePipeline(**tiny_sdxl_components()))
    assert_as_alone(*(drawing(pipe, num_inference_steps=n) for n in (2, 3)))


def test_kandinsky_and_its_prior_in_threads_draw_what_they_draw_alone():
    parts = {f"prior_{name}": part for name, part in prior_components().items()}
    pipe = quiet(UnclipPipeline(**kandinsky_components(), **parts))
    embeds = torch.randn(2, 1, TEXT_WIDTH, generator=seeded(9))
    given = {"image_embeds": embeds[0], "negative_image_embeds": embeds[1]}
    assert_as_alone(
        drawing(pipe, num_inference_steps=2, prior_num_inference_steps=4),
        drawing(pipe, num_inference_steps=4, prior_num_inference_steps=2),
        lambda: pipe(generator=seeded(1), num_inference_steps=3, **given, **LATENT)[0],
    )


# a call inside a callback


@pytest.mark.parametrize("name", sweep(["dpm++ 2m", "heun", "ddim", "unipc"], quick=2))
def test_a_call_inside_a_callback_leaves_the_outer_picture_as_it_was(components, name):
    parts = components | {"scheduler": sampler(name, components)}
    pipe, *others = kin(parts)
    alone, inner = drawing(pipe, num_inference_steps=4), drawing(pipe, num_inference_steps=2)
    before, inner_before = alone(), inner()

    def nest(pipeline, step, timestep, tensors):
        turns = len(pipeline.scheduler.timesteps)
        assert torch.equal(inner(), inner_before)
        others[-1]("a red cat", "a dog", seed=2, num_inference_steps=3, **LATENT)
        assert pipeline.guidance_scale == 7.5
        assert pipeline.num_timesteps == len(pipeline.scheduler.timesteps) == turns
        return tensors

    nested = drawing(pipe, num_inference_steps=4, callback_on_step_end=nest)()
    assert torch.equal(nested, before)


def test_a_session_keeps_to_the_outer_call_of_a_nested_one(pipe):
    def observed(callback=None):
        with attend(pipe) as attn:
            maps = attn.probe("cat", prompt=1)
            attn.edit(Replace(target=1))
            drawn = pipe(
                ["a red cat", "a blue cat"],
                generator=[seeded(1), seeded(1)],
                num_inference_steps=3,
                callback_on_step_end=callback,
                **LATENT,
            )[0]
        return drawn, maps["cat"]

    def nest(pipeline, step, timestep, tensors):
        assert torch.equal(inner(), before)
        with attend(pipeline) as attn:
            inside = attn.probe("dog")
            drawing(pipeline, "the dog", height=16, num_inference_steps=2)()
        assert inside["dog"].max() > 0
        return tensors

    inner = drawing(pipe, "dog", num_inference_steps=2)
    before = inner()
    plain, nested = observed(), observed(nest)
    for one, other in zip(plain, nested, strict=True):
        assert torch.equal(one, other)


# what is seen on the pipeline


def test_a_callback_in_each_thread_sees_its_own_call(pipe):
    def seeing(steps):
        def look(pipeline, step, timestep, tensors):
            assert pipeline.guidance_scale == pipeline._guidance_scale == float(steps)
            assert pipeline.num_timesteps == len(pipeline.scheduler.timesteps) == steps
            assert not pipeline.interrupt
            pipeline._guidance_scale = float(steps)
            return tensors

        options = {"num_inference_steps": steps, "guidance_scale": float(steps)}
        return drawing(pipe, callback_on_step_end=look, **options)

    assert_as_alone(*(seeing(steps) for steps in (2, 3, 5)))


def test_after_a_call_the_scheduler_is_the_very_one_and_stands_where_the_call_left_it(pipe):
    own = pipe.scheduler
    drawing(pipe, num_inference_steps=3, guidance_scale=2.0)()
    assert pipe.scheduler is own
    assert len(own.timesteps) == pipe.num_timesteps == 3
    assert pipe.guidance_scale == 2.0


def test_a_scheduler_set_by_a_callback_is_seen_at_once_and_serves_the_next_call(pipe):
    other = sampler("euler", pipe.components)
    before = drawing(pipe, num_inference_steps=3)()

    def change(pipeline, step, timestep, tensors):
        pipeline.scheduler = other
        assert pipeline.scheduler is other
        return tensors

    assert torch.equal(drawing(pipe, num_inference_steps=3, callback_on_step_end=change)(), before)
    assert pipe.scheduler is other


def test_nothing_is_to_be_read_before_the_first_call(components):
    pipe = TextToImagePipeline(**components)
    for name in ("guidance_scale", "num_timesteps", "interrupt", "do_classifier_free_guidance"):
        assert not hasattr(pipe, name)


def test_interrupt_of_a_callback_ends_its_own_call_and_no_other(pipe):
    def stop(pipeline, step, timestep, tensors):
        pipeline._interrupt = step == 1
        return tensors

    assert_as_alone(
        drawing(pipe, num_inference_steps=4, callback_on_step_end=stop),
        drawing(pipe, num_inference_steps=5),
    )


def test_interrupt_of_another_thread_ends_every_call_of_the_pipeline_under_way(pipe):
    reached = threading.Barrier(3)
    steps = []

    def wait_there(pipeline, step, timestep, tensors):
        steps.append(step)
        if step == 0:
            reached.wait(30)
            reached.wait(30)
        return tensors

    threads = [
        threading.Thread(
            target=drawing(pipe, num_inference_steps=5, callback_on_step_end=wait_there)
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    reached.wait(30)
    pipe._interrupt = True
    assert pipe.interrupt
    reached.wait(30)
    for thread in threads:
        thread.join(30)
    assert steps == [0, 0]
    drawing(
        pipe, num_inference_steps=2, callback_on_step_end=lambda p, i, t, x: steps.append(i) or x
    )()
    assert steps == [0, 0, 0, 1]


# what cannot be owned


def test_a_wait_for_another_thread_can_be_interrupted(components):
    edit = quiet(PromptEditPipeline(**components))
    failed = []

    def draw():
        try:
            edit("a cat", "a dog", seed=1, num_inference_steps=3)
        except T2IError as error:
            failed.append(str(error))

    thread = threading.Thread(target=draw, daemon=True)
    with holding_locks(edit.unet, purpose="attention"):
        thread.start()
        while thread.is_alive():
            edit._interrupt = True
            thread.join(0.01)
    assert failed == [
        "Interrupted while it waited for another thread's call of the same model: nothing was "
        "generated."
    ]
    edit("a cat", "a dog", seed=1, num_inference_steps=3)


def patched(pipe):
    """A scheduler with a method of its own on the object: a copy of it would step this one."""
    own = copy.deepcopy(pipe.scheduler)
    step, taken = own.step, []
    own.step = lambda *args, **options: taken.append(1) or step(*args, **options)
    pipe.scheduler = own
    return taken


def test_a_scheduler_that_cannot_be_copied_is_stepped_itself_by_one_call_at_a_time(pipe):
    before = drawing(pipe, num_inference_steps=3)()
    taken = patched(pipe)
    assert torch.equal(drawing(pipe, num_inference_steps=3)(), before)
    assert len(taken) == 3
    assert_as_alone(*(drawing(pipe, num_inference_steps=n) for n in (2, 3)))


def test_a_nested_call_that_needs_the_same_scheduler_is_refused(pipe):
    patched(pipe)

    def nest(pipeline, step, timestep, tensors):
        drawing(pipe, num_inference_steps=1)()
        return tensors

    with pytest.raises(ArgumentError, match="DDIMScheduler the outer call steps: it cannot be cop"):
        drawing(pipe, num_inference_steps=2, callback_on_step_end=nest)()
    drawing(pipe, num_inference_steps=1)()
