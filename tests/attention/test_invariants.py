"""What a session never changes: pictures under probes and under edits of nothing."""

import functools
from itertools import product

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from t2i.attention import LocalBlend, Refine, Replace, Reweight, SelfReplace, attend
from t2i.attention.compute.probabilities import AttentionProbabilities
from t2i.conditioning.guidance import ClassifierFree
from t2i.conditioning.guidance_interval import Interval
from t2i.conditioning.perturbed_guidance import PerturbedAttention
from t2i.denoiser.schedulers import build_scheduler
from t2i.text.prompt import Prompt
from tests.attention.runs import (
    CAT,
    DOG,
    LONG,
    assert_differ,
    assert_equal,
    draw,
    ours,
    theirs,
)
from tests.sweeps import sweep
from tests.tiny import tiny_sd_components

PAIR = [CAT, DOG]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def components():
    return tiny_sd_components()


@pytest.fixture
def pipe(components):
    return ours(**components)


# probes

RUNS = {
    "guided": (CAT, {}),
    "unguided": (CAT, {"guidance_scale": 1.0}),
    "guided for a while": (CAT, {"guidance": Interval(ClassifierFree(4.0), 0.3, 0.8)}),
    "perturbed": (CAT, {"guidance": PerturbedAttention(4.0, sites=("up", "down"))}),
    "perturbed alone": (CAT, {"guidance": PerturbedAttention(1.0, sites=("up",))}),
    "several of each": ([CAT, "a cat"], {"num_images_per_prompt": 2}),
    "chunks": (LONG, {}),
    "wide": (CAT, {"height": 32, "width": 48}),
    "schedule": (Prompt("a red [apple:cat:0.5]"), {}),
    "weights": (Prompt("a (red:1.4) cat"), {}),
    "parts": (Prompt("a red cat AND a dog :0.5"), {}),
}


@pytest.mark.parametrize("run", RUNS)
def test_probes_leave_the_picture_as_it_is(pipe, run):
    prompt, call = RUNS[run]
    plain = draw(pipe, prompt, **call)
    with attend(pipe) as attn:
        maps = attn.probe("cat")
        everywhere = attn.probe("red", sites="attn2", convention="daam", raw=True)
        seen = draw(pipe, prompt, **call)
    assert_equal(seen, plain)
    assert maps["cat"].shape == plain.shape[-2:]
    assert 0 < maps["cat"].mean() < 1
    assert everywhere["red"].sum() > 0


@functools.cache
def parts_in(dtype):
    """Read-only, as several tests share them."""
    parts = tiny_sd_components()
    for name in ("vae", "text_encoder", "unet"):
        parts[name].to(dtype)
    return parts


@pytest.mark.parametrize(
    ("of", "dtype"),
    sweep(
        product([ours, theirs], DTYPES),
        quick=[(ours, torch.float16), (theirs, torch.bfloat16)],
    ),
)
def test_in_every_precision_probes_leave_the_picture_as_it_is(of, dtype):
    pipe = of(**parts_in(dtype))
    plain = draw(pipe, PAIR)
    with attend(pipe, prompts=PAIR) as attn:
        maps = attn.probe("dog", prompt=1)
        seen = draw(pipe, PAIR)
    assert seen.dtype == dtype
    assert_equal(seen, plain)
    assert maps["dog"].dtype == torch.float32


def test_samplers_that_turn_twice_are_read_at_every_turn(pipe, components):
    heun = ours(
        **components | {"scheduler": build_scheduler("heun", components["scheduler"].config)}
    )
    plain = draw(heun, CAT)
    with attend(heun) as attn:
        maps = attn.probe("cat", raw=True)
        assert_equal(draw(heun, CAT), plain)
    assert {len(steps) for steps in maps.measurements.raw.values()} == {7}


def test_a_word_of_a_schedule_is_read_while_it_is_said(pipe):
    with attend(pipe) as attn:
        maps = attn.probe("apple", "cat", "red", convention="mean")
        early = attn.probe("apple", steps=(0, 2), convention="mean")
        late = attn.probe("cat", steps=(2, 4), convention="mean")
        draw(pipe, Prompt("a red [apple:cat:0.5]"))
    assert torch.allclose(maps["apple"], early["apple"])
    assert torch.allclose(maps["cat"], late["cat"])
    assert maps["red"].shape == maps["cat"].shape


def test_phrases_share_the_tokens_of_their_words(pipe):
    with attend(pipe) as attn:
        maps = attn.probe("red", "apple", "red apple", convention="mean")
        draw(pipe, CAT)
    assert torch.allclose(maps["red apple"], (maps["red"] + maps["apple"]) / 2)
    assert next(iter(maps.measurements.accumulators.values())).total_NSQ.shape[1] == 2


# identities

IDENTITIES = {
    "Replace": [Replace()],
    "Refine": [Refine()],
    "SelfReplace": [SelfReplace(max_positions=None)],
    "Reweight": [Reweight(weights={"cat": 1.0})],
    "of the source": [Reweight(source=0, weights={"cat": 1.0})],
    "chained": [Refine(), Reweight(source=0, weights={"cat": 1.0}), SelfReplace()],
    "LocalBlend": [LocalBlend(words=("cat", "apple"))],
}


