"""Whoever asks for what cannot be is told so, with what to do."""

from types import SimpleNamespace

import pytest
import torch
from diffusers.models.attention_processor import Attention

from t2i.attention import LocalBlend, Replace, Reweight, SelfReplace, attend
from t2i.errors import ArgumentError, AttentionError
from t2i.text.prompt import Prompt
from tests.attention.runs import CAT, DOG, draw, ours, theirs
from tests.tiny import tiny_sd_components

PAIR = [CAT, DOG]


@pytest.fixture(scope="module")
def components():
    return tiny_sd_components()


@pytest.fixture
def pipe(components):
    return ours(**components)


@pytest.fixture
def diffusers(components):
    return theirs(**components)


def ask(pipe, what, prompts=None, said=PAIR, **call):
    """A run in which `what` is done with the session first."""
    with attend(pipe, prompts=prompts) as attn:
        what(attn)
        draw(pipe, said, callback_on_step_end=attn.on_step_end, **call)


# words and prompts


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda attn: attn.probe("appel"), r"'appel' is not in the prompt. Nearest: apple"),
        (lambda attn: attn.probe("dog"), r"'dog' is not in the prompt. Its words: a, red, apple"),
        (lambda attn: attn.probe("cat", prompt=2), "Got prompt=2, but this run has 2 prompts"),
        (lambda attn: attn.probe((99,)), r"reads token position 99 of a text of 16 tokens"),
        (
            lambda attn: attn.edit(Replace(words={"doc": (0.0, 0.5)})),
            r"'doc' is not in the prompt. Nearest: dog",
        ),
        (
            lambda attn: attn.edit(Reweight(weights={"cat": 2.0})),
            r"'cat' is not in the prompt",
        ),
        (
            lambda attn: attn.edit(LocalBlend(words=("cat", "cat"))),
            r"'cat' is not in the prompt",
        ),
        (lambda attn: attn.edit(Replace(target=4)), "Got target=4, but this run has 2 prompts"),
    ],
)
@pytest.mark.parametrize("told", [None, PAIR])
def test_words_and_prompts_that_are_not_there(pipe, what, message, told):
    with pytest.raises(ArgumentError, match=message):
        ask(pipe, what, told)


def test_a_typo_is_told_before_the_run_where_the_prompts_are_known(diffusers):
    with (
        attend(diffusers, prompts=PAIR) as attn,
        pytest.raises(ArgumentError, match="Nearest: apple"),
    ):
        attn.probe("aple")


def test_a_word_that_no_step_of_a_schedule_says(pipe):
    with pytest.raises(ArgumentError, match="'blue' is not in the prompt"):
        ask(pipe, lambda attn: attn.probe("blue"), said=Prompt("a [cat:dog:0.5]"))


def test_replace_wants_as_many_words(pipe):
    with pytest.raises(ArgumentError, match=r"has 4 words and .* has 3. Use Refine"):
        ask(pipe, lambda attn: attn.edit(Replace()), said=["a red cat left", "a red cat"])


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([CAT], "got 1 prompt, but the 2 pictures of prompt 0 attend to different texts"),
        ([CAT, DOG, CAT], r"give it the prompts of the call, in its order|4 rows .* of 3 prompts"),
        (CAT, r"Got prompts='a red apple.*, expected a list of prompts"),
        ([Prompt(CAT), DOG], "Got a Prompt among the prompts"),
    ],
)
def test_prompts_that_are_not_those_of_the_call(diffusers, prompts, message):
    with pytest.raises(ArgumentError, match=message):
        ask(diffusers, lambda attn: attn.probe((1,)), prompts)


def test_other_prompts_than_our_pipeline_is_called_with(pipe):
    with pytest.raises(
        ArgumentError, match="leave out prompts=, the session takes them from the pipeline"
    ):
        ask(pipe, lambda attn: attn.probe("cat"), [CAT, CAT])


