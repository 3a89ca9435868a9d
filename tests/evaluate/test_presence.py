"""The fit of `HeatMaps.found`: its regression, its measures, and the command from end to end."""

from pathlib import Path

import numpy as np
import pytest

from t2i.attention.probes.presence import PRESENCE_FEATURES, compute_attention_fingerprint
from t2i.errors import DataError
from t2i.evaluate.presence import logistic_regression
from t2i.evaluate.presence.chapters import (
    build_chapters,
    build_reliability_points,
    build_roc_points,
    compute_probabilities,
)
from t2i.evaluate.presence.fitting import fit_presence
from t2i.evaluate.presence.logistic_regression import (
    RIDGE,
    choose_threshold,
    compute_area_under_roc,
    fit_logistic_regression,
    sigmoid,
)
from t2i.evaluate.presence.part import CONVENTIONS, HeatMapPresenceConfig, HeatMapPresencePart
from t2i.evaluate.presence.records import PresenceSamples, WordRecord, collect_samples
from t2i.evaluate.report.chapter import Plot, Table
from t2i.evaluate.scene_splits import SceneSplitConfig
from t2i.evaluate.suite import list_seeds_of_all_suites
from tests.evaluate.tiny_context import tiny_context

FEW = HeatMapPresenceConfig(
    fit=SceneSplitConfig(seed=81, count=3),
    seen=SceneSplitConfig(seed=82, count=2),
    held_out=SceneSplitConfig(seed=83, count=1),
    batch=2,
)


def samples_around(shift: float, count: int = 4000) -> PresenceSamples:
    """Presence follows the logistic function of the feature "top" exactly."""
    draws = np.random.default_rng(5)
    words = []
    for _ in range(count):
        values = dict(zip(PRESENCE_FEATURES, draws.normal(size=3), strict=True))
        is_there = bool(draws.random() < sigmoid(np.array(shift + 2 * values["top"])))
        words.append(WordRecord(name="cat", features={"default": values}, is_there=is_there))
    return PresenceSamples(np.array([word.is_there for word in words]), tuple(words))


def test_the_regression_meets_its_equation_and_the_truth() -> None:
    samples = samples_around(1.0)
    features_WF = samples.stack_features("default", PRESENCE_FEATURES)
    fitted = fit_logistic_regression(features_WF, samples.is_there_W)
    # the gradient of the penalised likelihood is 0
    probs_W = fitted.compute_probabilities(features_WF)
    standard_WF = (features_WF - fitted.mean_F) / fitted.deviation_F
    ridge_F = RIDGE * len(probs_W) * fitted.weight_F
    assert np.abs(standard_WF.T @ (probs_W - samples.is_there_W) + ridge_F).max() < 1e-6
    assert abs((probs_W - samples.is_there_W).sum()) < 1e-6
    slopes = fitted.weight_F / fitted.deviation_F
    assert slopes == pytest.approx([2.0, 0.0, 0.0], abs=0.15)
    assert fitted.intercept - slopes @ fitted.mean_F == pytest.approx(1.0, abs=0.15)


def test_features_that_separate_the_samples_still_give_finite_weights() -> None:
    features_WF = np.array([[0.0, 7.0], [0.1, 7.0], [0.9, 7.0], [1.0, 7.0]])
    fitted = fit_logistic_regression(features_WF, np.array([False, False, True, True]))
    probs_W = fitted.compute_probabilities(features_WF)
    assert np.isfinite(fitted.weight_F).all()
    assert fitted.weight_F[1] == 0  # a constant says nothing
    assert (probs_W[:2] < 0.1).all()
    assert (probs_W[2:] > 0.9).all()


@pytest.mark.parametrize(("flag", "state"), [(True, "there"), (False, "missing")])
def test_samples_that_are_all_alike_cannot_be_fitted(flag: bool, state: str) -> None:
    with pytest.raises(DataError, match=f"All 3 samples are {state}"):
        fit_logistic_regression(np.zeros((3, 1)), np.full(3, flag))


