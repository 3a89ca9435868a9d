"""WeightWords: a word counts as if it stood there that many times.

N heads, S tokens of a word, Q positions.
"""

import math

import pytest
import torch

from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import Reweight, WeightWords, attend
from t2i.errors import ArgumentError
from tests.attention.edits.drawn import SOURCE, drawn
from tests.tiny import tiny_sd_components

FIRST = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
"""The first that looks at the text: what it is asked with knows of no edit yet."""


def first_maps(pipe, *edits, word: str = "cat", **call: object) -> torch.Tensor:
    """The probabilities of a word where the text is first looked at, (N, S, Q)."""
    with attend(pipe) as attn:
        maps = attn.probe(word, sites=FIRST, raw=True)
        for edit in edits:
            attn.edit(edit)
        options = {"num_inference_steps": 1, "output_type": "latent", **call}
        pipe(SOURCE, generator=torch.Generator().manual_seed(1), **options)
    (raw_BNSQ,) = maps.measurements.raw[FIRST]
    return raw_BNSQ[0]


@pytest.mark.parametrize("weight", [0.25, 1.5, 20.0])
def test_the_map_is_weighed_and_sums_to_one_again(pipe, weight: float) -> None:
    own_NSQ = first_maps(pipe)
    weighed_NSQ = first_maps(pipe, WeightWords(weights={"cat": weight}))
    expected_NSQ = weight * own_NSQ / (1 + (weight - 1) * own_NSQ)
    torch.testing.assert_close(weighed_NSQ, expected_NSQ, atol=1e-6, rtol=1e-5)


def test_weight_zero_hides_a_word(pipe) -> None:
    hidden_NSQ = first_maps(pipe, WeightWords(weights={"cat": 0}))
    assert not hidden_NSQ.any()
    assert torch.isfinite(drawn(pipe, WeightWords(target=1, weights={"cat": 0}))).all()


def test_only_the_chosen_heads_are_weighed(pipe) -> None:
    own_NSQ = first_maps(pipe)
    weighed_NSQ = first_maps(pipe, WeightWords(weights={"cat": 9}, heads=(1,)))
    assert torch.equal(weighed_NSQ[[0, 2, 3]], own_NSQ[[0, 2, 3]])
    assert (weighed_NSQ[1] > own_NSQ[1]).all()


def test_weights_of_two_edits_multiply(pipe) -> None:
    twice = first_maps(pipe, WeightWords(weights={"cat": 2.0}), WeightWords(weights={"cat": 3.0}))
    once = first_maps(pipe, WeightWords(weights={"cat": 6.0}))
    torch.testing.assert_close(twice, once, atol=1e-6, rtol=1e-5)


def test_weight_one_and_empty_steps_change_nothing(pipe) -> None:
    plain = drawn(pipe)
    edits = (
        WeightWords(target=1, weights={"cat": 1}),
        WeightWords(target=1, weights={"cat": 5.0}, steps=(0, 0)),
    )
    assert torch.equal(drawn(pipe, *edits), plain)


def test_other_prompts_keep_their_pictures(pipe) -> None:
    plain = drawn(pipe)
    edited = drawn(pipe, WeightWords(1, weights={"dog": 4.0}))
    assert torch.equal(edited[0], plain[0])
    assert (edited[1] - plain[1]).abs().max() > 1e-3


def test_the_kernel_stays_fused(pipe) -> None:
    with attend(pipe) as attn:
        attn.edit(WeightWords(weights={"cat": 1.5}))
        pipe(SOURCE, num_inference_steps=1, output_type="latent")
        lines = [line for line in attn.explain().splitlines() if "WeightWords" in line]
    assert len(lines) == 4
    assert all("fused, with a mask" in line for line in lines)


def test_half_precision_draws_finite_pictures() -> None:
    half = TextToImagePipeline(**tiny_sd_components()).to(torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    edited = drawn(half, WeightWords(target=1, weights={"cat": 0.0, "dog": 3.0}))
    assert edited.dtype == torch.bfloat16
    assert torch.isfinite(edited).all()


def test_negative_weights_are_refused_with_a_hint() -> None:
    with pytest.raises(ArgumentError, match=r"expected 0 or more. Reweight.* negative numbers"):
        WeightWords(weights={"cat": -1.0})
    assert Reweight(weights={"cat": -1.0}).weights == {"cat": -1.0}


@pytest.mark.parametrize("weight", ["2", True, None, math.nan, math.inf])
def test_what_is_no_number_is_refused(weight: object) -> None:
    with pytest.raises(ArgumentError, match=r"Got weights\['cat'\]=.*, expected a number: 1.0"):
        WeightWords(weights={"cat": weight})  # type: ignore[dict-item]  # what is tested


def test_unknown_words_are_told(pipe) -> None:
    with pytest.raises(ArgumentError, match=r"'cart' is not in the prompt. Nearest: cat"):
        drawn(pipe, WeightWords(weights={"cart": 2.0}))
