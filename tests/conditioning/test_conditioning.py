"""Conditioning: whom the rows of a batch speak for."""

import pytest
import torch

from t2i.conditioning.conditioning import Conditioning, join
from t2i.errors import ArgumentError

UNCOND_BTD = torch.randn(2, 3, 4)
COND_BTD = torch.randn(2, 3, 4)


def test_rows_lie_branch_after_branch():
    told = join({"uncond": UNCOND_BTD, "cond": COND_BTD})
    assert told.roles == ("uncond", "uncond", "cond", "cond")
    assert told.pictures == 2
    assert torch.equal(told.text_BTD[2:], COND_BTD)


def test_a_conditional_row_may_have_a_part_in_an_edit():
    told = Conditioning(
        torch.cat([UNCOND_BTD, COND_BTD]), ("uncond", "cond"), parts=("source", "target")
    )
    assert told.roles == ("uncond", "uncond", "source", "target")


def test_select_keeps_the_rows_of_the_branches_asked_for():
    extra = torch.arange(4.0)[:, None]
    told = Conditioning(
        torch.cat([UNCOND_BTD, COND_BTD]),
        ("uncond", "cond"),
        parts=("source", "target"),
        extra={"pooled": extra},
    )
    cond = told.select(("cond",))
    assert torch.equal(cond.text_BTD, COND_BTD)
    assert cond.extra["pooled"].flatten().tolist() == [2.0, 3.0]
    assert cond.roles == ("source", "target")

    turned = told.select(("cond", "uncond"))
    assert turned.roles == ("source", "target", "uncond", "uncond")
    assert torch.equal(turned.text_BTD, torch.cat([COND_BTD, UNCOND_BTD]))
    assert turned.extra["pooled"].flatten().tolist() == [2.0, 3.0, 0.0, 1.0]


def test_selecting_every_branch_copies_nothing():
    told = join({"uncond": UNCOND_BTD, "cond": COND_BTD})
    assert told.select(("uncond", "cond")) is told


def test_a_branch_that_was_not_encoded_is_named():
    with pytest.raises(ArgumentError, match="branch 'uncond', but only cond were encoded"):
        join({"cond": COND_BTD}).select(("uncond", "cond"))


def test_rows_must_fill_the_branches():
    with pytest.raises(ArgumentError, match="3 rows of text for the branches"):
        Conditioning(torch.randn(3, 3, 4), ("uncond", "cond"))


def test_parts_and_extra_must_match_the_rows():
    with pytest.raises(ArgumentError, match="1 part for 2 pictures"):
        Conditioning(COND_BTD, parts=("source",))
    with pytest.raises(ArgumentError, match="5 rows of 'pooled', expected 2"):
        Conditioning(COND_BTD, extra={"pooled": torch.zeros(5, 1)})
