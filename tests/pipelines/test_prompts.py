"""What prompts in a grammar do to pictures: weights, schedules, parts, long prompts."""

import pytest
import torch

import t2i
from pipelines.text_to_image import TextToImagePipeline
from t2i.conditioning.composed_guidance import Composed
from t2i.conditioning.guidance import ClassifierFree
from t2i.conditioning.guidance_interval import Interval
from t2i.conditioning.perturbed_guidance import PerturbedAttention
from t2i.conditioning.projected_guidance import AdaptiveProjected
from t2i.denoiser.schedulers import build_scheduler
from t2i.errors import ArgumentError
from tests.tiny import tiny_sdxl_components

STEPS = 6


class Listener:
    """Writes down what the conditional row of each pass is told."""

    def __init__(self):
        self.told = []

    def before_pass(self, run):
        self.told.append(run.pass_conditioning.select_branches(("cond",)).text_BTD.clone())

    def after_step(self, run):
        pass


def draw(pipe, prompt, **call):
    call = {"num_inference_steps": STEPS, "guidance_scale": 4.0, "output_type": "latent"} | call
    return pipe(prompt, generator=torch.Generator().manual_seed(3), **call).images


def heard(pipe, prompt, **call):
    listener = Listener()
    pipe.step_callbacks.append(listener)
    try:
        draw(pipe, prompt, **call)
    finally:
        pipe.step_callbacks.remove(listener)
    return listener.told


def test_a_prompt_without_syntax_is_the_plain_string(pipe):
    plain = draw(pipe, "a red apple")
    assert torch.equal(draw(pipe, t2i.Prompt("a red apple")), plain)
    assert torch.equal(draw(pipe, t2i.Prompt("a (red:1.0) apple")), plain)
    assert not torch.equal(draw(pipe, t2i.Prompt("a (red:1.4) apple")), plain)


def test_a_plain_string_is_taken_as_it_stands(pipe):
    as_typed = draw(pipe, "a (red:1.4) apple")
    assert not torch.equal(as_typed, draw(pipe, t2i.Prompt("a (red:1.4) apple")))
    assert torch.equal(as_typed, draw(pipe, t2i.Prompt(r"a \(red:1.4\) apple")))


def test_a_schedule_turns_at_its_step(pipe):
    before, after = heard(pipe, "a cat")[0], heard(pipe, "a dog")[0]
    told = heard(pipe, t2i.Prompt("a [cat:dog:0.5]"))
    expected = [before] * 3 + [after] * 3
    assert all(torch.equal(a, b) for a, b in zip(told, expected, strict=True))


def test_an_alternation_turns_at_each_step(pipe):
    one, other = heard(pipe, "a cat")[0], heard(pipe, "a dog")[0]
    told = heard(pipe, t2i.Prompt("a [cat|dog]"))
    assert all(torch.equal(a, b) for a, b in zip(told, [one, other] * 3, strict=True))


def test_second_order_samplers_turn_by_the_users_steps(pipe, components):
    heun = t2i.TextToImagePipeline(
        **components | {"scheduler": build_scheduler("heun", components["scheduler"].config)}
    )
    heun.set_progress_bar_config(disable=True)
    told = heard(heun, t2i.Prompt("a [cat:dog:0.5]"))
    turned = [not torch.equal(row, told[0]) for row in told]
    assert len(told) == 2 * STEPS - 1
    assert turned.index(True) == len(told) // 2 + 1
    assert turned == sorted(turned)


def test_parts_are_composed_by_their_weights(pipe):
    whole = draw(pipe, t2i.Prompt("a cat AND a dog :0.5"))
    assert not torch.equal(whole, draw(pipe, "a cat"))
    alone = draw(pipe, t2i.Prompt("a cat AND a dog :0"))
    assert (alone - draw(pipe, "a cat")).abs().max() < 1e-4


def test_prompts_of_other_parts_are_not_drawn_together(pipe):
    with pytest.raises(
        ArgumentError, match=r"AND parts of different weights: .*Generate them one by one"
    ):
        draw(pipe, [t2i.Prompt("a cat AND a dog"), "a cat"])
    with pytest.raises(ArgumentError, match="composed by classifier-free guidance"):
        draw(pipe, t2i.Prompt("a cat AND a dog"), guidance_scale=1.0)
    with pytest.raises(ArgumentError, match="A negative prompt cannot have parts with AND"):
        draw(pipe, "a cat", negative_prompt=t2i.Prompt("a AND b"))


def test_a_long_prompt_is_read_to_its_end(pipe):
    long = "red apple " * 12
    assert heard(pipe, long)[0].shape[1] > heard(pipe, "a")[0].shape[1]
    assert not torch.equal(draw(pipe, long + "cat"), draw(pipe, long + "dog"))


