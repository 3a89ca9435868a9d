"""Which word is at a position: `HeatMaps.words_at`, `HeatMaps.segment`."""

import numpy as np
import pytest
import torch
from PIL import Image

from t2i.attention import attend
from t2i.attention.probes.segmentation import NO_WORD, label_positions, rank_words_at
from t2i.errors import ArgumentError
from tests.attention.runs import CAT, draw, ours
from tests.tiny import tiny_sd_components

MAPS = {
    "cat": torch.tensor([[1.0, 0.6, 0.1, 0.0]]),
    "sofa": torch.tensor([[0.2, 0.7, 1.0, 0.3]]),
}


def test_each_position_has_the_word_of_the_highest_map_or_none():
    labels = label_positions(MAPS, 0.5)
    assert labels.labels_HW.tolist() == [[0, 1, 1, NO_WORD]]
    assert labels.words == ("cat", "sofa")
    assert labels.mask("sofa").tolist() == [[False, True, True, False]]
    assert [labels.share(one) for one in ("cat", "sofa", None)] == [0.25, 0.5, 0.25]


def test_the_words_at_a_position_come_highest_first():
    assert [word for word, _ in rank_words_at(MAPS, 0.0, 0.0)] == ["cat", "sofa"]
    ((first, value), _) = rank_words_at(MAPS, 0.3, 1.0)  # the second of four columns
    assert (first, value) == ("sofa", pytest.approx(0.7))
    assert rank_words_at(MAPS, 1.0, 1.0)[0][0] == "sofa"  # the edge belongs to the last column


def test_a_run_is_segmented_as_its_masks_say():
    pipe = ours(**tiny_sd_components())
    for convention in ("default", "daam", "mean"):
        with attend(pipe) as attn:
            maps = attn.probe("red apple", "cat", convention=convention)
            draw(pipe, CAT)
        labels = maps.segment()
        either = maps.mask("red apple") | maps.mask("cat")
        assert torch.equal(labels.labels_HW != NO_WORD, either)
        for word in maps:
            assert not (labels.mask(word) & ~maps.mask(word)).any()
            across, down = maps.peak(word)
            assert dict(maps.words_at(across, down))[word] == 1
        assert maps.segment(1.0).share(None) > maps.segment(0.0).share(None) == 0


def test_labels_take_the_size_of_the_picture_and_are_drawn_over_it():
    labels = label_positions(MAPS, 0.5, (32, 64))
    assert labels.labels_HW.shape == (32, 64)
    picture = Image.new("RGB", (64, 32), (90, 90, 90))
    drawn = np.asarray(labels.draw(picture))
    assert (drawn[(labels.labels_HW == NO_WORD).numpy()] == 90).all()
    assert (drawn[labels.mask("cat").numpy()] != 90).any(axis=1).all()
    assert labels.draw().size[0] >= 256
    assert labels.sheet(picture).height > labels.draw(picture).height  # with the legend


@pytest.mark.parametrize(("x", "y", "named"), [(1.2, 0, "x=1.2"), (0, -1, "y=-1"), (7, 7, "x=7")])
def test_a_position_outside_the_image_is_refused(x, y, named):
    with pytest.raises(ArgumentError, match=f"Got {named}: a position lies within the image"):
        rank_words_at(MAPS, x, y)


def test_thresholds_and_words_that_cannot_be_are_refused():
    with pytest.raises(ArgumentError, match=r"threshold=1\.5"):
        label_positions(MAPS, 1.5)
    with pytest.raises(ArgumentError, match=r"No label of 'sofas'.*sofa"):
        label_positions(MAPS, 0.5).mask("sofas")
