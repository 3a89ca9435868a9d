"""Tuning: candidates measured on scenes, and the presets that are chosen from their costs."""

from pathlib import Path

import pytest

from t2i.denoiser.presets import EXACT, PresetLora
from t2i.evaluate.tuning.candidates import Candidate, list_candidates
from t2i.evaluate.tuning.choice import CandidateCost, choose_presets, measure_costs
from t2i.evaluate.tuning.part import CandidateRecord, CaptionRecord, TuningPart
from tests.evaluate.tiny_context import tiny_context

COUNT = 480


def records(
    candidates: list[Candidate], seconds: dict[str, float], wrong: dict[str, int]
) -> list[CaptionRecord]:
    """Captions of which a candidate gets the first ones wrong, beside the first 40 of `exact`."""
    return [
        CaptionRecord(
            caption="a cat",
            images={
                one.name: CandidateRecord(
                    seconds=seconds[one.name],
                    rows=10,
                    distance=0.0 if one.name == EXACT else 0.04 * seconds[EXACT],
                    right={"everything": [number >= wrong.get(one.name, 0) + 40]},
                )
                for one in candidates
            },
        )
        for number in range(COUNT)
    ]


def costs(times: dict[str, float], wrong: dict[str, int]) -> list[CandidateCost]:
    candidates = [one for one in list_candidates(10) if one.name in times]
    return measure_costs(candidates, records(candidates, times, wrong))


def test_the_cheapest_within_the_limit_of_loss_is_chosen() -> None:
    times = {EXACT: 1.0, "8 steps": 0.8, "5 steps": 0.5, "deep:every=3": 0.4}
    found = costs(times, {"8 steps": 0, "5 steps": 2, "deep:every=3": 20})
    chosen = choose_presets(found)
    assert {name: cost.candidate.name for name, cost in chosen.items()} == {
        "fast": "5 steps",
        "fastest": "deep:every=3",
    }
    preset = chosen["fastest"].to_preset("0" * 64)
    assert preset.cost is not None
    assert preset.cost.time == 0.4
    assert preset.cost.said == pytest.approx(-100 * 20 / COUNT, abs=0.01)
    assert preset.cost.said_interval is not None
    low, high = preset.cost.said_interval
    assert -10 < low < preset.cost.said < high < -2
    assert preset.cost.captions == COUNT


def test_a_candidate_that_is_not_surely_good_or_faster_is_left_out() -> None:
    times = {EXACT: 1.0, "8 steps": 1.1, "5 steps": 0.5}
    assert choose_presets(costs(times, {"8 steps": 0, "5 steps": 60})) == {}


def test_without_a_judge_the_distance_decides() -> None:
    candidates = [one for one in list_candidates(10) if one.name in (EXACT, "5 steps")]
    for distance, names in ((0.04, ["fast", "fastest"]), (0.08, ["fastest"]), (0.2, [])):
        found = [
            CaptionRecord(
                caption="a cat",
                images={
                    EXACT: CandidateRecord(seconds=1.0, rows=20, distance=0.0),
                    "5 steps": CandidateRecord(seconds=0.5, rows=10, distance=distance),
                },
            )
        ] * 3
        chosen = choose_presets(measure_costs(candidates, found))
        assert [*chosen] == names
        assert all(cost.rows == 0.5 for cost in chosen.values())


def test_candidates_are_drawn_from_one_noise_and_judged(tmp_path: Path) -> None:
    context = tiny_context(tmp_path)
    context.pipe.notes = '{"defaults": {"steps": 2}}'
    candidates = [one for one in list_candidates(2) if one.name in (EXACT, "deep:every=3")]
    same = Candidate("the same", candidates[0].preset)
    part = TuningPart([*candidates, same], context, 2, tmp_path, judges=True)
    assert part.list_unit_keys() == ["0", "1"]
    found = [CaptionRecord.model_validate(part.measure_unit(key)) for key in ("0", "1")]
    for record in found:
        assert record.images["the same"].distance == 0
        assert record.images["deep:every=3"].distance > 0
        assert record.images[EXACT].rows == 2 * context.steps
        assert record.images[EXACT].right.keys() >= {"everything", "nothing_else"}
    assert found[0].caption != found[1].caption


def test_the_candidates_have_few_steps_for_a_distilled_lora_alone() -> None:
    plain, with_lora = list_candidates(10), list_candidates(10, PresetLora(path="a.safetensors"))
    assert [one.name for one in with_lora[: len(plain)]] == [one.name for one in plain]
    added = with_lora[len(plain) :]
    assert [one.preset.steps for one in added] == [2, 4, 8]
    assert {(one.preset.sampler, one.preset.guidance_scale) for one in added} == {("lcm", 1.0)}
    assert all(one.preset.loras for one in added)
    assert all((one.preset.steps or 1) < 10 for one in plain)
    assert list_candidates(1)[0].name == EXACT
