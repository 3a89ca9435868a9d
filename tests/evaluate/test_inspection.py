"""The part that holds heat maps against masks, with tiny parts from end to end."""

import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from t2i.attention import Sites, attend
from t2i.errors import ModelError
from t2i.evaluate.inspection import daam_package
from t2i.evaluate.inspection.daam_package import (
    DaamError,
    compute_daam_heat_maps,
    set_text_length,
)
from t2i.evaluate.inspection.known_picture_scheduler import (
    build_known_picture_scheduler,
    compute_timesteps_and_scales_at_levels,
    copy_pipeline_with_scheduler,
)
from t2i.evaluate.inspection.part import CALIBRATION_KEY, InspectionConfig, InspectionPart
from t2i.evaluate.inspection.records import ALL_LEVELS, HeatMapCalibration, SceneHeatMapRecord
from t2i.evaluate.inspection.scene_heat_maps import (
    METHODS,
    build_noise_level_step_windows,
    choose_wrong_word_for_mention,
    compute_rendered_scene_heat_maps,
    find_mention_and_wrong_word_spans,
    restrict_to_sites,
)
from t2i.evaluate.report.chapter import Table
from t2i.evaluate.scene_splits import SceneSplitConfig
from t2i.evaluate.suite_part import EvaluationContext
from t2i.randomness import derive_generator
from tests.evaluate.daam_stand_in import build_daam_stand_in
from tests.evaluate.tiny_context import tiny_context

