"""Scores of edits that are known in closed form, of pictures and sights made by hand."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from t2i.evaluate.editing.caption_fit import (
    build_target_object_phrase,
    compute_square_around_changed_object,
    crop_and_resize,
    score_pictures_and_edited_regions,
)
from t2i.evaluate.editing.cost import measure_relative_cost
from t2i.evaluate.editing.pairs import PromptPair, build_nth_prompt_pair, find_mention
from t2i.evaluate.editing.scores import (
    MAX_PSNR,
    build_unchanged_region_mask,
    compute_structure_distance,
    dilate_mask,
    fulfils_target_prompt,
    is_edit_successful,
    measure_pixel_similarity,
    measure_pixel_similarity_within_each_mask,
)
from t2i.scenes.caption_matcher import CaptionMatcher
from t2i.scenes.recognised_objects import OWN_COLOUR, RecognisedObject, Recognition
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig
from tests.evaluate.tiny_context import OBJECTS, tiny_recogniser

SIDE = 32
WHOLE = np.ones((SIDE, SIDE), dtype=np.bool_)
SCENES = SceneDataset(SceneDatasetConfig(size=SIDE, seed=5, vocabulary=OBJECTS, max_objects=2))


def gray(value: int) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), (value, value, value))


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def seen(
    objects: Mapping[str, np.ndarray], background: str = "white", colour: str = OWN_COLOUR
) -> Recognition:
    found = {}
    for name, mask in objects.items():
        rows, columns = mask.nonzero()
        centre = (columns.mean() + 0.5) / SIDE, (rows.mean() + 0.5) / SIDE
        found[name] = RecognisedObject(name, float(mask.mean()), centre, colour, mask)
    nothing = np.zeros(1, dtype=np.float32)
    return Recognition(found, background, 0.0, nothing, nothing[None, None])


LEFT, RIGHT = box(2, 10, 12, 20), box(20, 10, 30, 20)


def test_equal_pictures_are_equal_in_every_number() -> None:
    same = measure_pixel_similarity(gray(90), gray(90), WHOLE)
    assert same is not None
    assert (same.psnr, same.mse, same.ssim) == (MAX_PSNR, 0, pytest.approx(1))


def test_a_picture_brighter_by_a_tenth_is_twenty_decibels_away() -> None:
    found = measure_pixel_similarity(gray(0), Image.new("RGB", (SIDE, SIDE), (51, 51, 51)), WHOLE)
    assert found is not None
    assert found.mse == pytest.approx(0.04)
    assert found.psnr == pytest.approx(-10 * math.log10(0.04))


def test_only_the_places_that_were_to_stay_are_counted() -> None:
    changed = np.full((SIDE, SIDE, 3), 90, dtype=np.uint8)
    changed[LEFT] = 200
    picture = Image.fromarray(changed)
    inside, outside = (
        measure_pixel_similarity(gray(90), picture, LEFT),
        measure_pixel_similarity(gray(90), picture, ~LEFT),
    )
    assert inside is not None
    assert outside is not None
    assert inside.mse == pytest.approx((110 / 255) ** 2)
    assert outside.psnr == MAX_PSNR
    assert inside.ssim < outside.ssim < 1  # its window reaches over the edge
    assert measure_pixel_similarity(gray(90), picture, ~WHOLE) is None
    masks = [LEFT, ~WHOLE, ~LEFT]
    assert measure_pixel_similarity_within_each_mask(gray(90), picture, masks) == [
        inside,
        None,
        outside,
    ]


def test_the_structure_asks_for_the_layout_alone() -> None:
    features = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)
    assert compute_structure_distance(features, features * 7) == pytest.approx(0, abs=1e-12)
    # Another basis, thus other things in the same layout.
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    same = np.einsum("gf,fhw->ghw", turned, features).astype(np.float32)
    assert compute_structure_distance(features, same) == pytest.approx(0, abs=1e-10)
    assert compute_structure_distance(features, features[:, ::-1].copy()) > 0.01


def test_structure_of_two_places_is_the_square_of_their_cosine() -> None:
    apart = np.array([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=np.float32)
    alike = np.array([[[1.0, 2.0]], [[0.0, 0.0]]], dtype=np.float32)
    assert compute_structure_distance(apart, alike) == pytest.approx(2 / 4)


def test_a_mask_grows_to_every_side() -> None:
    assert np.array_equal(dilate_mask(box(10, 10, 12, 12), 2), box(8, 8, 14, 14))
    assert np.array_equal(dilate_mask(box(0, 0, 1, 1), 1), box(0, 0, 2, 2))


def of_one(kind: str) -> PromptPair:
    """The first pair of a kind in which one object stands alone."""
    found = (build_nth_prompt_pair(SCENES, kind, number) for number in range(100))  # type: ignore[arg-type]
    return next(one for one in found if len(one.source.objects) == 1)


def test_a_swap_needs_the_new_and_not_the_old() -> None:
    swap = of_one("swap")
    old, new = swap.changed_object_names
    before = seen({old: LEFT})
    assert is_edit_successful(swap, before, seen({new: LEFT}))
    assert not is_edit_successful(swap, before, seen({new: LEFT, old: RIGHT}))
    assert not is_edit_successful(swap, before, seen({old: LEFT}))
    assert not is_edit_successful(swap, before, seen({}))


def test_a_recolour_needs_its_colour() -> None:
    recolour = of_one("recolour")
    (name,) = recolour.changed_object_names
    colour = recolour.target.objects[0].colour
    assert colour is not None
    assert is_edit_successful(recolour, seen({}), seen({name: LEFT}, colour=colour))
    assert not is_edit_successful(recolour, seen({}), seen({name: LEFT}))


def test_a_background_needs_to_be_the_new_one() -> None:
    change = of_one("background")
    assert is_edit_successful(change, seen({}), seen({}, background=change.target.background))
    assert not is_edit_successful(change, seen({}), seen({}, background=change.source.background))


@pytest.mark.parametrize(("word", "grown"), [("large", True), ("small", False)])
def test_a_stronger_word_needs_a_larger_or_a_smaller_object(word: str, grown: bool) -> None:
    stronger = replace(of_one("strengthen"), strengthened_word=word)
    (name,) = stronger.changed_object_names
    small, large = box(10, 10, 20, 20), box(8, 8, 22, 22)
    before, after = ({name: small}, {name: large}) if grown else ({name: large}, {name: small})
    assert is_edit_successful(stronger, seen(before), seen(after))
    assert not is_edit_successful(stronger, seen(after), seen(before))
    assert not is_edit_successful(stronger, seen(before), seen(before))
    assert not is_edit_successful(stronger, seen({}), seen(after))


def test_what_was_to_stay_is_outside_of_both_or_inside_of_the_objects() -> None:
    swap, size = of_one("swap"), (SIDE, SIDE)
    old, new = swap.changed_object_names
    stay = build_unchanged_region_mask(swap, seen({old: LEFT}), seen({new: RIGHT, old: LEFT}), size)
    assert not stay[LEFT].any()
    assert not stay[RIGHT].any()
    assert not stay[10, 12]  # a little around them
    assert stay[0, 0]
    assert build_unchanged_region_mask(swap, seen({}), seen({}), size).all()

    change = of_one("background")
    (name,) = change.unchanged_object_names
    inner = box(3, 11, 11, 19)  # a little less than the object
    assert np.array_equal(
        build_unchanged_region_mask(change, seen({name: LEFT}), seen({}), size), inner
    )
    assert not build_unchanged_region_mask(change, seen({}), seen({name: LEFT}), size).any()


def test_everything_is_what_the_target_says() -> None:
    change = of_one("background")
    (name,) = change.unchanged_object_names
    colour = find_mention(change.target, 0).colour or OWN_COLOUR
    right = seen({name: LEFT}, change.target.background, colour)
    assert fulfils_target_prompt(change, right)
    assert not fulfils_target_prompt(change, seen({name: LEFT}, change.source.background, colour))


def test_the_edited_place_is_that_of_the_sources_object() -> None:
    swap = of_one("swap")
    old, new = swap.changed_object_names
    square = compute_square_around_changed_object(
        swap, seen({old: box(10, 12, 20, 16), new: LEFT}), (SIDE, SIDE)
    )
    assert square == (7, 6, 23, 22)  # 1.6 times 10 to a side, around (15, 14)
    at_the_edge = compute_square_around_changed_object(
        swap, seen({old: box(0, 0, 10, 10)}), (SIDE, SIDE)
    )
    assert at_the_edge == (0, 0, 16, 16)
    whole = compute_square_around_changed_object(swap, seen({old: WHOLE}), (SIDE, SIDE))
    assert whole == (0, 0, SIDE, SIDE)
    assert compute_square_around_changed_object(swap, seen({new: LEFT}), (SIDE, SIDE)) is None
    assert (
        compute_square_around_changed_object(of_one("background"), seen({old: LEFT}), (SIDE, SIDE))
        is None
    )


def test_the_words_of_the_edited_place_are_the_targets_without_its_size() -> None:
    for number in range(40):
        recolour = build_nth_prompt_pair(SCENES, "recolour", number)
        words = build_target_object_phrase(recolour)
        assert recolour.object_index is not None
        assert (
            f"{recolour.target.objects[recolour.object_index].colour} {recolour.target_word}"
            in words
        )
        assert "large" not in words
        assert "small" not in words


def test_pictures_are_scored_by_the_prompt_and_places_by_their_words() -> None:
    asked: list[tuple[tuple[int, int], str]] = []

    class Listed:
        """Scores by the order of what it is asked."""

        recogniser = tiny_recogniser()

        def compute_paired_similarities(
            self, pictures: list[Image.Image], captions: list[str]
        ) -> torch.Tensor:
            for one, caption in zip(pictures, captions, strict=True):
                asked.append((one.size, caption))
            return torch.arange(len(pictures)) / 4

    swap = of_one("swap")
    pictures = [gray(value).resize((64, 64)) for value in (10, 20)]
    there = seen({swap.changed_object_names[0]: np.ones((64, 64), dtype=np.bool_)})
    listed: CaptionMatcher = Listed()  # type: ignore[assignment]  # all that is asked of it
    assert score_pictures_and_edited_regions(listed, swap, there, pictures) == (
        [0.0, 0.25],
        [0.0, 0.25],
    )
    assert (
        asked
        == [((64, 64), swap.captions[1])] * 2 + [((32, 32), build_target_object_phrase(swap))] * 2
    )
    assert score_pictures_and_edited_regions(listed, swap, seen({}), pictures) == (
        [0.0, 0.25],
        [None, None],
    )


def test_the_shipped_judge_tells_an_objects_place_from_its_neighbours() -> None:
    caption_matcher = CaptionMatcher.load()
    scenes = SceneDataset(SceneDatasetConfig(size=128, seed=5, vocabulary=OBJECTS, max_objects=2))
    better = []
    for number in range(20):
        told, scene = (
            build_nth_prompt_pair(scenes, "recolour", number),
            scenes.render_scene(number * 1000),
        )
        if len(scene.objects) < 2:
            continue
        for one, other in ((0, 1), (1, 0)):
            here, there = scene.objects[one], scene.objects[other]
            there_is = seen({told.changed_object_names[0]: here.mask})
            place = compute_square_around_changed_object(told, there_is, (128, 128))
            assert place is not None
            cut = crop_and_resize(Image.fromarray(scene.pixels), place, 128)
            own, others = caption_matcher.compute_paired_similarities(
                [cut, cut], [f"a {here.name}", f"a {there.name}"]
            )
            better.append(float(own) > float(others))
    assert len(better) >= 10
    assert sum(better) >= 0.9 * len(better)


def test_costs_say_nothing_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    def work(steps: int) -> None:
        torch.zeros(10) + steps

    measure_relative_cost("none", work, work, 1, 1, torch.device("cpu"))
    assert capfd.readouterr() == ("", "")


def test_costs_are_taken_in_turns_beside_no_edit() -> None:
    drawn: list[str] = []

    def work(name: str, size: int, steps: int) -> None:
        drawn.append(f"{name} {steps}")
        torch.zeros(size) + 1

    plain, edited = partial(work, "plain", 1000), partial(work, "edited", 5000)
    cost = measure_relative_cost("none", plain, edited, 20, 3, torch.device("cpu"))
    assert drawn == ["edited 4", "plain 4"] + ["plain 20", "edited 20"] * 3
    assert len(cost.time) == 3
    assert all(ratio > 0 for ratio in cost.time)
    # Both the zeros and their sum, in float32.
    assert abs(cost.extra_bytes - 2 * 4 * 4000) < 100
