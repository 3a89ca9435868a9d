"""The part that edits composed pictures: exact pairs, scores in closed form, and a tiny run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from t2i.evaluate.editing.pairs import ChangeKind
from t2i.evaluate.editing.scores import MIN_GROWTH, compute_structure_distance
from t2i.evaluate.real.baselines import (
    AUTOENCODER,
    BASELINES,
    COMPOSED_TARGET,
    NO_EDIT,
    REGENERATED,
)
from t2i.evaluate.real.comparison import (
    choose_most_preserving_and_most_successful_methods,
    compute_difference_on_common_samples,
    compute_paired_proportion_ratio,
)
from t2i.evaluate.real.config import RealConfig
from t2i.evaluate.real.edit_methods import EditMethodConfig
from t2i.evaluate.real.part import RealPart
from t2i.evaluate.real.picture_pairs import build_expected_target_layout, build_nth_picture_pair
from t2i.evaluate.real.records import PicturePairRecord
from t2i.evaluate.real.scores import compute_kept_structure_distance
from t2i.evaluate.report.chapter import Gallery, Table
from t2i.evaluate.suite_part import EvaluationContext, Record
from t2i.scenes.held_out import load_held_out_combinations
from t2i.scenes.layout import SceneLayout, render_picture_and_masks
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig
from t2i.scenes.sprites import BACKGROUND_COLOURS
from tests.evaluate.tiny_context import OBJECTS, tiny_context

KINDS: tuple[ChangeKind, ...] = ("swap", "recolour", "background", "strengthen")
SEEN = SceneDataset(SceneDatasetConfig(size=64, seed=61, max_objects=2))
HELD_OUT = SceneDataset(SceneDatasetConfig(size=64, seed=62, max_objects=2, split="held_out"))
MASKED = "direct, mask"
DIRECT, BLENDED, FRIENDLY, NULL_TEXT = "direct", "direct, LocalBlend", "edit-friendly", "null-text"
CONFIG = RealConfig.model_validate(
    {
        "seen": {"seed": 61, "swap": 2, "strengthen": 1},
        "held_out": {"seed": 62, "recolour": 1},
        "methods": [
            {"label": BLENDED, "invert": "direct"},
            {"label": DIRECT, "invert": "direct", "blend": "none"},
            {
                "label": FRIENDLY,
                "invert": "edit-friendly",
                "maps": False,
                "blend": "none",
                "pairs": 1,
            },
            {"label": MASKED, "invert": "direct", "blend": "none", "mask": True},
            {"label": NULL_TEXT, "invert": "null-text", "guidance_scale": 1.0},
        ],
    }
)
UNITS = ["seen/swap/0", "seen/strengthen/0", "held_out/recolour/0", "seen/swap/1"]


# pairs


@pytest.mark.parametrize("scenes", [SEEN, HELD_OUT], ids=["seen", "held out"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_to_stay_is_equal_in_both_composed_pictures(
    scenes: SceneDataset, kind: ChangeKind
) -> None:
    for number in range(3):
        pair = build_nth_picture_pair(scenes, kind, number)
        source, target = np.asarray(pair.source), np.asarray(pair.target)
        assert np.array_equal(source[pair.kept_HW], target[pair.kept_HW])
        assert (source != target).any()
        assert pair.kept_HW.any()


def held_out_combinations(layout: SceneLayout) -> set[object]:
    """The held-out combinations that a scene shows."""
    names = [placed.name for placed in layout.objects]
    pairs = {pair for pair in load_held_out_combinations().pairs if pair <= set(names)}
    colours = {(placed.name, placed.colour) for placed in layout.objects}
    return {*pairs, *(colours & load_held_out_combinations().colours)}


@pytest.mark.parametrize("kind", ["swap", "recolour", "background"])
def test_held_out_targets_show_what_training_never_does(kind: ChangeKind) -> None:
    for number in range(5):
        held_out, seen = (
            build_nth_picture_pair(scenes, kind, number).prompts for scenes in (HELD_OUT, SEEN)
        )
        new = held_out_combinations(held_out.target)
        assert new
        assert (new == held_out_combinations(held_out.source)) == (kind == "background")
        assert not held_out_combinations(seen.source) | held_out_combinations(seen.target)


def test_a_strengthened_object_is_composed_larger_or_smaller() -> None:
    words = set()
    for number in range(8):
        pair = build_nth_picture_pair(SEEN, "strengthen", number).prompts
        shares = [
            render_picture_and_masks(layout, 128)[1][0].mean()
            for layout in (pair.source, build_expected_target_layout(pair))
        ]
        assert pair.captions[0] == pair.captions[1]
        word = pair.strengthened_word
        assert (shares[1] / shares[0] if word == "large" else shares[0] / shares[1]) > MIN_GROWTH
        words.add(word)
    assert words == {"large", "small"}


def test_a_new_background_has_the_shade_of_the_old_one() -> None:
    pair = build_nth_picture_pair(SEEN, "background", 0).prompts
    before = np.subtract(pair.source.tint, BACKGROUND_COLOURS[pair.source.background])
    after = np.subtract(
        build_expected_target_layout(pair).tint, BACKGROUND_COLOURS[pair.target.background]
    )
    assert pair.source.background != pair.target.background
    assert np.array_equal(before, after)


# scores


def test_the_structure_of_what_stays_ignores_what_changes() -> None:
    features = np.random.default_rng(0).normal(size=(4, 4, 4)).astype(np.float32)
    other = features.copy()
    other[:, :2] = np.random.default_rng(1).normal(size=(4, 2, 4))
    everything = np.ones((16, 16), dtype=np.bool_)
    lower = everything.copy()
    lower[:8] = False
    assert compute_kept_structure_distance(features, other, everything) == pytest.approx(
        compute_structure_distance(features, other)
    )
    assert compute_kept_structure_distance(features, other, lower) == pytest.approx(0, abs=1e-12)
    lower[8, 0] = False  # one pixel of a position: all of it is left out
    assert compute_kept_structure_distance(features, other[:, :, ::-1].copy(), lower) is not None
    assert compute_kept_structure_distance(features, other, ~everything) is None


def test_success_is_told_as_a_share_of_drawing_anew() -> None:
    ours, theirs = [True, True, False, None], [True, True, True, True]
    found = compute_paired_proportion_ratio(ours, theirs)
    assert found is not None
    assert found.value == pytest.approx(2 / 3)
    assert found.count == 3
    assert found.low is not None
    assert found.low < 2 / 3
    assert compute_paired_proportion_ratio([True], [False]) is None
    assert compute_paired_proportion_ratio([], []) is None


def test_methods_are_compared_on_the_pairs_that_both_have() -> None:
    change = compute_difference_on_common_samples([30.0, None, 20.0], [29.0, 10.0, 18.0])
    assert change is not None
    assert change.value == pytest.approx(1.5)
    assert change.count == 2
    flags = compute_difference_on_common_samples([True, False, None], [False, False, True])
    assert flags is not None
    assert flags.value == pytest.approx(0.5)
    assert compute_difference_on_common_samples([None], [1.0]) is None


def test_the_choice_keeps_most_of_nearly_the_most_successful() -> None:
    def share(successes: int) -> list[bool]:
        return [number < successes for number in range(100)]

    successes = {"best": share(96), "near": share(91), "far": share(90)}
    kept: dict[str, list[float | None]] = {"best": [20.0], "near": [30.0, None], "far": [40.0]}
    assert choose_most_preserving_and_most_successful_methods(successes, kept) == ("near", "best")
    assert choose_most_preserving_and_most_successful_methods({}, {}) is None


# the part


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def context(folder: Path) -> EvaluationContext:
    # in fewer steps some edits would have no step
    return replace(tiny_context(folder), steps=4)


@pytest.fixture(scope="module")
def part(context: EvaluationContext) -> RealPart:
    return RealPart(CONFIG, context)


@pytest.fixture(scope="module")
def records(part: RealPart) -> dict[str, Record]:
    """Records of all units, measured in their order."""
    return {unit: part.measure_unit(unit) for unit in part.list_unit_keys()}


def test_its_units_are_pairs_of_equal_number_one_after_the_other(part: RealPart) -> None:
    assert part.list_unit_keys() == UNITS


def test_kinds_that_the_objects_do_not_allow_are_left_out(context: EvaluationContext) -> None:
    held_out = {"seed": 62, "swap": 1, "recolour": 1}
    config = RealConfig.model_validate(CONFIG.model_dump(mode="json") | {"held_out": held_out})
    units = RealPart(config, context).list_unit_keys()
    assert load_held_out_combinations().colours & {(name, "blue") for name in OBJECTS}
    assert not any(pair <= {*OBJECTS} for pair in load_held_out_combinations().pairs)
    assert "held_out/recolour/0" in units
    assert "held_out/swap/0" not in units


def test_controls_are_the_source_the_target_and_what_the_model_makes_without_an_edit(
    records: dict[str, Record],
) -> None:
    one = PicturePairRecord.model_validate(records["seen/swap/0"])
    assert set(one.controls) == {*BASELINES}
    assert all(control.kept is not None for control in one.controls.values())
    kept = {name: control.kept.psnr for name, control in one.controls.items() if control.kept}
    assert kept[NO_EDIT] == kept[COMPOSED_TARGET] == 100
    assert kept[AUTOENCODER] < 100
    assert kept[REGENERATED] < 100
    assert one.controls[NO_EDIT].kept_structure == 0
    assert one.controls[COMPOSED_TARGET].target.psnr == 100
    assert one.controls[NO_EDIT].target.psnr < 100


def test_costs_are_the_rows_that_the_denoiser_computes(
    part: RealPart, records: dict[str, Record]
) -> None:
    one = PicturePairRecord.model_validate(records["seen/swap/0"])
    assert set(one.methods) == {BLENDED, DIRECT, FRIENDLY, MASKED}
    guided = 2 * part.context.steps
    friendly = one.methods[FRIENDLY]
    assert (friendly.inversion.rows, friendly.edit.rows) == (guided, guided)
    assert friendly.replay is None
    direct = one.methods[DIRECT]
    assert direct.edit.rows == guided
    # four fixed-point iterations and the recording, without guidance
    assert direct.inversion.rows >= 5 * part.context.steps
    assert direct.inversion == one.methods[BLENDED].inversion
    assert direct.replay is not None
    assert all(cost.seconds > 0 for cost in (direct.inversion, direct.edit))


def test_outside_of_a_given_mask_an_edit_has_the_sources_own_pixels(
    records: dict[str, Record],
) -> None:
    for record in records.values():
        methods = PicturePairRecord.model_validate(record).methods
        masked, free = methods[MASKED].scores, methods[DIRECT].scores
        assert masked.kept is not None
        assert free.kept is not None
        assert masked.kept.mse == 0 < free.kept.mse
        assert masked.target.psnr < 100


def test_a_method_that_the_model_cannot_do_is_told_and_the_others_go_on(
    part: RealPart, records: dict[str, Record]
) -> None:
    for record in records.values():
        refused = PicturePairRecord.model_validate(record).refused
        assert set(refused) == {NULL_TEXT}
        assert "give a guidance scale above 1" in refused[NULL_TEXT]
    (chapter,) = part.build_chapters(records)
    assert chapter.text.count("null-text cannot be used here: null-text optimises") == 1


def test_a_unit_gives_the_same_record_again(part: RealPart, records: dict[str, Record]) -> None:
    again = PicturePairRecord.model_validate(
        RealPart(CONFIG, part.context).measure_unit("held_out/recolour/0")
    )
    before = PicturePairRecord.model_validate(records["held_out/recolour/0"])
    assert again.controls == before.controls
    for label, edited in before.methods.items():
        assert again.methods[label].scores == edited.scores


def test_chapters_compare_every_method_with_the_first(
    part: RealPart, records: dict[str, Record], folder: Path
) -> None:
    (chapter,) = part.build_chapters(records)
    tables = {block.name: block for block in chapter.blocks if isinstance(block, Table)}
    names = {"real_seen", "real_seen_less", "real_seen_swap", "real_seen_strengthen"}
    names |= {"real_held_out", "real_held_out_less", "real_held_out_recolour"}
    assert set(tables) == names | {"real_choice", "real_replay"}
    for table in tables.values():
        assert all(len(cells) == len(table.heads) for _, cells in table.rows)
    rows = [label for label, _ in tables["real_seen"].rows]
    assert rows == [*BASELINES, BLENDED, DIRECT, FRIENDLY, MASKED]
    assert tables["real_seen"].title.endswith(": 2 pairs")
    assert [label for label, _ in tables["real_seen_less"].rows] == [DIRECT, FRIENDLY, MASKED]
    assert [label for label, _ in tables["real_choice"].rows] == [
        "another object",
        "a stronger word",
    ]
    replay = dict(tables["real_replay"].rows)
    assert replay[FRIENDLY] == ["exact"]
    assert set(replay) == {AUTOENCODER, BLENDED, DIRECT, FRIENDLY, MASKED}
    galleries = [block for block in chapter.blocks if isinstance(block, Gallery)]
    files = {file for gallery in galleries for file, _ in gallery.pictures}
    kept = {path.name for path in (folder / "real").rglob("*.png")}
    assert {file.rpartition("/")[2] for file in files} <= kept


def test_the_pipe_of_the_benchmark_keeps_its_scheduler(
    part: RealPart, context: EvaluationContext, records: dict[str, Record]
) -> None:
    assert records
    assert part.editor.scheduler is not context.pipe.scheduler
    assert context.pipe.step_callbacks == []


# configuration


def test_two_rows_of_one_name_are_refused() -> None:
    twice = [{"label": "a"}, {"label": "a"}]
    with pytest.raises(ValidationError, match="Two rows are labelled 'a'"):
        RealConfig.model_validate(CONFIG.model_dump(mode="json") | {"methods": twice})
    control = [{"label": REGENERATED}]
    with pytest.raises(ValidationError, match="Two rows are labelled 'drawn anew'"):
        RealConfig.model_validate(CONFIG.model_dump(mode="json") | {"methods": control})


def test_an_unknown_inversion_is_refused() -> None:
    with pytest.raises(ValidationError, match="Unknown inversion method 'dirct'"):
        EditMethodConfig(label="a", invert="dirct")
    assert EditMethodConfig(label="a").invert == "auto"