def test_a_long_negative_prompt_lengthens_the_prompt(pipe):
    long = "red apple " * 12
    assert not torch.equal(
        draw(pipe, "a cat", negative_prompt=long + "dog"),
        draw(pipe, "a cat", negative_prompt=long + "blue"),
    )


def test_prompts_of_a_batch_may_be_of_either_kind(pipe):
    told = heard(pipe, [t2i.Prompt("a [cat:dog:0.5]"), "a red apple"])
    assert torch.equal(told[0][1], told[-1][1])
    assert not torch.equal(told[0][0], told[-1][0])


def test_sdxl_reads_a_grammar_too():
    pipe = TextToImagePipeline(**tiny_sdxl_components())
    pipe.set_progress_bar_config(disable=True)
    plain = draw(pipe, "a red apple")
    assert torch.equal(draw(pipe, t2i.Prompt("a (red:1.0) apple")), plain)
    assert not torch.equal(draw(pipe, t2i.Prompt("a (red:1.4) apple")), plain)
    assert not torch.equal(draw(pipe, t2i.Prompt("a [red:blue:0.5] apple AND a cat")), plain)


@pytest.mark.parametrize(
    "guidance",
    [
        Interval(ClassifierFree(4.0), 0.2, 0.7),
        AdaptiveProjected(4.0),
        PerturbedAttention(4.0),
        PerturbedAttention(1.0),
    ],
    ids=lambda guidance: type(guidance).__name__,
)
def test_a_guidance_of_ones_own_takes_the_place_of_the_scale(pipe, guidance):
    drawn = draw(pipe, "a red apple", guidance=guidance, guidance_scale=4.0)
    assert torch.isfinite(drawn).all()
    assert not torch.equal(drawn, draw(pipe, "a red apple"))


def test_the_same_guidance_given_either_way_draws_the_same(pipe):
    assert torch.equal(
        draw(pipe, "a red apple", guidance=ClassifierFree(4.0)), draw(pipe, "a red apple")
    )
    assert torch.equal(
        draw(pipe, "a red apple", guidance=Composed((1.0,), 4.0)), draw(pipe, "a red apple")
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"guidance": "apg"}, r"Got guidance='apg', expected an object.*parse_guidance"),
        ({"guidance": ClassifierFree}, "Got guidance=<class"),
        ({"guidance": Composed((1.0, 0.5), 4.0)}, "of 2 weights for prompts of 1 part"),
        ({"eta": "x"}, "Got eta=x, expected a finite number"),
        ({"latents": "x"}, "Got latents of type str, expected a tensor"),
        ({"callback_on_step_end": "x"}, "Got callback_on_step_end of type str"),
        ({"cross_attention_kwargs": 3}, "Got cross_attention_kwargs of type int"),
        ({"negative_prompt_embeds": "x"}, "Got negative_prompt_embeds of type str"),
    ],
)
def test_wrong_arguments_are_answered_with_what_is_expected(pipe, call, message):
    with pytest.raises(ArgumentError, match=message):
        draw(pipe, "a cat", **call)


def test_embeddings_of_another_models_width_are_refused(pipe):
    with pytest.raises(ArgumentError, match="embeddings of width 5, but this UNet reads 32"):
        draw(pipe, None, prompt_embeds=torch.zeros(1, 7, 5), guidance_scale=1.0)


def test_a_composed_guidance_of_ones_own_weighs_the_parts(pipe):
    prompt = t2i.Prompt("a cat AND a dog :0.5")
    own = draw(pipe, prompt, guidance=Composed((1.0, 0.5), 4.0))
    assert torch.equal(own, draw(pipe, prompt))


def test_a_grid_has_the_columns_asked_for(pipe):
    drawn = pipe(["a cat"] * 3, num_inference_steps=1)
    assert drawn.grid().size == (64, 64)
    assert drawn.grid(columns=3).size == (96, 32)
    assert drawn._repr_png_().startswith(b"\x89PNG")
    for columns in (0, 1.5, "2"):
        with pytest.raises(ArgumentError, match="Got columns="):
            drawn.grid(columns)
    tensors = pipe("a cat", num_inference_steps=1, output_type="pt")
    assert tensors._repr_png_() is None
    with pytest.raises(ArgumentError, match="output_type='pil'"):
        tensors.grid()


@pytest.mark.parametrize("other", ["red apple " * 12 + "cat", "a dog"])
def test_a_prompt_draws_the_same_beside_a_longer_one(pipe, other):
    seeds = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    asked = {"num_inference_steps": STEPS, "guidance_scale": 4.0, "output_type": "latent"}
    both = pipe(["a blue cat", other], generator=seeds, **asked).images
    alone = draw(pipe, "a blue cat")
    assert (both[0] - alone[0]).abs().max() < 1e-5 * alone.abs().max()
