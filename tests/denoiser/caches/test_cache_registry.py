"""Caches as text and as JSON data."""

import json

import pytest

from t2i.denoiser.caches import DeepBlocks, GatedCrossAttention, parse_cache
from t2i.denoiser.caches.registry import CACHES, caches_from_list, caches_to_list, format_cache
from t2i.errors import ArgumentError

EVERY = {
    "deep": DeepBlocks(),
    "deep:every=2,branch=1": DeepBlocks(every=2, branch=1),
    "deep:schedule=power,centre=0.2": DeepBlocks(schedule="power", centre=0.2),
    "cross": GatedCrossAttention(),
    "cross:after=10": GatedCrossAttention(after=10),
    "cross:after=0.25": GatedCrossAttention(after=0.25),
    "deep:full=0/2/5": DeepBlocks(full=(0, 2, 5)),
}


def test_every_registered_cache_has_a_sample():
    assert {type(cache) for cache in EVERY.values()} == set(CACHES.values())
    assert all(kind.name == name for name, kind in CACHES.items())


@pytest.mark.parametrize(("text", "cache"), EVERY.items(), ids=EVERY)
def test_text_and_json_name_the_same_cache(text, cache):
    assert parse_cache(text) == cache
    assert parse_cache(format_cache(cache)) == cache
    assert caches_from_list(json.loads(json.dumps(caches_to_list([cache])))) == [cache]


def test_the_text_of_a_cache_is_as_short_as_it_can_be():
    assert format_cache(DeepBlocks(every=2, branch=1)) == "deep:every=2,branch=1"
    assert format_cache(DeepBlocks()) == "deep:every=3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dep", "Unknown cache 'dep'. Did you mean 'deep'"),
        ("deep:evry=3", "Unknown argument 'evry' in 'deep:evry=3'. Did you mean 'every'"),
        ("deep:every", "Got 'every' in 'deep:every', expected name=value"),
        ("deep:every=x", "Got every='x' in 'deep:every=x', expected a whole number"),
        ("deep:every=2,every=3", "Got 'every' twice"),
        ("cross:after=ten", "Got after='ten' in 'cross:after=ten', expected a number: 10 or 0.4"),
        ("deep:full=0-3", "expected numbers such as 0/3/6"),
        ("deep:full=1/3", "skips the first pass of the run"),
    ],
)
def test_text_that_names_no_cache_is_refused(text, message):
    with pytest.raises(ArgumentError, match=message):
        parse_cache(text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("deep", "expected a cache as a mapping"),
        ({"cache": "dep"}, "Unknown cache 'dep'"),
        ({"cache": "deep", "evry": 3}, "deep has no argument 'evry'"),
        ({"cache": "deep", "every": "3"}, "Got every='3', expected"),
        ({"cache": "deep", "every": 1}, "Got every=1"),
    ],
    ids=str,
)
def test_data_of_no_cache_is_refused(data, message):
    with pytest.raises(ArgumentError, match=message):
        caches_from_list([data])