@pytest.mark.parametrize(
    ("edits", "dtype"),
    sweep(
        product(IDENTITIES, DTYPES),
        quick=[
            *product(IDENTITIES, [torch.float32]),
            ("chained", torch.bfloat16),
            ("chained", torch.float16),
            ("LocalBlend", torch.float16),
        ],
    ),
)
def test_an_edit_between_equal_prompts_changes_nothing(edits, dtype):
    pipe = ours(**parts_in(dtype))
    plain = draw(pipe, [CAT, CAT])
    with attend(pipe) as attn:
        for edit in IDENTITIES[edits]:
            attn.edit(edit)
        assert_equal(draw(pipe, [CAT, CAT]), plain)


EMPTY = [
    Replace(steps=(0.0, 0.0)),
    Replace(steps=(0, 0), words={"dog": (2, 2)}),
    Refine(steps=(0.5, 0.5)),
    SelfReplace(steps=(0, 0)),
    Reweight(weights={"dog": 1.0}),
    Reweight(weights={"dog": 9.0}, steps=(0.0, 0.0)),
    LocalBlend(words=("cat", "dog"), steps=(0, 0)),
]


@pytest.mark.parametrize("edit", EMPTY, ids=lambda edit: type(edit).__name__)
def test_an_edit_of_nothing_changes_nothing(pipe, edit):
    plain = draw(pipe, PAIR)
    with attend(pipe) as attn:
        attn.edit(edit)
        assert_equal(draw(pipe, PAIR), plain)


def test_the_source_is_never_changed(pipe):
    plain = draw(pipe, PAIR)
    with attend(pipe) as attn:
        attn.edit(Replace(steps=(0.0, 0.6), words={"dog": (0.0, 0.3)}))
        attn.edit(Reweight(weights={"apple": 3.0}))
        attn.edit(SelfReplace(steps=(0.0, 0.5)))
        attn.edit(LocalBlend(words=("cat", "dog")))
        edited = draw(pipe, PAIR)
    assert_equal(edited[0], plain[0])
    assert_differ(edited[1], plain[1])


def test_the_unconditional_branch_is_never_changed(pipe):
    """Guidance of weight 0 on the prompt leaves what the negative prompt alone would draw."""
    nothing = Interval(ClassifierFree(0.0), 0.0, 1.0)
    plain = draw(pipe, PAIR, guidance=nothing)
    with attend(pipe) as attn:
        attn.edit(Reweight(weights={"apple": 9.0}))
        assert_equal(draw(pipe, PAIR, guidance=nothing), plain)
        assert_differ(draw(pipe, PAIR), plain)


# cost


def test_linear_edits_compute_no_map_and_probes_none_of_the_picture_alone(pipe, monkeypatch):
    scored, computed = [], AttentionProbabilities.compute_scores

    def count(probabilities, *args):
        scored.append(probabilities.site.kind)
        return computed(probabilities, *args)

    monkeypatch.setattr(AttentionProbabilities, "compute_scores", count)
    with attend(pipe) as attn:
        attn.edit(Replace(steps=(0.0, 0.8), words={"dog": (0.0, 0.4)}))
        attn.edit(Reweight(source=0, weights={"apple": 2.0}, steps=(0.0, 0.8)))
        attn.edit(SelfReplace(max_positions=None))
        draw(pipe, PAIR)
        assert not scored
        attn.probe("dog", prompt=1)
        draw(pipe, PAIR)
    assert set(scored) == {"cross"}


class Shapes(TorchDispatchMode):
    """Every shape that an operation gives."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs or {})
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, torch.Tensor):
                self.seen.add(tuple(one.shape[-2:]))
        return out


def test_no_map_of_the_picture_alone_is_ever_made():
    positions, tokens = 8 * 12, 24  # numbers that nothing else there has
    pipe = ours(**tiny_sd_components(window=tokens))
    with attend(pipe) as attn, Shapes() as shapes:
        attn.edit(Replace(steps=(0.0, 0.6)))
        attn.edit(SelfReplace(max_positions=None))
        draw(pipe, PAIR, height=32, width=48)
        assert not {(positions, positions), (positions, tokens)} & shapes.seen
        attn.edit(LocalBlend(words=("cat", "dog")))
        draw(pipe, PAIR, height=32, width=48)
    assert (positions, positions) not in shapes.seen
    assert (positions, tokens) in shapes.seen


class Operations(TorchDispatchMode):
    """How many there are."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **kwargs or {})


def test_a_probe_adds_few_operations_to_a_call(pipe):
    """What they cost each is most of what a probe costs on a small model."""
    with Operations() as plain:
        draw(pipe, CAT)
    with attend(pipe) as attn:
        attn.probe("red", "apple", "left", "of", "cat")
        draw(pipe, CAT)
        with Operations() as watched:
            draw(pipe, CAT)
        calls = 4 * sum(site.kind == "cross" for site in attn.sites())
    assert 10 < (watched.count - plain.count) / calls < 26
