"""Function: a user's own function of the map."""

import pytest
import torch

from t2i.attention import Function, Reweight, Sites, attend
from t2i.errors import ArgumentError
from t2i.text.word_spans import find_word_token_positions
from tests.attention.edits.drawn import SOURCE, TARGET, drawn


def test_the_identity_changes_nothing_but_rounding(pipe) -> None:
    plain = drawn(pipe)
    same = drawn(pipe, Function(lambda probs_NQK: probs_NQK, target=1))
    torch.testing.assert_close(same, plain, atol=1e-5, rtol=1e-5)
    assert torch.equal(same[0], plain[0]), "other rows keep their kernel"


def test_it_multiplies_as_reweight_does(pipe) -> None:
    places = list(find_word_token_positions(pipe.tokenizer, TARGET, ["cat"])["cat"])

    def without_the_cat(probs_NQK: torch.Tensor) -> torch.Tensor:
        changed_NQK = probs_NQK.clone()
        changed_NQK[..., places] = 0
        return changed_NQK

    by_hand = drawn(pipe, Function(without_the_cat, target=1, steps=(0, 3)))
    reweighted = drawn(pipe, Reweight(target=1, weights={"cat": 0.0}, steps=(0, 3)))
    torch.testing.assert_close(by_hand, reweighted, atol=1e-5, rtol=1e-5)
    assert (by_hand[1] - drawn(pipe)[1]).abs().max() > 1e-3


def test_it_is_given_the_heads_that_it_is_for(pipe) -> None:
    shapes = set()

    def of_one_head(probs_NQK: torch.Tensor) -> torch.Tensor:
        shapes.add((probs_NQK.shape[0], probs_NQK.shape[2]))
        sums_NQ = probs_NQK.sum(-1)
        torch.testing.assert_close(sums_NQ, torch.ones_like(sums_NQ))
        return torch.zeros_like(probs_NQK)

    one = drawn(pipe, Function(of_one_head, target=1, heads=(2,)))
    assert shapes == {(1, 16)}
    every = drawn(pipe, Function(torch.zeros_like, target=1))
    assert (one[1] - every[1]).abs().max() > 1e-4


def test_self_attention_is_computed_when_it_is_asked_for(pipe) -> None:
    seen = set()

    def look(probs_NQK: torch.Tensor) -> torch.Tensor:
        seen.add(tuple(probs_NQK.shape[1:]))
        return probs_NQK

    with attend(pipe) as attn:
        attn.edit(Function(look, sites=Sites(kind="self", place="mid")))
        pipe(SOURCE, num_inference_steps=1, output_type="latent")
        explicit = [line for line in attn.explain().splitlines() if "explicit in 1 row" in line]
    assert len(explicit) == 1
    assert "mid_block" in explicit[0]
    assert "attn1" in explicit[0]
    assert seen == {(16, 16)}


def test_what_is_no_map_is_refused(pipe) -> None:
    with pytest.raises(ArgumentError, match=r"returned \(\), expected probabilities of the shape"):
        drawn(pipe, Function(lambda probs_NQK: probs_NQK.sum()))
    with pytest.raises(ArgumentError, match="returned NoneType, expected probabilities"):
        drawn(pipe, Function(lambda probs_NQK: None, heads=(0,)))  # type: ignore[arg-type,return-value]
    with pytest.raises(ArgumentError, match="Got fn='sharper', expected a function of a map"):
        Function("sharper")  # type: ignore[arg-type]  # what is tested
