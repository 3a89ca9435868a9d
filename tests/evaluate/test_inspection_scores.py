"""Scores of heat maps that are known in closed form."""

import pytest
import torch

from t2i.evaluate.inspection.map_scores import (
    THRESHOLDS,
    build_centred_blob,
    rescale_to_0_1,
    resize_map,
    score_map_against_mask,
)
from t2i.evaluate.inspection.records import (
    build_heat_map_scores_record,
    find_best_threshold_and_mean_iou,
    round_and_sort_ious,
)

HALF = THRESHOLDS.index(0.5)


def boxed(top: int, bottom: int, left: int, right: int) -> torch.Tensor:
    mask_HW = torch.zeros(8, 8, dtype=torch.bool)
    mask_HW[top:bottom, left:right] = True
    return mask_HW


MASK, ELSEWHERE = boxed(1, 5, 1, 5), boxed(6, 8, 6, 8)


def test_a_map_that_is_its_mask_has_every_score_at_its_best() -> None:
    found = score_map_against_mask(MASK.float() * 3 - 7, MASK, ELSEWHERE)
    assert found.ious == (1.0,) * len(THRESHOLDS)
    assert (found.best_iou, found.pointing, found.average_precision, found.leakage) == (
        1,
        True,
        1,
        0,
    )


def test_a_map_of_the_other_object_alone_leaks_all_it_has() -> None:
    found = score_map_against_mask(ELSEWHERE.float(), MASK, ELSEWHERE)
    assert found.ious == (0.0,) * len(THRESHOLDS)
    assert (found.pointing, found.leakage) == (False, 1)
    # At its lowest value a map is the whole picture.
    assert found.best_iou == pytest.approx(16 / 64)


def test_half_of_the_mask_is_half_of_the_union() -> None:
    found = score_map_against_mask(boxed(1, 5, 1, 3).float(), MASK)
    assert found.ious[HALF] == pytest.approx(8 / 16)
    assert found.average_precision == pytest.approx(8 / 16 * 1 + 8 / 16 * 16 / 64)
    assert found.leakage is None


def test_the_threshold_decides_between_two_heights() -> None:
    map_HW = MASK.float() + 0.3 * ELSEWHERE.float()
    found = score_map_against_mask(map_HW, MASK, ELSEWHERE)
    assert found.ious[THRESHOLDS.index(0.25)] == pytest.approx(16 / 20)
    assert found.ious[THRESHOLDS.index(0.35)] == 1.0
    assert found.leakage == pytest.approx(0.3 * 4 / (16 + 0.3 * 4))


def test_a_map_that_is_the_same_everywhere_says_nothing() -> None:
    found = score_map_against_mask(torch.full((8, 8), 0.7), MASK, ELSEWHERE)
    assert found.best_iou == pytest.approx(16 / 64)
    assert found.average_precision == pytest.approx(16 / 64)
    assert found.leakage == 0.0


def test_the_best_iou_takes_equal_values_together() -> None:
    # Half of the mask is as hot as as many places beside it: no threshold parts them.
    map_HW = (boxed(1, 5, 1, 3) | boxed(1, 5, 5, 7)).float()
    assert score_map_against_mask(map_HW, MASK).best_iou == pytest.approx(8 / 24)


def test_stretching_changes_no_score() -> None:
    map_HW = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    assert rescale_to_0_1(map_HW).min() == 0
    assert rescale_to_0_1(map_HW).max() == 1
    assert (
        score_map_against_mask(map_HW * 0.01 + 4, MASK).pointing
        == score_map_against_mask(map_HW, MASK).pointing
    )
    assert score_map_against_mask(map_HW * 0.01, MASK).average_precision == pytest.approx(
        score_map_against_mask(map_HW, MASK).average_precision
    )


def test_the_chosen_threshold_is_the_best_of_the_mean() -> None:
    low = score_map_against_mask(MASK.float() + 0.3 * ELSEWHERE.float(), MASK)
    high = score_map_against_mask(MASK.float() * 0.6 + boxed(1, 2, 1, 2).float() * 0.4, MASK)
    threshold, iou = find_best_threshold_and_mean_iou([low, high])
    assert (threshold, iou) == (0.35, 1.0)
    assert build_heat_map_scores_record(high, 0.35).iou == 1.0
    assert build_heat_map_scores_record(high, 0.65).iou == pytest.approx(1 / 16)


def test_sites_are_ranked_by_iou_and_then_by_name() -> None:
    assert [*round_and_sort_ious({"b": 0.5, "c": 0.7, "a": 0.5})] == ["c", "a", "b"]


def test_the_blob_is_in_the_middle_and_maps_become_as_large_as_the_picture() -> None:
    blob_HW = build_centred_blob((9, 9))
    assert divmod(int(blob_HW.argmax()), 9) == (4, 4)
    assert torch.equal(blob_HW, blob_HW.flip(0, 1))
    assert resize_map(torch.rand(4, 4), (8, 12)).shape == (8, 12)
