"""Words of the negative prompt: their attention in the unconditional branch."""

from typing import Any

import pytest
import torch

from t2i.attention import Concept, attend
from t2i.errors import ArgumentError, AttentionError
from tests.attention.runs import assert_equal, draw, ours, theirs
from tests.tiny import tiny_sd_components

RED, CAT = "a red apple", "a cat to the left of the dog"


def test_words_of_the_negative_prompt_are_read_where_guidance_reads_them():
    """At the first step both branches see the same noise: what the negative prompt reads is what a
    prompt of these words reads.
    """
    pipe = ours(**tiny_sd_components())
    with attend(pipe) as attn:
        maps = attn.probe("red", "apple", negative_prompt=RED, convention="mean")
        draw(pipe, CAT, negative_prompt=RED, num_inference_steps=1)
    with attend(pipe) as attn:
        expected = attn.probe("red", "apple", convention="mean")
        draw(pipe, RED, negative_prompt=CAT, num_inference_steps=1)
    for word in maps:
        torch.testing.assert_close(maps[word], expected[word], atol=1e-6, rtol=0)


def test_it_works_beside_probes_of_the_prompt_and_changes_nothing():
    pipe = ours(**tiny_sd_components())
    plain = draw(pipe, CAT, negative_prompt=RED)
    with attend(pipe) as attn:
        own = attn.probe("cat")
        negative = attn.probe("apple", negative_prompt=RED)
        assert_equal(draw(pipe, CAT, negative_prompt=RED), plain)
    assert own["cat"].shape == negative["apple"].shape
    assert negative.found("apple").probability is None


def test_each_prompt_of_a_batch_has_its_negative_prompt():
    pipe = ours(**tiny_sd_components())
    with attend(pipe) as attn:
        second = attn.probe("apple", prompt=1, negative_prompt=RED)
        first = attn.probe("dog", prompt=0, negative_prompt="a dog")
        draw(pipe, [CAT, "a blue picture"], negative_prompt=["a dog", RED])
    with attend(pipe) as attn:
        alone = attn.probe("apple", negative_prompt=RED)
        draw(pipe, "a blue picture", negative_prompt=RED)
    torch.testing.assert_close(second["apple"], alone["apple"], atol=1e-4, rtol=0)
    assert first["dog"].max() == 1


def test_it_works_in_pipelines_of_diffusers():
    parts = tiny_sd_components()
    maps = []
    for pipe in (ours(**parts), theirs(**parts)):
        with attend(pipe, [CAT]) as attn:
            maps.append(attn.probe("apple", negative_prompt=RED))
            draw(pipe, CAT, negative_prompt=RED, num_inference_steps=2)
    torch.testing.assert_close(maps[0]["apple"], maps[1]["apple"], atol=1e-5, rtol=0)


def read(word: str | Concept, **options: Any) -> None:
    pipe = ours(**tiny_sd_components())
    with attend(pipe) as attn:
        attn.probe(word, negative_prompt=RED, **options)
        draw(pipe, CAT, negative_prompt=RED, num_inference_steps=1)


def test_what_cannot_be_probed_is_refused():
    with pytest.raises(ArgumentError, match="'dog' is not in the prompt"):
        read("dog")
    with pytest.raises(ArgumentError, match="prompt=1"):
        read("apple", prompt=1)
    with pytest.raises(ArgumentError, match=r"Concept\('dog'\) with negative_prompt"):
        read(Concept("dog"))


def test_without_guidance_there_is_nothing_to_read():
    pipe = ours(**tiny_sd_components())
    with attend(pipe) as attn:
        maps = attn.probe("apple", negative_prompt=RED)
        draw(pipe, CAT, negative_prompt=RED, guidance_scale=1.0, num_inference_steps=1)
    with pytest.raises((ArgumentError, AttentionError), match="no maps yet"):
        maps["apple"]