FEW = InspectionConfig(
    choose=SceneSplitConfig(seed=41, count=2),
    seen=SceneSplitConfig(seed=42, count=2),
    held_out=SceneSplitConfig(seed=43, count=1),
    drawn=SceneSplitConfig(seed=44, count=2),
    levels=(0.8, 0.3),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inspection")


@pytest.fixture(scope="module")
def context(folder: Path) -> EvaluationContext:
    return tiny_context(folder)


@pytest.fixture(scope="module")
def part(context: EvaluationContext) -> InspectionPart:
    return InspectionPart(FEW, context)


def test_its_units_are_the_choice_and_every_scene(part: InspectionPart) -> None:
    expected = [CALIBRATION_KEY, "seen/0", "seen/1", "held_out/0", "drawn/0", "drawn/1"]
    assert part.list_unit_keys() == expected


def test_no_split_shares_a_seed_with_another() -> None:
    config = InspectionConfig()
    splits = (config.choose, config.seen, config.held_out, config.drawn)
    assert len({split.seed for split in splits}) == len(splits)


def test_a_unit_gives_the_same_record_again_and_in_another_order(part: InspectionPart) -> None:
    units = [CALIBRATION_KEY, "seen/1", "drawn/0"]
    first = {unit: part.measure_unit(unit) for unit in units}
    fresh = InspectionPart(FEW, part.context)
    again = {unit: fresh.measure_unit(unit) for unit in reversed(units)}
    assert first == again


def test_records_say_all_methods_and_sites_of_each_word(part: InspectionPart) -> None:
    shown = SceneHeatMapRecord.model_validate(part.measure_unit("held_out/0"))
    scene = part.scenes_by_split["held_out"].render_scene(0)
    assert [one.word for one in shown.objects] == [placed.word for placed in scene.objects]
    choice = HeatMapCalibration.model_validate(part.measure_unit(CALIBRATION_KEY))
    assert set(shown.objects[0].sites) == set(choice.site_ious)
    assert {"8x8", "4x4"} <= set(choice.site_sizes.values())  # those too coarse for the default
    assert set(shown.objects[0].methods) == set(METHODS)
    assert set(shown.objects[0].methods["default"]) == {ALL_LEVELS, "0.8", "0.3"}
    leaks = [one.methods["default"][ALL_LEVELS].leakage is None for one in shown.objects]
    assert all(leak == (len(scene.objects) == 1) for leak in leaks)


def test_the_best_sites_are_the_first_of_the_ranking(part: InspectionPart) -> None:
    choice = part.calibration
    assert choice.sites == [*choice.site_ious][: len(choice.sites)]
    ious = [*choice.site_ious.values()]
    assert ious == sorted(ious, reverse=True)


def test_chapters_have_a_row_for_each_method_and_say_what_does_not_run(
    part: InspectionPart,
) -> None:
    records = {unit: part.measure_unit(unit) for unit in part.list_unit_keys()}
    (chapter,) = part.build_chapters(records)
    tables = {block.name: block for block in chapter.blocks if isinstance(block, Table)}
    assert {"inspection_seen", "inspection_held_out", "inspection_sites"} <= tables.keys()
    rows = dict(tables["inspection_seen"].rows)
    assert len(rows["our default"]) == len(tables["inspection_seen"].heads)
    daam = rows["the daam package"][0]
    assert isinstance(daam, str)
    assert daam.startswith(("not installed", "does not run"))


def test_the_run_shows_the_denoiser_the_picture_and_nothing_it_predicts(
    context: EvaluationContext,
) -> None:
    part = InspectionPart(FEW, context)
    scene = part.scenes_by_split["seen"].render_scene(0)
    scheduler = build_known_picture_scheduler(
        context.pipe, scene.pixels, (0.8, 0.3), derive_generator(0, "noise")
    )
    read: list[torch.Tensor] = []
    hook = context.pipe.unet.register_forward_pre_hook(
        lambda _module, args: read.append(args[0].clone())
    )
    try:
        copy_pipeline_with_scheduler(context.pipe, scheduler)(
            scene.caption,
            latents=scheduler.noised[0],
            num_inference_steps=2,
            guidance_scale=1.0,
            output_type="latent",
        )
    finally:
        hook.remove()
    assert len(read) == 2
    assert all(len(one) == 1 for one in read)  # the conditional row alone
    assert torch.equal(read[0], scheduler.noised[0])
    assert torch.equal(read[1], scheduler.noised[1])


def test_noise_is_added_as_diffusers_adds_it() -> None:
    for kind in ("epsilon", "v_prediction"):
        theirs = DDPMScheduler(prediction_type=kind, rescale_betas_zero_snr=kind != "epsilon")
        timesteps, alpha, sigma = compute_timesteps_and_scales_at_levels(theirs, (0.9, 0.25))
        assert timesteps.tolist() == [900, 250]
        clean, noise = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
        ours = alpha.view(-1, 1, 1, 1) * clean + sigma.view(-1, 1, 1, 1) * noise
        torch.testing.assert_close(ours.float(), theirs.add_noise(clean, noise, timesteps))


def test_a_scheduler_of_scaled_latents_tells_the_model_the_same() -> None:
    timesteps, alpha, sigma = compute_timesteps_and_scales_at_levels(
        EulerDiscreteScheduler(), (0.5,)
    )
    assert timesteps.tolist() == [500]
    assert float(alpha**2 + sigma**2) == pytest.approx(1)


def test_of_a_flow_the_level_is_the_share_of_noise() -> None:
    timesteps, alpha, sigma = compute_timesteps_and_scales_at_levels(
        FlowMatchEulerDiscreteScheduler(), (0.75,)
    )
    assert (timesteps.tolist(), alpha.tolist(), sigma.tolist()) == ([750.0], [0.25], [0.75])


def test_a_scheduler_without_a_schedule_is_refused() -> None:
    class Odd:
        config = {"num_train_timesteps": 1000}

    with pytest.raises(ModelError, match="A Odd does not say how much noise a timestep means"):
        compute_timesteps_and_scales_at_levels(Odd(), (0.5,))


def test_maps_of_some_sites_are_those_of_a_probe_of_these_sites(context: EvaluationContext) -> None:
    part = InspectionPart(FEW, context)
    scene = part.scenes_by_split["seen"].render_scene(0)
    heat = compute_rendered_scene_heat_maps(
        context.pipe, scene, FEW.levels, derive_generator(0, "noise")
    )
    maps = heat.maps["default", ALL_LEVELS]
    site = maps.sites[-1].name

    scheduler = build_known_picture_scheduler(
        context.pipe, scene.pixels, FEW.levels, derive_generator(0, "noise")
    )
    along = copy_pipeline_with_scheduler(context.pipe, scheduler)
    words, _ = find_mention_and_wrong_word_spans(
        context.pipe, scene.caption, [(p.word, p.span) for p in scene.objects]
    )
    with attend(along) as attn:
        probed = attn.probe(*words, sites=Sites(name=f"^{site}$"))
        along(
            scene.caption,
            latents=scheduler.noised[0],
            num_inference_steps=2,
            guidance_scale=1.0,
            output_type="latent",
        )
    for word in heat.words:
        assert torch.equal(restrict_to_sites(maps, [site])[word], probed[word])


def test_every_level_is_a_step_of_its_own() -> None:
    assert build_noise_level_step_windows((0.8, 0.3)) == {
        ALL_LEVELS: None,
        "0.8": (0, 1),
        "0.3": (1, 2),
    }


def test_a_word_that_stands_twice_is_read_where_it_is_meant(context: EvaluationContext) -> None:
    caption = "an orange cat and an orange"
    first, _ = find_mention_and_wrong_word_spans(context.pipe, caption, [("orange", (3, 9))])
    second, _ = find_mention_and_wrong_word_spans(context.pipe, caption, [("orange", (21, 27))])
    assert max(first[0]) < min(second[0])


def test_the_other_word_is_the_next_object_or_else_the_last_word() -> None:
    assert (
        choose_wrong_word_for_mention("a cat and a dog", [("cat", (2, 5)), ("dog", (12, 15))], 1)[0]
        == "cat"
    )
    assert choose_wrong_word_for_mention("on a blue background, a cat", [("cat", (24, 27))], 0)[
        1
    ] == (22, 23)


def test_the_package_daam_is_said_to_be_missing_or_not_to_run(context: EvaluationContext) -> None:
    scene = InspectionPart(FEW, context).scenes_by_split["seen"].render_scene(0)
    message = r"not installed: pip install --no-deps daam|does not run: "
    with pytest.raises(DaamError, match=message):
        compute_daam_heat_maps(context.pipe, scene, FEW.levels, derive_generator(0, "noise"))


def test_the_package_daam_reads_texts_that_are_not_77_long(
    context: EvaluationContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in of its interface: its maps are those of our own convention "daam"."""
    monkeypatch.setitem(sys.modules, "daam", build_daam_stand_in())
    monkeypatch.setattr(daam_package, "find_spec", lambda _name: True)
    scene = InspectionPart(FEW, context).scenes_by_split["seen"].render_scene(0)
    levels = FEW.levels
    ours = compute_rendered_scene_heat_maps(
        context.pipe, scene, levels, derive_generator(0, "noise")
    )
    found = compute_daam_heat_maps(context.pipe, scene, levels, derive_generator(0, "noise"))
    assert len(found) == len(scene.objects)
    for number, map_HW in enumerate(found):
        own_HW = ours.resized_word_map("daam", ALL_LEVELS, number, [])
        both = torch.stack([map_HW.flatten(), own_HW.flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.99


def test_a_package_daam_of_another_version_is_said_not_to_run() -> None:
    with pytest.raises(DaamError, match="does not run: its hooks have no context_size"):
        set_text_length([object()], 32)


def test_pictures_are_kept_beside_the_records(part: InspectionPart, folder: Path) -> None:
    shown = SceneHeatMapRecord.model_validate(part.measure_unit("seen/0"))
    assert (folder / "inspection" / "seen" / shown.file).is_file()