def test_a_recorded_source_needs_one_of_our_pipelines(diffusers):
    with (
        pytest.raises(ArgumentError, match=r"recorded_source for a .*only our pipelines can"),
        attend(diffusers, recorded_source=SimpleNamespace()),
    ):
        pass


def test_words_without_prompts_or_without_a_tokenizer(diffusers):
    with pytest.raises(ArgumentError, match=r"the prompts are not known. Give them, attend\(pipe"):
        ask(diffusers, lambda attn: attn.probe("cat"))
    with (
        attend(diffusers.unet, prompts=[CAT]) as attn,
        pytest.raises(ArgumentError, match="this model came without a tokenizer"),
    ):
        attn.probe("cat")


# sites and steps


@pytest.mark.parametrize(
    "what",
    [
        lambda attn: attn.probe("cat", sites="up_blocks.7"),
        lambda attn: attn.edit(SelfReplace(max_positions=3)),
        lambda attn: attn.edit(LocalBlend(words=("cat", "dog"), sites="attn1")),
    ],
)
def test_who_has_no_site_is_told_those_that_there_are(pipe, what):
    with pytest.raises(AttentionError, match=r"fits none of the \d+ sites of this model. There"):
        ask(pipe, what)


@pytest.mark.parametrize("of", ["pipe", "diffusers"])
@pytest.mark.parametrize(
    "what",
    [
        lambda attn: attn.probe("cat", steps=(7, 9)),
        lambda attn: attn.edit(Replace(steps=(4, 9))),
        lambda attn: attn.edit(SelfReplace(steps=(0.0, 0.1))),
    ],
)
def test_who_never_fires_is_named(of, what, request):
    with pytest.raises(AttentionError, match=r"never fired: the run had 4 steps"):
        ask(request.getfixturevalue(of), what, PAIR)


def test_a_session_without_a_run_is_told(pipe, components):
    with pytest.raises(AttentionError, match="no picture was made inside the `with` block"):
        attend_and_draw_elsewhere(pipe, components)
    with attend(pipe):
        pass  # nobody asked for anything


def attend_and_draw_elsewhere(pipe, components):
    with attend(pipe) as attn:
        attn.probe("cat")
        draw(ours(**components), CAT)


def test_a_pipeline_that_does_not_call_back_is_stopped_at_the_second_step(diffusers):
    passes = []
    hook = diffusers.unet.register_forward_hook(lambda *_: passes.append(1))

    def draw_without_callback():
        with attend(diffusers, prompts=PAIR) as attn:
            attn.edit(LocalBlend(words=("cat", "dog")))
            draw(diffusers, PAIR)

    with pytest.raises(AttentionError, match=r"pass callback_on_step_end=attn.on_step_end"):
        draw_without_callback()
    hook.remove()
    assert len(passes) == 1


def test_windows_and_heads_that_make_no_sense():
    with pytest.raises(ArgumentError, match=r"Got steps=\(0.8, 0.2\), expected the first"):
        Replace(steps=(0.8, 0.2))
    with pytest.raises(ArgumentError, match="Got steps='all', expected two numbers"):
        SelfReplace(steps="all")
    with pytest.raises(ArgumentError, match=r"Got words\['dog'\]=3"):
        Replace(words={"dog": 3})
    with pytest.raises(ArgumentError, match=r"Got heads=0, expected a tuple"):
        Replace(heads=0)
    with pytest.raises(ArgumentError, match=r"Got weights\['dog'\]='much', expected a number"):
        Reweight(weights={"dog": "much"})
    with pytest.raises(ArgumentError, match="expected the source's and the target's"):
        LocalBlend(words="cat")
    with pytest.raises(ArgumentError, match="name a word of the source or of the target"):
        LocalBlend(words=((), ()))


def test_what_is_no_edit_and_what_has_no_denoiser(pipe):
    with attend(pipe) as attn, pytest.raises(ArgumentError, match="Got a str, expected an edit"):
        attn.edit("replace")
    with pytest.raises(AttentionError, match="Got a dict without unet"), attend({}):
        pass


