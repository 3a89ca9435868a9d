"""What edits say reaches the model once, and in the same numbers."""

import gc
from functools import partial

import pytest
import torch

from t2i.attention import Refine, Replace, Reweight, attend
from t2i.attention.compute.device_tensors import DeviceTensorCache
from t2i.attention.edits.weight_words import WeightWords
from tests.attention.runs import CAT, DOG, assert_equal, draw, ours

PAIR = [CAT, DOG]
EDITS = [
    Replace(words={"dog": (0.0, 0.5)}),
    Reweight(weights={"red": 3.0}),
    Reweight(source=0, weights={"apple": 0.5}, heads=(0,)),
    WeightWords(target=1, weights={"apple": 2.0}),
    WeightWords(target=0, weights={"cat": 2.0}),
    WeightWords(target=1, weights={"dog": 0.5}),
]


@pytest.fixture(scope="module")
def pipe():
    return ours()


def edited(pipe, edits=EDITS):
    with attend(pipe) as attn:
        maps = attn.probe("dog", prompt=1)
        for edit in edits:
            attn.edit(edit)
        return draw(pipe, PAIR), maps["dog"], attn.sites()


@pytest.mark.parametrize(
    ("edits", "each_step"), [([Replace()], 2), ([Refine(), Reweight(weights={"dog": 2.0})], 3)]
)
def test_matrices_are_sent_once_a_step_and_not_to_every_site(pipe, monkeypatch, edits, each_step):
    """The two of an edit; of a chain the first part is not sent, but what comes of it."""
    sent, to = [], torch.Tensor.to

    def count(tensor, *args, **kwargs):
        made = to(tensor, *args, **kwargs)
        if tensor.dtype == torch.float64 and made.dtype == torch.float32 and tensor.ndim > 1:
            sent.append(tensor.shape)
        return made

    monkeypatch.setattr(torch.Tensor, "to", count)
    sites = [site for site in edited(pipe, edits)[2] if site.kind == "cross"]
    assert len(sites) > each_step
    assert len({site.heads for site in sites}) == 1
    assert 0 < len(sent) <= 4 * each_step


def test_what_is_sent_once_is_what_would_be_sent_every_time(pipe, monkeypatch):
    latents, map_HW, _ = edited(pipe)
    monkeypatch.setattr(DeviceTensorCache, "to", lambda self, tensor, like: tensor.to(like))
    monkeypatch.setattr(DeviceTensorCache, "get_or_compute", lambda self, *names, make: make())
    again = edited(pipe)
    assert_equal(latents, again[0])
    assert_equal(map_HW, again[1])


def test_what_was_sent_is_let_go_with_the_tensor_it_was_made_of():
    sent = DeviceTensorCache()
    first, second = torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    like = torch.ones(1)
    assert sent.to(first, like) is sent.to(first, like)
    product = sent.get_or_compute("product", first, second, make=partial(torch.mul, first, second))
    assert (
        sent.get_or_compute("product", first, second, make=partial(torch.mul, first, second))
        is product
    )
    assert (
        sent.get_or_compute("sum", first, second, make=partial(torch.add, first, second))
        is not product
    )
    square = sent.get_or_compute("product", first, first, make=partial(torch.mul, first, first))
    assert sent.to(square, like).dtype == torch.float32
    assert len(sent._entries) == 2
    del first, second, product, square
    gc.collect()
    assert len(sent._entries) == 0
