"""What the recogniser reads out of its maps, and what can be said of it.

K labels, h w places.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from t2i.errors import ModelError
from t2i.scenes.recognised_objects import OWN_COLOUR, RecognisedObject, Recognition, Relation
from t2i.scenes.recogniser import (
    Recogniser,
    RecogniserLabels,
    RecogniserOutput,
    build_recogniser_labels,
)

LABELS = build_recogniser_labels(("apple", "cat"), ("white", "red"), ("green",))


@pytest.fixture
def recogniser() -> Recogniser:
    torch.manual_seed(0)
    return Recogniser(LABELS, 32, (8, 16)).eval()


def telling(recogniser: Recogniser, kinds_hw: Tensor, colours_hw: Tensor) -> Recogniser:
    """A recogniser that says the same of every picture."""
    kinds_Khw = torch.nn.functional.one_hot(kinds_hw, LABELS.class_count).permute(2, 0, 1) * 20.0
    colours_Khw = (
        torch.nn.functional.one_hot(colours_hw, len(LABELS.colours)).permute(2, 0, 1) * 20.0
    )
    features_Fhw = torch.arange(16.0)[:, None, None].expand(-1, 4, 4)
    said = RecogniserOutput(kinds_Khw[None], colours_Khw[None], features_Fhw[None])
    recogniser.forward = lambda pixels: said  # type: ignore[method-assign]
    return recogniser


def test_channels_are_objects_something_backgrounds() -> None:
    assert RecogniserLabels(("apple", "cat"), ("white", "red"), (OWN_COLOUR, "green")) == LABELS
    assert (LABELS.unknown_index, LABELS.class_count) == (2, 5)


def test_objects_of_other_names_are_not_found(recogniser: Recogniser) -> None:
    kinds_hw = torch.zeros(8, 8, dtype=torch.long)  # an apple all over
    heard = telling(recogniser, kinds_hw, kinds_hw)
    [seen] = heard.recognise([Image.new("RGB", (64, 64))], ("cat",))
    assert "apple" not in seen.objects
    assert seen.object_scores["apple"] == 0


def test_objects_are_read_from_the_maps(recogniser: Recogniser) -> None:
    kinds_hw = torch.full((8, 8), 4)  # red all over
    kinds_hw[2:4, 4:8] = 1  # a cat at the right
    kinds_hw[6:8, 0:2] = 2  # a thing without a name
    colours_hw = torch.zeros(8, 8, dtype=torch.long)
    colours_hw[2:4, 4:8] = 1
    picture = Image.new("RGB", (64, 64))
    [seen] = telling(recogniser, kinds_hw, colours_hw).recognise([picture])

    assert list(seen.objects) == ["cat"]
    cat = seen.objects["cat"]
    assert cat.colour == "green"
    assert cat.mask.shape == (64, 64)
    assert cat.mask[16:32, 36:].mean() > 0.9
    assert cat.mask[40:].sum() == 0
    assert cat.share == pytest.approx(cat.mask.mean())
    assert cat.centre == pytest.approx((0.75, 0.375), abs=0.02)
    assert seen.background == "red"
    assert seen.unknown_share == pytest.approx(1 / 16, abs=0.02)
    assert seen.mean_features == pytest.approx(np.arange(16))


def test_specks_are_no_objects(recogniser: Recogniser) -> None:
    kinds_hw = torch.full((16, 16), 3)
    kinds_hw[0, 0] = 0
    [seen] = telling(recogniser, kinds_hw, torch.zeros(16, 16, dtype=torch.long)).recognise(
        [Image.new("RGB", (64, 64))]
    )
    assert seen.objects == {}
    assert seen.background == "white"


def test_pictures_of_any_size_and_mode_are_looked_at_one_by_one_or_together(
    recogniser: Recogniser,
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    pictures = [Image.fromarray(noise), Image.new("L", (20, 20), 90)]
    together = recogniser.recognise(pictures)
    for picture, seen in zip(pictures, together, strict=True):
        [alone] = recogniser.recognise([picture])
        np.testing.assert_allclose(alone.mean_features, seen.mean_features, atol=1e-5)
        assert alone.objects.keys() == seen.objects.keys()
        for found in seen.objects.values():
            assert found.mask.shape == (picture.height, picture.width)
    assert recogniser.recognise([]) == []


def test_what_is_saved_is_loaded(recogniser: Recogniser, tmp_path: Path) -> None:
    recogniser.save(tmp_path, {"trained": {"steps": 3}}, torch.float32)
    again = Recogniser.load(tmp_path)
    assert again.labels == LABELS
    noise = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(noise).class_logits_BKhw, recogniser(noise).class_logits_BKhw)
    assert not any(weight.requires_grad for weight in again.parameters())


def test_a_broken_folder_is_named(recogniser: Recogniser, tmp_path: Path) -> None:
    recogniser.save(tmp_path, {})
    config = (tmp_path / "recogniser.json").read_text()
    (tmp_path / "recogniser.json").write_text(config.replace('"cat"', '"cat", "dog"'))
    with pytest.raises(ModelError, match=f"No recogniser can be loaded from {tmp_path}"):
        Recogniser.load(tmp_path)
    (tmp_path / "recogniser.json").write_text(config)
    (tmp_path / "recogniser.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=f"No recogniser can be loaded from {tmp_path}"):
        Recogniser.load(tmp_path)


def seen_with(**centres: tuple[float, float]) -> Recognition:
    nothing = np.zeros((4, 4), dtype=np.bool_)
    objects = {
        name: RecognisedObject(name, 0.1, centre, OWN_COLOUR, nothing)
        for name, centre in centres.items()
    }
    empty = np.zeros(0, dtype=np.float32)
    return Recognition(objects, "white", 0.0, empty, empty)


@pytest.mark.parametrize(
    ("relation", "holds"), [("left", True), ("right", False), ("above", False), ("below", True)]
)
def test_relations_are_read_from_the_centres(relation: Relation, holds: bool) -> None:
    seen = seen_with(cat=(0.3, 0.7), dog=(0.6, 0.4))
    assert seen.has_relation("cat", relation, "dog") is holds
    assert seen.has_relation("dog", relation, "cat") is not holds


def test_what_is_not_there_stands_nowhere() -> None:
    seen = seen_with(cat=(0.3, 0.7), dog=(0.32, 0.4))
    assert not seen.has_relation("cat", "left", "car")
    assert not seen.has_relation("cat", "left", "dog"), "hardly apart"
    assert seen.has_colour("cat", OWN_COLOUR)
    assert not seen.has_colour("cat", "green")
    assert not seen.has_colour("car", OWN_COLOUR)
