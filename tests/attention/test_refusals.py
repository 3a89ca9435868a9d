"""What cannot be meant is refused, with what was given and what to do."""

import math

import pytest
import torch

from t2i.attention import Function, Regions, Replace, Reweight, attend
from t2i.errors import ArgumentError
from tests.attention.runs import draw, ours

PROMPTS = ["a cat", "a dog"]


def run(*edits, word="cat", heads=None):
    pipe = ours()
    with attend(pipe) as attn:
        maps = attn.probe(word, heads=heads)
        for edit in edits:
            attn.edit(edit)
        draw(pipe, PROMPTS)
    return maps


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reweight(weights={"dog": math.nan}), "expected a number up to 1,000,000"),
        (lambda: Reweight(weights={"dog": math.inf}), "expected a number up to 1,000,000"),
        (lambda: Reweight(), "Reweight needs words to weigh"),
        (lambda: Regions([]), "Regions needs one at least"),
    ],
)
def test_edits_that_mean_nothing_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Replace(source=1, target=1), "a prompt cannot be its own source"),
        (Replace(heads=(99,)), "wants head 99, but .* has 4: they count from 0 to 3"),
        (Function(lambda probs: probs * math.nan, target=1), "numbers that are not finite"),
        (Reweight(weights={"cat": 2.0}), r"'cat' is not in the prompt.*Prompt 1: 'a dog'"),
    ],
)
def test_edits_that_do_not_fit_the_run_are_refused(edit, message):
    with pytest.raises(ArgumentError, match=message):
        run(edit)


@pytest.mark.parametrize("word", [3, None, (), (-1,), (0.5,)])
def test_words_of_other_types_are_refused(word):
    with pytest.raises(ArgumentError, match="where a word is expected"):
        run(word=word)


def test_a_head_that_is_not_there_is_refused_by_a_probe():
    with pytest.raises(ArgumentError, match="wants head 99"):
        run(heads=(99,))


def test_a_map_lies_over_pictures_only():
    maps = run()
    with pytest.raises(ArgumentError, match="expected a PIL image"):
        maps.overlay("cat", torch.zeros(3, 8, 8))  # type: ignore[arg-type]  # on purpose
    across, down = maps.mask_centroid("cat")
    assert 0 < across < 1
    assert 0 < down < 1
