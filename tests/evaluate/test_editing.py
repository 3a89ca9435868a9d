"""The part that edits pairs of prompts, with tiny parts from end to end."""

from itertools import zip_longest
from pathlib import Path

import pytest
import torch

from t2i.attention import LocalBlend, Refine, Replace, Reweight, SelfReplace
from t2i.attention.prompts.prompt_tokens import as_word_tuple
from t2i.errors import ArgumentError
from t2i.evaluate.editing.methods import (
    METHODS,
    NO_EDIT,
    EditSettings,
    build_target_prompt,
    copy_edits_with_target_index,
)
from t2i.evaluate.editing.pairs import (
    CHANGE_TITLES,
    ChangeKind,
    PromptPair,
    build_nth_prompt_pair,
    find_mention,
)
from t2i.evaluate.editing.part import EditingConfig, EditingPart
from t2i.evaluate.editing.records import PromptPairRecord, RelativeCostRecord, TwoObjectPromptRecord
from t2i.evaluate.editing.two_objects import (
    EDIT_NAMES,
    build_attend_and_excite_or_regions,
    compute_related_object_box,
    find_nth_layout_relating_two_objects,
)
from t2i.evaluate.inspection.part import InspectionConfig
from t2i.evaluate.report.chapter import Gallery, Table
from t2i.evaluate.suite_part import EvaluationContext, Record
from t2i.scenes.held_out import load_held_out_combinations
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig
from t2i.text.prompt import Prompt
from tests.evaluate.tiny_context import OBJECTS, tiny_context