def test_two_sources_for_one_target_are_refused(pipe):
    def from_two(attn):
        attn.edit(Replace(source=0, target=2, steps=(0.0, 0.6)))
        attn.edit(Replace(source=1, target=2, steps=(0.0, 0.6), words={"dog": (0.0, 0.2)}))

    with pytest.raises(ArgumentError, match="a target follows one source at a time"):
        ask(pipe, from_two, said=[CAT, CAT, DOG])


def test_a_part_of_a_model_that_is_attended_to_is_refused(pipe):
    with attend(pipe):
        with (
            pytest.raises(AttentionError, match=r"give attend.. the same one, and choose places"),
            attend(pipe.unet.mid_block),
        ):
            pass
        with attend(pipe.unet):
            pass
    with (
        attend(pipe.unet.mid_block),
        pytest.raises(AttentionError, match="a model that this one is a part of, or"),
        attend(pipe),
    ):
        pass


# what goes another way


@pytest.mark.parametrize("of", ["pipe", "diffusers"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_sliced_processors_are_named_with_the_remedy(of, size, components, request):
    pipe = request.getfixturevalue(of)
    pipe.enable_attention_slicing(size)
    try:
        with pytest.raises(AttentionError, match=r"slic|divides the batch"):
            ask(pipe, lambda attn: attn.probe("cat"), PAIR)
    finally:
        pipe.disable_attention_slicing()


class Bypassing:
    """Computes attention by itself, and shows nobody how."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        told = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(given).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, given in ((attn.to_q, hidden_states), (attn.to_k, told), (attn.to_v, told))
        )
        probs = (query @ key.transpose(-1, -2) * attn.scale).softmax(-1)
        return attn.to_out[0]((probs @ value).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("of", ["pipe", "diffusers"])
def test_a_processor_that_bypasses_the_tap_is_named(of, request):
    pipe = request.getfixturevalue(of)
    before = dict(pipe.unet.attn_processors)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.processor"
    pipe.unet.set_attn_processor(before | {name: Bypassing()})
    try:
        with pytest.raises(AttentionError, match="1 attention modules never came to the tap, 'mid"):
            ask(pipe, lambda attn: attn.probe("cat"), PAIR)
        assert isinstance(pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2, Attention)
    finally:
        pipe.unet.set_attn_processor(before)


# room


def test_a_budget_too_small_stops_before_the_second_step(pipe):
    passes = []
    hook = pipe.unet.register_forward_hook(lambda *_: passes.append(1))

    def keep_all(budget):
        with attend(pipe, budget=budget) as attn:
            maps = attn.probe("cat", "apple", raw=True)
            draw(pipe, CAT)
        return maps

    with pytest.raises(AttentionError, match=r"would keep .* GiB in this run, and the budget is"):
        keep_all(1000)
    hook.remove()
    assert len(passes) == 1
    kept = keep_all(1 << 20).measurements
    size = sum(one.nbytes for steps in kept.raw.values() for one in steps)
    size += sum(p.total_NSQ.nbytes + p.score_1SQ.nbytes for p in kept.accumulators.values())
    assert size > 1000
    with pytest.raises(AttentionError, match="would keep"):
        keep_all(size - 1)
    keep_all(size)


def test_no_map_is_there_before_a_run(pipe):
    with attend(pipe) as attn:
        maps = attn.probe("cat")
        with pytest.raises(ArgumentError, match="no maps yet: make a picture inside"):
            maps["cat"]
        draw(pipe, CAT)
    with pytest.raises(ArgumentError, match="There is no probe of 'dog'"):
        maps["dog"]
    with pytest.raises(ArgumentError, match="none of number 3"):
        maps.for_image(3)["cat"]
    assert torch.equal(maps.for_image(0)["cat"], maps["cat"])
