"""Guidance as data: names, text and JSON."""

import json
from typing import ClassVar

import pytest

from t2i.conditioning.composed_guidance import Composed
from t2i.conditioning.guidance import ClassifierFree, Conditional, ZeroStar, choose_guidance
from t2i.conditioning.guidance_interval import Interval
from t2i.conditioning.guidance_registry import (
    GUIDANCES,
    guidance_from_dict,
    guidance_to_dict,
    parse_guidance,
)
from t2i.conditioning.perturbed_guidance import PerturbedAttention
from t2i.conditioning.projected_guidance import AdaptiveProjected
from t2i.conditioning.proximal_guidance import Proximal
from t2i.errors import ArgumentError

EXAMPLES = [
    ("none", Conditional()),
    ("cfg", ClassifierFree(5.0, 0.3)),
    ("cfg:start=0.2,stop=0.8", Interval(ClassifierFree(5.0, 0.3), 0.2, 0.8)),
    ("apg", AdaptiveProjected(5.0, rescale=0.3)),
    (
        " APG : eta=0.5, momentum=-0.75,norm_threshold=0,space=prediction,",
        AdaptiveProjected(5.0, -0.75, 0.0, 0.5, 0.3, "prediction"),
    ),
    ("cfg-zero:zero_init_steps=1", ZeroStar(5.0, 1, 0.3)),
    ("pag", PerturbedAttention(5.0, rescale=0.3)),
    (
        "pag:sites=mid/up_blocks.0,perturbed_scale=2,stop=0.5",
        Interval(PerturbedAttention(5.0, 2.0, ("mid", "up_blocks.0"), 0.3), 0.0, 0.5),
    ),
    ("prox:quantile=0.5,norm=l1", Proximal(5.0, 0.5, "l1")),
    ("and:weights=1/-0.5", Composed((1.0, -0.5), 5.0, 0.3)),
]


@pytest.mark.parametrize(("text", "guidance"), EXAMPLES)
def test_text_names_a_guidance_and_its_arguments(text, guidance):
    assert parse_guidance(text, 5.0, 0.3) == guidance


@pytest.mark.parametrize("guidance", [guidance for _, guidance in EXAMPLES])
def test_a_guidance_comes_back_from_json(guidance):
    data = json.loads(json.dumps(guidance_to_dict(guidance)))
    assert guidance_from_dict(data) == guidance
    assert type(guidance_from_dict(data)) is type(guidance)


def test_the_written_form_is_flat_and_says_everything():
    assert guidance_to_dict(ClassifierFree(7.5)) == {"method": "cfg", "scale": 7.5, "rescale": 0.0}
    assert guidance_to_dict(Interval(Conditional(), stop=0.5))["guidance"] == {"method": "none"}


def test_every_guidance_has_an_example_here():
    assert {type(guidance) for _, guidance in EXAMPLES} == set(GUIDANCES.values())


@pytest.mark.parametrize("method", ["cfg", "apg", "cfg-zero:zero_init_steps=1", "cfg:stop=0.5"])
def test_up_to_scale_one_the_prompt_alone_is_computed(method):
    assert parse_guidance(method, 1.0) == choose_guidance(1.0) == Conditional()


def test_other_methods_are_there_at_scale_one_too():
    assert parse_guidance("pag", 1.0).possible_branches == ("cond", "perturbed")
    assert parse_guidance("and:weights=1/2", 1.0).possible_branches == ("uncond", "cond", "cond1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("apq", "Unknown guidance 'apq'. Did you mean 'apg'"),
        ("interval", "Unknown guidance 'interval'. .*Choices: and, apg, cfg, cfg-zero, none, pag"),
        ("", "Unknown guidance ''. Choices:"),
        ("apg:etta=1", r"Unknown argument 'etta' in 'apg:etta=1'. Did you mean 'eta'\?"),
        ("cfg:scale=2", "Unknown argument 'scale' .*Choices: start, stop"),
        ("apg:eta", "Got 'eta' in 'apg:eta', expected name=value"),
        ("apg:eta=much", "Got eta='much' .* expected a number such as 0.5"),
        ("apg:eta=nan", "eta=nan, expected a finite number"),
        ("apg:eta=1,eta=0", "Got 'eta' twice"),
        ("cfg-zero:zero_init_steps=0.5", "zero_init_steps='0.5' .* expected a whole number"),
        ("and:weights=1/x", "weights='1/x' .* expected numbers such as 1/0.5"),
        ("and", "and needs weights"),
        ("pag:sites=mid//up", "sites=.*expected a tuple of parts"),
        ("cfg:start=0.8,stop=0.2", "expected fractions of the run"),
    ],
)
def test_text_that_cannot_be_read_is_answered_with_what_can(text, message):
    with pytest.raises(ArgumentError, match=message):
        parse_guidance(text, 7.5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "Unknown guidance 'None'. .*Choices: "),
        ({"method": ["cfg"]}, "Unknown guidance"),
        ({"method": "cfg"}, "cfg needs scale: give a value"),
        ({"method": "cfg", "scale": 7, "rescael": 0}, "no argument 'rescael'. Did you mean"),
        ({"method": "none", "scale": 7}, "none has no argument 'scale'. It takes none"),
        ({"method": "cfg", "scale": "7"}, "guidance_scale=7, expected a finite number"),
        ({"method": "interval", "guidance": 3}, "guidance=3, expected a guidance"),
        (
            {"method": "interval", "guidance": {"method": "interval", "guidance": {}}},
            "expected a guidance that is no interval",
        ),
    ],
)
def test_data_that_is_no_guidance_is_refused(data, message):
    with pytest.raises(ArgumentError, match=message):
        guidance_from_dict(data)


def test_a_guidance_without_a_name_cannot_be_written_down():
    class Mine:
        possible_branches: ClassVar = ("cond",)

    with pytest.raises(ArgumentError, match=r"Cannot serialise Mine: .* needs a name"):
        guidance_to_dict(Mine())
