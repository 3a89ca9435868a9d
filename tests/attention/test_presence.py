"""Is the thing that a word names in the picture: `HeatMaps.found`."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import Concept, HeatMaps, WeightWords, attend
from t2i.attention.probes import presence
from t2i.attention.probes.presence import (
    PRESENCE_FEATURES,
    PresenceFit,
    RunModel,
    compute_attention_fingerprint,
    judge_presence,
    measure_presence_features,
    parse_presence_fit,
    store_presence_fit,
)
from t2i.cli.request.digests import compute_model_digest
from t2i.denoiser.caches import GatedCrossAttention
from t2i.denoiser.loading.model_location import PRESENCE_FILE
from t2i.errors import ModelError
from tests.attention.runs import CAT, draw, ours
from tests.tiny import tiny_sd_components

TERMS = {name: {"mean": 0.1, "deviation": 0.5, "weight": 2.0} for name in PRESENCE_FEATURES}
REGRESSION = {"terms": TERMS, "intercept": 0.3, "threshold": 0.4}


def fitted_text(pipe: TextToImagePipeline, **changes: object) -> str:
    values = {
        "weights": compute_attention_fingerprint(pipe),
        "conventions": {"default": REGRESSION},
    }
    return PresenceFit.model_validate(values | changes).model_dump_json()


def probe(pipe: TextToImagePipeline, **options: object) -> HeatMaps:
    with attend(pipe) as attn:
        maps = attn.probe("cat", "red apple", **options)
        draw(pipe, CAT)
    return maps


def test_features_are_those_of_a_map_known_by_heart():
    map_HW = torch.zeros(5, 8)
    map_HW[0, :4] = torch.tensor([1.0, 0.8, 0.5, 0.2])
    found = measure_presence_features(map_HW)
    values = [1.0, 0.8, 0.5, 0.2]
    mean = sum(values) / 40
    deviation = math.sqrt(sum(value**2 for value in values) / 40 - mean**2)
    expected = {"top": 0.9, "deviation": deviation, "area": 3 / 40}
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_probability_is_the_logistic_function_of_the_features():
    pipe = ours(**tiny_sd_components())
    store_presence_fit(pipe.unet, fitted_text(pipe))
    maps = probe(pipe)
    found = maps.found("cat")
    features = measure_presence_features(maps.unscaled("cat"))
    logit = 0.3 + sum(2.0 * (value - 0.1) / 0.5 for value in features.values())
    assert found.probability == pytest.approx(1 / (1 + math.exp(-logit)))
    assert found.score == pytest.approx(features["top"])
    assert found.is_missing is (found.probability < 0.4)
    assert not found.remark
    above = fitted_text(pipe, conventions={"default": REGRESSION | {"threshold": 1.0}})
    store_presence_fit(pipe.unet, above)
    assert maps.found("cat").is_missing is True


@pytest.mark.parametrize("edit_first", [True, False])
def test_a_probability_under_edits_says_that_its_fit_saw_none(edit_first):
    pipe = ours(**tiny_sd_components())
    store_presence_fit(pipe.unet, fitted_text(pipe))
    plain = probe(pipe).found("cat")

    def found_under(weight):
        edit = WeightWords(target=0, weights={"cat": weight})
        with attend(pipe) as attn:
            if edit_first:
                attn.edit(edit)
            maps = attn.probe("cat")
            if not edit_first:
                attn.edit(edit)
            draw(pipe, CAT)
        return maps.found("cat")

    assert found_under(1.0) == plain
    found = found_under(3.0)
    assert found.probability != plain.probability
    assert found.remark.startswith("The image was made under edits (WeightWords), of which")


@pytest.mark.parametrize("edited", [False, True])
def test_a_probability_of_a_run_with_a_cache_says_that_its_fit_saw_none(edited):
    pipe = ours(**tiny_sd_components())
    store_presence_fit(pipe.unet, fitted_text(pipe))
    with attend(pipe) as attn:
        if edited:
            attn.edit(WeightWords(target=0, weights={"cat": 3.0}))
        maps = attn.probe("cat")
        draw(pipe, CAT, cache=[GatedCrossAttention(after=1)])
        cached = maps.found("cat").remark
        draw(pipe, CAT)
        plain = maps.found("cat").remark
    start = "The image was made under edits (WeightWords) and" if edited else "The image was made"
    assert cached.startswith(f"{start} with a cache (cross:after=1), of which the presence fit has")
    assert "cache" not in plain


def test_a_model_without_a_fit_has_a_score_alone_and_says_so():
    found = probe(ours(**tiny_sd_components())).found("red apple")
    assert found.probability is None
    assert found.is_missing is None
    assert 0 < found.score <= 1
    assert "no presence fit" in found.remark
    assert "t2i.evaluate.presence.fit" in found.remark


def test_a_fit_of_other_weights_gives_no_probability():
    pipe = ours(**tiny_sd_components())
    store_presence_fit(pipe.unet, fitted_text(pipe))
    maps = probe(pipe)
    with torch.no_grad():
        next(pipe.unet.parameters()).add_(1e-3)
    found = maps.found("cat")
    assert found.probability is None
    assert "for other weights" in found.remark


def test_the_weights_of_a_run_are_read_once_for_all_its_words(monkeypatch):
    pipe = ours(**tiny_sd_components())
    store_presence_fit(pipe.unet, fitted_text(pipe))
    read = []

    def count(pipe):
        read.append(pipe)
        return compute_attention_fingerprint(pipe)

    monkeypatch.setattr(presence, "compute_attention_fingerprint", count)
    with attend(pipe) as attn:
        maps = attn.probe("cat", "red apple")
        draw(pipe, CAT, num_images_per_prompt=2)
        assert not read  # a run that nobody asks costs nothing
        found = [one.found(word) for one in (maps, maps.for_image(1)) for word in maps]
        assert len(read) == 1
        assert all(one.probability is not None for one in found)
        with torch.no_grad():
            next(pipe.unet.parameters()).add_(1e-3)
        draw(pipe, CAT)
        changed = [maps.found(word) for word in maps]
    assert len(read) == 2
    assert all("for other weights" in one.remark for one in changed)


def test_a_fit_is_for_whole_probes_of_its_conventions_and_the_prompts_words():
    pipe = ours(**tiny_sd_components())
    store_presence_fit(pipe.unet, fitted_text(pipe))
    assert "conventions default, not for mean" in probe(pipe, convention="mean").found("cat").remark
    assert "at all steps, sites" in probe(pipe, sites="up_blocks").found("cat").remark
    with attend(pipe) as attn:
        maps = attn.probe("cat", Concept("dog"))
        draw(pipe, CAT)
    assert maps.found("cat").probability is not None
    assert "prompt's own words" in maps.found("dog").remark
    assert maps.found("dog").probability is None


def test_a_map_that_is_not_finite_has_no_probability():
    pipe = ours(**tiny_sd_components())
    store_presence_fit(pipe.unet, fitted_text(pipe))
    found = judge_presence("cat", torch.full((4, 4), torch.nan), "default", RunModel(pipe))
    assert found.probability is None
    assert "not finite" in found.remark


def test_a_fit_is_for_the_words_that_it_was_made_with():
    pipe = ours(**tiny_sd_components())
    store_presence_fit(pipe.unet, fitted_text(pipe, words=["cat", "dog"]))
    maps = probe(pipe)
    assert maps.found("cat").probability is not None
    unknown = maps.found("red apple")
    assert unknown.probability is None
    assert "not for 'red apple': cat, dog." in unknown.remark


def test_a_fit_is_saved_and_loaded_with_its_model(tmp_path: Path):
    pipe = ours(**tiny_sd_components())
    pipe.save_pretrained(tmp_path / "plain")
    before = compute_model_digest(tmp_path / "plain")
    (tmp_path / "plain" / PRESENCE_FILE).write_text(fitted_text(pipe), "utf-8")
    assert compute_model_digest(tmp_path / "plain") == before  # no picture depends on it
    loaded = TextToImagePipeline.from_pretrained(tmp_path / "plain")
    loaded.set_progress_bar_config(disable=True)
    loaded.save_pretrained(tmp_path / "again")
    again = TextToImagePipeline.from_pretrained(tmp_path / "again")
    again.set_progress_bar_config(disable=True)
    values: list[Tensor] = []
    for one in (loaded, again):
        found = probe(one).found("cat")
        assert found.probability is not None
        values.append(torch.tensor(found.probability))
    assert torch.equal(*values)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ('{"weights": "0", "conventions": {}}', "weights: String should match"),
        (
            '{"weights": "' + "0" * 64 + '", "conventions": {"default": {"terms": {"peak": {}}, '
            '"intercept": 0, "threshold": 0.5}}}',
            "Input should be 'top'",
        ),
    ],
)
def test_a_damaged_fit_is_refused(text: str, reason: str, tmp_path: Path):
    with pytest.raises(ModelError, match=reason):
        parse_presence_fit(text, tmp_path / PRESENCE_FILE)