FEW = EditingConfig(
    swap=1, recolour=1, background=1, addition=1, strengthen=1, two=1, cost_rounds=1
)
PAIRS = [f"{kind}/0" for kind in CHANGE_TITLES]
COSTS = ("cost/+ LocalBlend", "cost/Regions")
"""Of an edited pair, and of a prompt of two objects."""
SCENES = SceneDataset(SceneDatasetConfig(size=32, seed=51, vocabulary=OBJECTS, max_objects=2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("editing")


@pytest.fixture(scope="module")
def context(folder: Path) -> EvaluationContext:
    return tiny_context(folder)


@pytest.fixture(scope="module")
def part(context: EvaluationContext) -> EditingPart:
    return EditingPart(FEW, context)


@pytest.fixture(scope="module")
def records(part: EditingPart) -> dict[str, Record]:
    """Records of all pairs and prompts, and of two costs, measured in the order of the units."""
    units = [one for one in part.list_unit_keys() if one in COSTS or not one.startswith("cost/")]
    return {unit: part.measure_unit(unit) for unit in units}


# pairs


@pytest.mark.parametrize("kind", CHANGE_TITLES)
def test_pairs_are_a_function_of_seeds_and_differ_from_one_another(kind: ChangeKind) -> None:
    pairs = [build_nth_prompt_pair(SCENES, kind, number) for number in range(12)]
    again = SceneDataset(SCENES.config)
    assert pairs == [build_nth_prompt_pair(again, kind, number) for number in range(12)]
    assert len({one.captions for one in pairs}) > 8
    others = SceneDataset(SCENES.config.model_copy(update={"seed": 52}))
    assert pairs != [build_nth_prompt_pair(others, kind, number) for number in range(12)]


@pytest.mark.parametrize("kind", CHANGE_TITLES)
def test_a_pair_differs_in_the_one_thing(kind: ChangeKind) -> None:
    for number in range(12):
        one = build_nth_prompt_pair(SCENES, kind, number)
        differ = [
            index
            for index, (a, b) in enumerate(zip_longest(one.source.objects, one.target.objects))
            if a != b
        ]
        assert differ == ([one.object_index] if kind in ("swap", "recolour", "addition") else [])
        assert (one.source.background != one.target.background) == (kind == "background")
        assert (one.captions[0] == one.captions[1]) == (kind == "strengthen")
        for words, text in zip((one.source_word, one.target_word), one.captions, strict=True):
            assert all(word in text for word in as_word_tuple(words))
        assert one.strengthened_word is None or one.strengthened_word in one.captions[1].split()
        added = len(one.target.caption.mentions) - len(one.source.caption.mentions)
        assert added == (kind == "addition")


def test_one_more_object_is_put_in_behind_the_first_in_the_same_words() -> None:
    for number in range(12):
        one = build_nth_prompt_pair(SCENES, "addition", number)
        (first,), (_, second) = one.source.caption.mentions, one.target.caption.mentions
        begin, end = one.captions[0][: first.span[1]], one.captions[0][first.span[1] :]
        assert one.captions[1].startswith(f"{begin} ")
        assert one.captions[1].endswith(second.word + end)
        assert one.captions[1][slice(*second.span)] == second.word == one.target_word
        assert (one.source_word, one.unchanged_object_names) == ((), (one.source.objects[0].name,))


def test_no_target_is_a_combination_that_training_never_shows() -> None:
    for number in range(40):
        names = {
            placed.name for placed in build_nth_prompt_pair(SCENES, "swap", number).target.objects
        }
        assert names not in [set(one) for one in load_held_out_combinations().pairs]
        objects = build_nth_prompt_pair(SCENES, "recolour", number).target.objects
        assert not load_held_out_combinations().colours & {
            (placed.name, placed.colour) for placed in objects
        }


def test_what_cannot_be_made_is_an_error_that_names_it() -> None:
    alone = SceneDataset(SceneDatasetConfig(vocabulary=("apple",), max_objects=1))
    with pytest.raises(ArgumentError, match="None of 1000 scenes can be changed in 'another obj"):
        build_nth_prompt_pair(alone, "swap", 0)


def test_kinds_that_the_objects_do_not_allow_are_left_out(context: EvaluationContext) -> None:
    class One:
        pipe, objects, max_objects = context.pipe, ("apple",), 1

    units = EditingPart(FEW, One()).list_unit_keys()  # type: ignore[arg-type]  # all that list_unit_keys() reads
    assert "swap/0" not in units
    assert "two/0" not in units
    assert "background/0" in units


def test_seeds_are_not_those_of_inspection() -> None:
    inspection = InspectionConfig()
    splits = (inspection.choose, inspection.seen, inspection.held_out, inspection.drawn)
    assert EditingConfig().seed not in {split.seed for split in splits}


# methods


def swap() -> PromptPair:
    return build_nth_prompt_pair(SCENES, "swap", 0)


def test_methods_add_one_thing_after_the_other(part: EditingPart) -> None:
    settings = EditSettings(blend_threshold=0.2)
    made = {name: make(part.editor, swap(), settings, 10) for name, make in METHODS.items()}
    assert made[NO_EDIT] == []
    assert [type(edit) for edit in made["Replace / Refine"]] in ([Replace], [Refine])
    assert made["+ SelfReplace"][:-1] == made["Replace / Refine"]
    assert isinstance(made["+ SelfReplace"][-1], SelfReplace)
    assert made["+ LocalBlend"][:-1] == made["+ SelfReplace"]
    blend = made["+ LocalBlend"][-1]
    assert isinstance(blend, LocalBlend)
    assert (blend.words, blend.threshold) == ((swap().source_word, swap().target_word), 0.2)
    assert [edit.target for edit in copy_edits_with_target_index(made["+ LocalBlend"], 4)] == [
        4,
        4,
        4,
    ]


def test_a_stronger_word_is_a_weight_in_the_maps_or_else_in_the_prompt(part: EditingPart) -> None:
    stronger, settings = (
        build_nth_prompt_pair(SCENES, "strengthen", 0),
        EditSettings(weight=4, prompt_weight=1.3),
    )
    edits = METHODS["Replace / Refine"](part.editor, stronger, settings, 10)
    assert stronger.strengthened_word is not None
    assert [e.weights for e in edits if isinstance(e, Reweight)] == [
        {stronger.strengthened_word: 4}
    ]
    assert build_target_prompt(stronger, "Replace / Refine", settings) == stronger.captions[1]
    plain = build_target_prompt(stronger, NO_EDIT, settings)
    assert isinstance(plain, Prompt)
    assert f"({stronger.strengthened_word}:1.3)" in plain.text


def test_boxes_stand_as_the_caption_says() -> None:
    for relation, axis, first in (("left", 0, True), ("right", 0, False), ("below", 1, False)):
        subject, other = (compute_related_object_box(relation, first=one) for one in (True, False))  # type: ignore[arg-type]
        assert (subject[axis] < other[axis]) == first
        assert subject[1 - axis] == other[1 - axis]
    layout = find_nth_layout_relating_two_objects(SCENES, 0)
    assert layout is not None
    excite, regions = (
        build_attend_and_excite_or_regions(name, layout, row)
        for row, name in enumerate(EDIT_NAMES, start=1)
    )
    words = {find_mention(layout, index).word for index in (0, 1)}
    assert set(excite.words) == {region.words for region in regions.regions} == words  # type: ignore[attr-defined]


# the part


def test_its_units_are_pairs_prompts_of_two_and_costs(part: EditingPart) -> None:
    costs = [f"cost/{name}" for name in (*METHODS, *EDIT_NAMES) if name != NO_EDIT]
    assert part.list_unit_keys() == [*PAIRS, "two/0", *costs]


def test_a_unit_gives_the_same_record_again_and_in_another_order(
    part: EditingPart, records: dict[str, Record]
) -> None:
    units = ["swap/0", "two/0"]
    fresh = EditingPart(FEW, part.context)
    assert {unit: records[unit] for unit in units} == {
        unit: fresh.measure_unit(unit) for unit in reversed(units)
    }


def test_a_method_draws_beside_the_others_what_it_draws_alone(part: EditingPart) -> None:
    told, settings = swap(), FEW.settings
    make = METHODS["+ SelfReplace"]
    steps = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent", "seed": 3}
    edits = make(part.editor, told, settings, 4)
    alone = part.editor(told.captions[0], told.captions[1], edits=edits, **steps).images
    several = part.editor(
        told.captions[0],
        [told.captions[1]] * 3,
        edits=[
            *copy_edits_with_target_index(
                METHODS["ShareKeysValues"](part.editor, told, settings, 4), 1
            )
        ]
        + copy_edits_with_target_index(edits, 3),
        **steps,
    ).images
    torch.testing.assert_close(several[3], alone[1], rtol=0, atol=1e-4)
    assert (several[2] - several[3]).abs().max() > 1e-3


@pytest.mark.long
def test_the_cost_of_every_method_can_be_measured(part: EditingPart) -> None:
    units = [unit for unit in part.list_unit_keys() if unit.startswith("cost/")]
    assert {*COSTS} < {*units}
    for unit in units:
        cost = RelativeCostRecord.model_validate(part.measure_unit(unit))
        assert cost.time[0] > 0


def test_chapters_tell_every_method_of_every_kind(
    part: EditingPart, records: dict[str, Record], folder: Path
) -> None:
    edited = PromptPairRecord.model_validate(records["strengthen/0"])
    assert set(edited.methods) == {*METHODS, "WordWeights"}
    TwoObjectPromptRecord.model_validate(records["two/0"])
    for unit in COSTS:
        assert len(RelativeCostRecord.model_validate(records[unit]).time) == 1

    (chapter,) = part.build_chapters(records)
    tables = {block.name: block for block in chapter.blocks if isinstance(block, Table)}
    assert {"editing", "editing_two", "editing_cost", *(f"editing_{k}" for k in CHANGE_TITLES)} == {
        *tables
    }
    for table in tables.values():
        assert all(len(cells) == len(table.heads) for _, cells in table.rows)
    assert [name for name, _ in tables["editing"].rows] == [*METHODS]
    galleries = [block for block in chapter.blocks if isinstance(block, Gallery)]
    files = {name for gallery in galleries for name, _ in gallery.pictures}
    kept = {path.name for path in (folder / "editing").rglob("*.png")}
    assert files <= kept
    assert files


def test_the_pipe_of_the_bench_keeps_its_scheduler(
    part: EditingPart, context: EvaluationContext
) -> None:
    before = context.pipe.scheduler
    part.measure_unit("swap/0")
    assert context.pipe.scheduler is before
    assert context.pipe.step_callbacks == []
