"""Conditioning: the branch of each row, and selecting the rows of some branches."""

import pytest
import torch

from t2i.conditioning.conditioning import Conditioning, stack_branches_to_conditioning
from t2i.errors import ArgumentError

UNCOND_BTD = torch.randn(2, 3, 4)
COND_BTD = torch.randn(2, 3, 4)


def test_rows_lie_branch_after_branch():
    """The rows of the first branch come first, one per image."""
    conditioning = stack_branches_to_conditioning({"uncond": UNCOND_BTD, "cond": COND_BTD})
    assert conditioning.row_branches == ("uncond", "uncond", "cond", "cond")
    assert conditioning.num_images == 2
    assert torch.equal(conditioning.text_BTD[2:], COND_BTD)


def test_select_returns_the_rows_of_the_named_branches():
    """Text and extra tensors of the selected branches, in the requested order."""
    extra = torch.arange(4.0)[:, None]
    conditioning = Conditioning(
        torch.cat([UNCOND_BTD, COND_BTD]), ("uncond", "cond"), extra={"pooled": extra}
    )
    cond = conditioning.select_branches(("cond",))
    assert torch.equal(cond.text_BTD, COND_BTD)
    assert cond.extra["pooled"].flatten().tolist() == [2.0, 3.0]
    assert cond.row_branches == ("cond", "cond")

    swapped = conditioning.select_branches(("cond", "uncond"))
    assert swapped.row_branches == ("cond", "cond", "uncond", "uncond")
    assert torch.equal(swapped.text_BTD, torch.cat([COND_BTD, UNCOND_BTD]))
    assert swapped.extra["pooled"].flatten().tolist() == [2.0, 3.0, 0.0, 1.0]


def test_selecting_every_branch_copies_nothing():
    """Selecting all branches in their order returns the object itself."""
    conditioning = stack_branches_to_conditioning({"uncond": UNCOND_BTD, "cond": COND_BTD})
    assert conditioning.select_branches(("uncond", "cond")) is conditioning


def test_a_branch_that_was_not_encoded_is_named():
    """Selecting an absent branch is an error that lists the present ones."""
    with pytest.raises(ArgumentError, match="branch 'uncond', but only cond were encoded"):
        stack_branches_to_conditioning({"cond": COND_BTD}).select_branches(("uncond", "cond"))


def test_rows_must_fill_the_branches():
    """The number of rows must be a multiple of the number of branches."""
    with pytest.raises(ArgumentError, match="3 rows of text for the branches"):
        Conditioning(torch.randn(3, 3, 4), ("uncond", "cond"))


def test_prompts_and_extra_must_match_the_rows():
    """Prompts must divide the images, and extra tensors must have one row per row of text."""
    with pytest.raises(ArgumentError, match="3 prompts for 2 images"):
        Conditioning(COND_BTD, prompts=("a", "b", "c"))
    with pytest.raises(ArgumentError, match="5 rows of 'pooled', expected 2"):
        Conditioning(COND_BTD, extra={"pooled": torch.zeros(5, 1)})
