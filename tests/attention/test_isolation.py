"""What a session leaves alone: the model afterwards, other sessions, pipelines and threads."""

import threading

import pytest

from t2i.attention import Replace, SelfReplace, attend
from t2i.errors import AttentionError
from tests.attention.runs import (
    CAT,
    DOG,
    assert_differ,
    assert_equal,
    beside,
    draw,
    left_behind,
    ours,
    theirs,
)
from tests.tiny import tiny_scheduler, tiny_sd_components

PAIR = [CAT, DOG]


@pytest.fixture
def pipe():
    return ours(**tiny_sd_components())


# what stands there afterwards


@pytest.mark.parametrize("of", [ours, theirs])
def test_the_very_same_objects_stand_there_afterwards(of):
    pipe = of()
    draw(pipe, PAIR)
    before = left_behind(pipe)
    with attend(pipe, prompts=PAIR) as attn:
        attn.probe("cat")
        attn.edit(SelfReplace())
        draw(pipe, PAIR)
        inside = left_behind(pipe)
    assert inside != before
    assert left_behind(pipe) == before


class Stop(Exception):
    pass


@pytest.mark.parametrize("of", [ours, theirs])
@pytest.mark.parametrize("turn", [0, 2])
def test_also_after_an_exception_in_the_middle_of_a_pass(of, turn):
    pipe = of()
    plain = draw(pipe, PAIR)
    before = left_behind(pipe)
    passes = []

    def fail(*_):
        passes.append(1)
        if len(passes) == turn + 1:
            raise Stop

    with attend(pipe, prompts=PAIR) as attn:
        maps = attn.probe("cat")
        attn.edit(SelfReplace())
        hook = pipe.unet.mid_block.register_forward_hook(fail)
        with pytest.raises(Stop):
            draw(pipe, PAIR)
        hook.remove()
        # Nobody hears what another pipeline draws with the same parts now.
        assert_equal(draw(beside(pipe), PAIR), plain)
        again = draw(pipe, PAIR)
        first = maps["cat"]
    assert left_behind(pipe) == before
    with attend(pipe, prompts=PAIR) as attn:
        maps = attn.probe("cat")
        attn.edit(SelfReplace())
        assert_equal(draw(pipe, PAIR), again)
    assert_equal(maps["cat"], first)
    assert_equal(draw(pipe, PAIR), plain)

    def draw_read():
        with attend(pipe, prompts=PAIR) as attn:
            attn.probe("cat")
            draw(pipe, PAIR)

    passes.clear()
    hook = pipe.unet.mid_block.register_forward_hook(fail)
    with pytest.raises(Stop):
        draw_read()
    hook.remove()
    assert left_behind(pipe) == before


# several sessions


@pytest.mark.parametrize("of", [ours, theirs])
def test_sessions_nest_and_all_of_them_act(of):
    pipe = of()
    with attend(pipe, prompts=PAIR) as attn:
        attn.edit(Replace(steps=(0.0, 0.6)))
        alone = draw(pipe, PAIR)
    with attend(pipe, prompts=PAIR) as attn:
        attn.edit(Replace(steps=(0.0, 0.6)))
        attn.edit(SelfReplace(steps=(0.0, 0.6)))
        together = attn.probe("dog", prompt=1)
        both = draw(pipe, PAIR)
    with attend(pipe, prompts=PAIR) as outer:
        outer.edit(Replace(steps=(0.0, 0.6)))
        of_outer = outer.probe("dog", prompt=1)
        assert_equal(draw(pipe, PAIR), alone)
        with attend(pipe, prompts=PAIR) as inner:
            inner.edit(SelfReplace(steps=(0.0, 0.6)))
            of_inner = inner.probe("dog", prompt=1)
            assert_equal(draw(pipe, PAIR), both)
        assert_equal(of_inner["dog"], together["dog"])
        assert_equal(of_outer["dog"], together["dog"])
        assert_equal(draw(pipe, PAIR), alone)


def test_an_inner_session_is_as_loud_as_an_outer_one(pipe):
    def look_nowhere():
        with attend(pipe) as inner:
            inner.probe("cat", sites="nowhere")
            draw(pipe, CAT)

    with attend(pipe) as outer:
        maps = outer.probe("cat")
        with pytest.raises(AttentionError, match="fits none"):
            look_nowhere()
        draw(pipe, CAT)
    assert maps["cat"].max() == 1