def test_a_fit_that_does_not_converge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = samples_around(1.0)
    features_WF = samples.stack_features("default", PRESENCE_FEATURES)
    with monkeypatch.context() as patches:
        patches.setattr(logistic_regression, "MAX_ITERATIONS", 2)
        with pytest.raises(DataError, match=r"did not converge in 2 iterations: its last one"):
            fit_logistic_regression(features_WF, samples.is_there_W)
    features_WF[3, 0] = np.nan
    with pytest.raises(DataError, match=r"changed a weight by nan\. Look for heat maps"):
        fit_logistic_regression(features_WF, samples.is_there_W)


def test_threshold_and_area_are_those_of_probabilities_known_by_heart() -> None:
    probs_W = np.array([0.1, 0.4, 0.5, 0.8, 0.9, 0.3])
    there_W = np.array([False, False, True, True, True, True])
    assert compute_area_under_roc(probs_W, there_W) == 7 / 8
    assert choose_threshold(probs_W, there_W, 0.05) == 0.3
    assert choose_threshold(probs_W, there_W, 0.25) == 0.5
    assert compute_area_under_roc(probs_W, np.ones(6, dtype=bool)) is None
    points = dict(build_roc_points(probs_W, there_W))
    assert points[0.0].value == 0.5  # at 0.3
    assert points[0.3].value == 1.0  # at 0.5
    reliability = build_reliability_points(probs_W, there_W)
    assert [at for at, _ in reliability] == [0.1, 0.3, 0.45, 0.8, 0.9]
    assert [one.value for _, one in reliability] == [0.0, 1.0, 0.5, 1.0, 1.0]


def test_a_fit_of_what_follows_the_formula_is_reliable() -> None:
    class Nothing:
        unet = text_encoder = None

    fit = fit_presence(Nothing(), samples_around(1.0), ["default"])
    others = samples_around(1.0, 1500)
    (chapter,) = build_chapters(fit, {"seen": others})
    probs_W = compute_probabilities(fit.conventions["default"], others, "default")
    assert abs(probs_W.mean() - others.is_there_W.mean()) < 0.05
    table, reliability, roc = chapter.blocks
    assert isinstance(table, Table)
    assert isinstance(reliability, Plot)
    assert isinstance(roc, Plot)
    for at, share in reliability.lines["default, seen"]:
        assert abs(share.value - at) < 0.12
    noticed = [one.value for _, one in roc.lines["default, seen"]]
    assert noticed == sorted(noticed)
    cells = dict(zip(table.heads, table.rows[0][1], strict=True))
    assert 0.02 < cells["false alarms"].value < 0.09  # type: ignore[union-attr]


def test_its_seeds_belong_to_no_suite_and_differ() -> None:
    config = HeatMapPresenceConfig()
    seeds = {config.fit.seed, config.seen.seed, config.held_out.seed}
    assert len(seeds) == 3
    assert not seeds & list_seeds_of_all_suites()


def test_the_part_measures_each_word_of_each_caption_the_same_again(tmp_path: Path) -> None:
    context = tiny_context(tmp_path)
    part = HeatMapPresencePart(FEW, context)
    assert part.list_unit_keys() == ["fit/0", "fit/2", "seen/0", "held_out/0"]
    records = {unit: part.measure_unit(unit) for unit in ("fit/2", "fit/0")}
    assert HeatMapPresencePart(FEW, context).measure_unit("fit/2") == records["fit/2"]
    samples = collect_samples(records, "fit")
    scenes = part.scenes_by_split["fit"]
    counts = [len(scenes.compose_layout(number).caption.mentions) for number in range(3)]
    assert len(samples.words) == sum(counts)
    for word in samples.words:
        assert word.features.keys() == set(CONVENTIONS)
        for features in word.features.values():
            assert features.keys() == PRESENCE_FEATURES.keys()
            assert 0 < features["top"] <= 1
    assert compute_attention_fingerprint(context.pipe) != compute_attention_fingerprint(object())
