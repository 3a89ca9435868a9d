"""Probes and edits beside what people switch on: old processors, compilers, adapters, offloading.

`torch.compile` runs with the backend "eager" here: all of tracing and guarding, without a compiler.
"""

import functools
import gc
import weakref
from itertools import product

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig

from t2i.attention import LocalBlend, Reweight, SelfReplace, attend
from tests.attention.runs import CAT, DOG, assert_differ, assert_equal, draw, ours, theirs
from tests.sweeps import sweep
from tests.tiny import tiny_unet

PAIR = [CAT, DOG]
ROUNDING = 2e-5
"""Of latents of magnitude 4 in float32, where the same sums are taken in another order."""


def small(of):
    """Of one block each way, as the compiler traces each block by itself."""
    unet = tiny_unet(
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        mid_block_type=None,
    )
    return of(unet=unet)


def run(pipe, prompts=PAIR):
    """A run with a probe and edits of every kind: its latents, and the map."""
    with attend(pipe, prompts=prompts) as attn:
        maps = attn.probe("apple", prompt=1, convention="mean")
        attn.edit(Reweight(source=0, weights={"dog": 3.0}, steps=(0.0, 0.7)))
        attn.edit(SelfReplace(steps=(0.0, 0.5)))
        attn.edit(LocalBlend(words=("cat", "dog"), threshold=0.2))
        edited = draw(pipe, prompts, callback_on_step_end=attn.on_step_end)
    return edited, maps["apple"]


def assert_near(left, right, tolerance=ROUNDING):
    difference = (left - right).abs()
    assert difference.max() <= tolerance, f"max {difference.max()}, mean {difference.mean()}"


# processors


@pytest.mark.parametrize("of", [ours, theirs])
def test_eager_processors_give_the_same_maps_and_the_same_edits(of):
    pipe = of()
    plain, (edited, maps) = draw(pipe, PAIR), run(pipe)
    pipe.unet.set_attn_processor(AttnProcessor())
    of_eager = draw(pipe, PAIR)
    assert_near(of_eager, plain)
    eager, eager_maps = run(pipe)
    assert_near(eager, edited)
    assert_near(eager_maps, maps, 1e-6)
    assert_differ(edited[1], plain[1])
    with attend(pipe, prompts=PAIR) as attn:
        attn.probe("cat")
        assert_equal(draw(pipe, PAIR), of_eager)


def test_backends_of_torch_give_the_same():
    pipe = ours()
    plain, (edited, maps) = draw(pipe, PAIR), run(pipe)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        explicit, explicit_maps = run(pipe)
    assert_near(explicit, edited)
    assert_near(explicit_maps, maps, 1e-6)
    assert_differ(edited[1], plain[1])


# torch.compile


def as_a_new_object(pipe):
    pipe.unet = torch.compile(pipe.unet, backend="eager")


def in_place(pipe):
    pipe.unet.compile(backend="eager")


def its_blocks(pipe):
    pipe.unet.compile_repeated_blocks(backend="eager")


@pytest.fixture(autouse=True)
def fresh_compiler():
    yield
    torch.compiler.reset()


COMPILED = sweep(
    product([ours, theirs], [as_a_new_object, in_place, its_blocks]),
    quick=[(ours, in_place), (ours, its_blocks), (theirs, as_a_new_object)],
)


@functools.cache
def runs_of(of, compiled):
    """Runs before and twice after compiling, each with a plain one, and the frames of the last.

    Read-only: several tests look at the same.
    """
    pipe = small(of)
    before = (*run(pipe), draw(pipe, PAIR))
    compiled(pipe)
    first = (*run(pipe), draw(pipe, PAIR))
    torch._dynamo.utils.counters.clear()
    later = (*run(pipe), draw(pipe, PAIR))
    return before, first, later, dict(torch._dynamo.utils.counters["frames"])


@pytest.mark.slow
@pytest.mark.parametrize(("of", "compiled"), COMPILED)
def test_a_compiled_denoiser_is_read_and_edited(of, compiled):
    before, first, later, _ = runs_of(of, compiled)
    edited, _, plain = before
    assert_differ(edited[1], plain[1])
    for after in (first, later):
        for there, expected in zip(after, before, strict=True):
            assert_equal(there, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("of", "compiled"), COMPILED)
def test_a_second_session_compiles_nothing_again(of, compiled):
    *_, compiled_again = runs_of(of, compiled)
    assert not compiled_again


def test_a_model_that_was_listened_to_is_let_go():
    pipe = ours()
    run(pipe)
    site = weakref.ref(pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2)
    assert site() is not None
    del pipe
    gc.collect()
    assert site() is None


# adapters


def test_lora_is_read_and_edited():
    pipe = ours()
    without = draw(pipe, PAIR)
    torch.manual_seed(4)
    names = ["to_q", "to_k", "to_v"]
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=names, init_lora_weights=False), "style")
    plain = draw(pipe, PAIR)
    assert_differ(plain, without)
    with attend(pipe) as attn:
        maps = attn.probe("cat")
        assert_equal(draw(pipe, PAIR), plain)
        of_lora = maps["cat"]
        pipe.unet.disable_adapters()
        assert_equal(draw(pipe, PAIR), without)
        assert_differ(maps["cat"], of_lora)
    pipe.unet.enable_adapters()
    edited, _ = run(pipe)
    assert_equal(edited[0], plain[0])
    assert_differ(edited[1], plain[1])


# offloading


def piecewise(pipe):
    """As pipe.enable_sequential_cpu_offload, which wants an accelerator."""
    cpu_offload(pipe.unet, torch.device("cpu"))


def whole(pipe):
    """As pipe.enable_model_cpu_offload."""
    cpu_offload_with_hook(pipe.unet, torch.device("cpu"))


@pytest.mark.parametrize("offloaded", [piecewise, whole])
@pytest.mark.parametrize("of", [ours, theirs])
def test_an_offloaded_denoiser_is_read_and_edited(of, offloaded):
    pipe = of()
    plain, (edited, maps) = draw(pipe, PAIR), run(pipe)
    offloaded(pipe)
    forwards = [vars(module).get("forward") for module in pipe.unet.modules()]
    assert any(forward is not None for forward in forwards)
    again, again_maps = run(pipe)
    assert_equal(again, edited)
    assert_equal(again_maps, maps)
    after = [vars(module).get("forward") for module in pipe.unet.modules()]
    assert all(one is other for one, other in zip(forwards, after, strict=True))
    assert_equal(draw(pipe, PAIR), plain)
