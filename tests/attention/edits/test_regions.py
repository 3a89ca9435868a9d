"""Regions: words are raised inside their boxes and masks, and hidden outside.

H W size of a site, S tokens of a word, Q positions.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from t2i.attention import Region, Regions, attend
from t2i.errors import ArgumentError
from tests.attention.edits.drawn import SOURCE, difference, drawn

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
CAT = [Region(words="cat", box=LEFT)]
FIRST = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (64, 48), (1, 1), (3, 16)])
@pytest.mark.parametrize("box", [(0.0, 0.0, 0.5, 1.0), (0.13, 0.27, 0.71, 0.62), (0.5, 0.5, 1, 1)])
def test_a_box_covers_its_own_area_at_any_size(size: tuple[int, int], box: tuple) -> None:
    inside_HW = Region(words="cat", box=box).compute_coverage(size, feather=0.0)
    left, top, right, bottom = box
    area = (right - left) * (bottom - top)
    assert inside_HW.shape == size
    assert abs(inside_HW.mean().item() - area) < 1e-6
    assert 0 <= inside_HW.min() <= inside_HW.max() <= 1 + 1e-6


def test_a_cell_that_is_cut_counts_in_part() -> None:
    inside_HW = Region(words="cat", box=(0.0, 0.0, 0.3, 1.0)).compute_coverage((2, 4), feather=0.0)
    torch.testing.assert_close(inside_HW, torch.tensor([[1.0, 0.2, 0.0, 0.0]] * 2))


def test_a_mask_is_what_a_box_is() -> None:
    pixels = torch.zeros(96, 120)
    pixels[24:72, 30:90] = 1
    box = Region(words="cat", box=(0.25, 0.25, 0.75, 0.75))
    picture = Image.fromarray((pixels * 255).byte().numpy())
    clear = Image.new("RGB", picture.size, "white")  # as paint on a clear layer is saved
    clear.putalpha(picture)
    for mask in (pixels, pixels.bool(), pixels[None], picture, picture.convert("RGB"), clear):
        region = Region(words="cat", mask=mask)
        for size in ((8, 8), (12, 10), (96, 120)):
            assert torch.equal(region.compute_coverage(size, 0.0), box.compute_coverage(size, 0.0))
        soft, expected = region.compute_coverage((8, 8), 0.2), box.compute_coverage((8, 8), 0.2)
        torch.testing.assert_close(soft, expected, atol=0.02, rtol=0)


def test_a_feathered_edge_is_a_ramp_around_its_place() -> None:
    across_W = Region(words="cat", box=LEFT).compute_coverage((1, 20), feather=0.2)[0]
    torch.testing.assert_close(across_W[:8], torch.ones(8))
    torch.testing.assert_close(across_W[12:], torch.zeros(8))
    torch.testing.assert_close(across_W[8:12], torch.tensor([0.875, 0.625, 0.375, 0.125]))


def test_the_edge_of_the_picture_is_no_edge() -> None:
    whole = Region(words="cat", box=(0, 0, 1, 1)).compute_coverage((6, 9), feather=0.5)
    assert torch.equal(whole, torch.ones(6, 9))


def word_maps(pipe, edit: Regions | None, word: str, **call: object) -> torch.Tensor:
    """The probability of a word where the text is first looked at, (H, W)."""
    with attend(pipe) as attn:
        maps = attn.probe(word, sites=FIRST, convention="mean")
        if edit is not None:
            attn.edit(edit)
        options = {"num_inference_steps": 1, "output_type": "latent", **call}
        pipe(SOURCE, generator=torch.Generator().manual_seed(1), **options)
    return maps.site_map(word, FIRST)


@pytest.mark.parametrize("size", [{}, {"height": 32, "width": 64}])
def test_a_phrase_is_raised_inside_and_hidden_outside(pipe, size: dict[str, int]) -> None:
    edit = Regions([Region(words="red apple", box=LEFT)], strength=2.0, feather=0.0)
    for word in ("red", "apple"):
        plain_HW = word_maps(pipe, None, word, **size)
        edited_HW = word_maps(pipe, edit, word, **size)
        half = edited_HW.shape[1] // 2
        assert (edited_HW[:, :half] > 2 * plain_HW[:, :half]).all()
        assert (edited_HW[:, half:] < plain_HW[:, half:] / 2).all()


def test_great_strength_is_a_wall(pipe) -> None:
    edit = Regions([Region(words="cat", box=RIGHT)], strength=100.0, feather=0.0)
    map_HW = word_maps(pipe, edit, "cat")
    assert map_HW[:, :4].max() < 1e-40
    assert map_HW[:, 4:].min() > 0.999


def test_words_of_no_region_are_free(pipe) -> None:
    seen = []

    class Noting(Regions):
        def compute_bias(self, call):
            seen.append((call, super().compute_bias(call)))
            return seen[-1][1]

    regions = [Region(words="apple", box=LEFT), Region(words=("red", "cat"), box=RIGHT)]
    drawn(pipe, Noting(regions, strength=2.0, feather=0.0, target=0))
    call, bias_PT = seen[0]
    places = {
        word: list(call.prompt_tokens.find_word_token_positions(0, word))
        for word in ("apple", "red", "cat")
    }
    held = sorted(place for span in places.values() for place in span)
    free = [place for place in range(call.text_length) if place not in held]
    assert not bias_PT[:, free].any()
    bias_HWT = bias_PT.unflatten(0, call.site.size)
    assert (bias_HWT[:, :4][..., places["apple"]] == 2).all()
    assert (bias_HWT[:, 4:][..., places["apple"]] == -2).all()
    assert torch.equal(bias_PT[:, places["red"]], -bias_PT[:, places["apple"]])


def test_a_word_of_two_regions_is_raised_in_both(pipe) -> None:
    corners = [(0, 0, 0.25, 0.25), (0.75, 0.75, 1, 1)]
    edit = Regions([Region(words="cat", box=box) for box in corners], feather=0.0)
    plain_HW, edited_HW = word_maps(pipe, None, "cat"), word_maps(pipe, edit, "cat")
    raised = edited_HW > plain_HW
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:2, :2] = expected[6:, 6:] = True
    assert torch.equal(raised, expected)


def test_other_prompts_keep_their_pictures_and_no_strength_changes_nothing(pipe) -> None:
    regions = [Region(words="cat", box=LEFT)]
    plain = drawn(pipe)
    edited = drawn(pipe, Regions(regions, target=1))
    assert torch.equal(edited[0], plain[0])
    assert (edited[1] - plain[1]).abs().max() > 1e-3
    same = drawn(pipe, Regions(regions, target=1, strength=0.0))
    assert torch.equal(same, plain), difference(same, plain)


def test_equal_regions_are_equal_and_masks_are_kept_as_they_were() -> None:
    mask = torch.rand(5, 6)
    first, second = (Region(words="cat", mask=mask) for _ in range(2))
    assert first == second
    mask.zero_()
    assert first == second
    assert np.asarray(first.mask).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": "cat"}, "The region of cat has neither of box and mask"),
        ({"words": "cat", "box": LEFT, "mask": torch.ones(2, 2)}, "cat has both of box and mask"),
        ({"words": (), "box": LEFT}, r"Got words=\(\), expected a word of the prompt"),
        ({"words": "cat", "box": (0, 0, 64, 64)}, "pixels are divided by its width and height"),
        ({"words": "cat", "box": (0.5, 0, 0.5, 1)}, "expected left < right"),
        ({"words": "cat", "box": "left"}, "Got box='left', expected four numbers"),
        ({"words": "cat", "mask": torch.full((2, 2), 3.0)}, "values from 3 to 3, expected"),
        ({"words": "cat", "mask": torch.ones(4)}, r"Got a mask of shape \(4,\)"),
        ({"words": "cat", "mask": torch.ones(0, 4)}, r"an empty mask of shape \(0, 4\)"),
        ({"words": "cat", "mask": "mask.png"}, "Got a mask of type str, expected a PIL picture"),
    ],
)
def test_regions_that_cannot_be_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Region(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regions": Region(words="cat", box=LEFT)}, "expected a list of them"),
        ({"regions": CAT, "strength": -1.0}, r"Got strength=-1.0, expected 0 \(off\) to 100"),
        ({"regions": CAT, "feather": float("nan")}, r"Got feather=nan, expected 0 \(off\) to 1"),
        ({"regions": CAT, "strength": "much"}, "Got strength='much', expected a number"),
    ],
)
def test_edits_that_cannot_be_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Regions(**arguments)


def test_unknown_words_are_told(pipe) -> None:
    with pytest.raises(ArgumentError, match=r"'cart' is not in the prompt. Nearest: cat"):
        drawn(pipe, Regions([Region(words="cart", box=LEFT)]))