@pytest.mark.parametrize("of", [ours, theirs])
@pytest.mark.parametrize("shared", [True, False])
def test_what_another_pipeline_draws_is_neither_read_nor_edited(of, shared):
    pipe = of()
    other = beside(pipe) if shared else of()
    plain, of_other = draw(pipe, PAIR), draw(other, PAIR, num_inference_steps=3)
    with attend(pipe, prompts=PAIR) as attn:
        attn.edit(SelfReplace())
        maps = attn.probe("dog", prompt=1)
        assert_equal(draw(other, PAIR, num_inference_steps=3), of_other)
        assert not maps.measurements.accumulators
        edited = draw(pipe, PAIR)
        assert_differ(edited, plain)
        seen = maps["dog"]
        assert_equal(draw(other, PAIR, num_inference_steps=3), of_other)
        assert_equal(maps["dog"], seen)
        with attend(other, prompts=[DOG]) as theirs_too:
            single = theirs_too.probe("dog")
            draw(other, [DOG])
        assert_equal(maps["dog"], seen)
        assert single["dog"].shape == seen.shape


def test_another_thread_draws_undisturbed_in_the_middle_of_a_pass(pipe):
    other = beside(pipe)
    plain = draw(other, PAIR)
    drawn, passes = [], []

    def draw_elsewhere(*_):
        if threading.current_thread() is not threading.main_thread():
            return
        passes.append(1)
        if len(passes) == 3:
            thread = threading.Thread(target=lambda: drawn.append(draw(other, PAIR)))
            thread.start()
            thread.join()

    with attend(pipe) as attn:
        attn.edit(SelfReplace(steps=(0.0, 0.9)))
        attn.probe("dog", prompt=1)
        alone = draw(pipe, PAIR)
        hook = pipe.unet.mid_block.register_forward_hook(draw_elsewhere)
        assert_equal(draw(pipe, PAIR), alone)
        hook.remove()
    assert_equal(drawn[0], plain)


def test_another_thread_in_the_first_pass_confuses_nobody(pipe):
    """It stands in the middle of a pass of its own while the sites are looked for."""
    other = beside(pipe)
    of_other = draw(other, PAIR, height=48)

    def edit_and_read():
        with attend(pipe) as attn:
            attn.edit(SelfReplace())
            maps = attn.probe("dog", prompt=1)
            return draw(pipe, PAIR), maps["dog"], attn.sites()

    edited, map_HW, sites = edit_and_read()
    drawn, main = [], threading.get_ident()
    inside, go_on = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: drawn.append(draw(other, PAIR, height=48)))

    def meet(*_):
        if threading.get_ident() != main:
            inside.set()
            assert go_on.wait(100)
        elif not thread.ident:
            thread.start()
            assert inside.wait(100)

    def part(*_):
        if threading.get_ident() == main:
            go_on.set()

    hooks = [
        pipe.unet.mid_block.register_forward_pre_hook(meet),
        pipe.unet.register_forward_hook(part),
    ]
    found = edit_and_read()
    thread.join()
    for hook in hooks:
        hook.remove()
    assert_equal(found[0], edited)
    assert_equal(found[1], map_HW)
    assert found[2] == sites
    assert_equal(drawn[0], of_other)


def test_a_second_thread_cannot_open_a_session_on_the_same_model(pipe):
    raised = []

    def open_another():
        try:
            with attend(beside(pipe)):
                pass
        except AttentionError as error:
            raised.append(str(error))

    with attend(pipe):
        thread = threading.Thread(target=open_another)
        thread.start()
        thread.join()
    assert "Another thread has a session open on this model" in raised[0]


def test_a_size_of_ones_own_has_maps_of_its_own(pipe):
    with attend(pipe) as attn:
        maps = attn.probe("cat")
        draw(pipe, CAT)
        assert maps["cat"].shape == (8, 8)
        draw(pipe, CAT, height=48, width=32)
        assert maps["cat"].shape == (12, 8)
        assert {site.size for site in attn.sites()} == {(12, 8), (6, 4)}
        draw(pipe, CAT)
        assert maps["cat"].shape == (8, 8)


def test_two_pipelines_may_share_a_denoiser_and_both_be_read():
    pipe = ours()
    other = ours(**{n: getattr(pipe, n) for n in ("vae", "text_encoder", "tokenizer", "unet")})
    other.scheduler = tiny_scheduler()
    with attend(pipe) as attn, attend(other) as of_other:
        maps, others = attn.probe("cat"), of_other.probe("dog")
        draw(pipe, CAT)
        draw(other, DOG)
        assert maps.measurements.tokens != {}
        assert "cat" in maps
        assert "dog" in others
        draw(pipe, CAT, height=48)
        assert others["dog"].shape == (8, 8)
        assert maps["cat"].shape == (12, 8)
