"""What reading all pictures tells, and the sheet of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train.data.making import COLOURS, folder_of, noise, plain
from train.data.pictures import Pictures
from train.data.pictures_config import PictureDatasetConfig
from train.data.sheets.contact_sheet import (
    CELL_SIDE,
    draw_contact_sheet,
    select_evenly_spaced_picture_indices,
)
from train.data.summary import BucketCount, SubsetCount


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    """Some of everything."""
    mine, prior, masks = tmp_path / "mine", tmp_path / "prior", tmp_path / "masks"
    folder_of(mine, "red", "green")  # 40x40 and 43x41
    noise(0, 100, 50).save(mine / "wide.png")
    (mine / "copy.png").write_bytes((mine / "00-red.png").read_bytes())
    plain("blue", 20, 20).save(mine / "small.png")
    cut = plain("cyan").convert("RGBA")
    cut.putalpha(0)
    cut.save(mine / "cut.png")
    (mine / "x.jpg").write_bytes(b"")
    masks.mkdir()
    plain("black").save(masks / "00-red.png")
    folder_of(prior, "gray")
    config = {
        "size": 32,
        "bucket_step": 8,
        "bad_share": 0.5,
        "subsets": [{"folder": mine, "masks": masks}, {"folder": prior, "prior": True}],
    }
    return Pictures(PictureDatasetConfig.model_validate(config))


def test_everything_that_was_found_is_told(pictures: Pictures, tmp_path: Path) -> None:
    told = pictures.build_summary()
    mine = f"{tmp_path}/mine"
    assert (told.found, told.trained, told.held_out, told.epoch) == (8, 7, 0, 12)
    assert told.sizes == [(20, 20), (40, 40), (100, 50)]
    assert told.subsets == [
        SubsetCount(mine, False, 6, 6),
        SubsetCount(f"{tmp_path}/prior", True, 1, 6),
    ]
    assert told.buckets == [BucketCount(40, 24, 1, 1), BucketCount(32, 32, 6, 11)]
    assert told.captions == 3
    ((name, reason),) = told.broken
    assert (name, reason[:8]) == (f"{mine}/x.jpg", "is empty")
    assert told.uncaptioned == [f"{mine}/{n}.png" for n in ("copy", "cut", "small", "wide")]
    assert told.unmasked == [f"{mine}/{n}.png" for n in ("01-green", "copy", "small", "wide")]
    assert told.odd_masks == [
        (f"{mine}/00-red.png", "is black all over, or clear: nothing of the picture counts")
    ]
    assert told.enlarged == [f"{mine}/small.png"]
    assert told.transparent == [f"{mine}/cut.png"]
    assert told.duplicates == [[f"{mine}/00-red.png", f"{mine}/copy.png"]]


def test_a_run_is_told_what_matters_to_it(pictures: Pictures, tmp_path: Path) -> None:
    told = pictures.build_summary()
    assert told.format_startup_lines(batch_size=4) == [
        "pictures 8: 7 to train on, 1 broken; 2 buckets",
        f"left out: {tmp_path}/mine/x.jpg: is empty; expected a PNG, JPEG, WebP or BMP picture: "
        "convert it",
        "fewer visits than a batch, so pictures repeat in it: 40x24",
        "without a caption: 4 pictures",
        f"mask of {tmp_path}/mine/00-red.png is black all over, or clear: nothing of the picture "
        "counts",
        "smaller than their bucket and enlarged: 1 picture",
    ]
    assert told.list_small_buckets(1) == []


def test_with_a_trigger_no_caption_is_missing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "red", captions=False)
    config = PictureDatasetConfig(folder=folder, size=32, bucket_step=8)
    assert Pictures(config).build_summary().uncaptioned == [f"{folder}/00-red.png"]
    config = config.model_copy(update={"trigger": "sks"})
    assert Pictures(config).build_summary().uncaptioned == []


def test_the_sheet_shows_pictures_as_the_model_sees_them(pictures: Pictures) -> None:
    wide = next(i for i in range(7) if pictures.picture_name(i).endswith("wide.png"))
    sheet = np.asarray(draw_contact_sheet(pictures, [wide, 1]))
    cells = [
        sheet[8 : 8 + CELL_SIDE, 8 + column * (CELL_SIDE + 8) :][:, :CELL_SIDE]
        for column in range(2)
    ]
    height = round(24 * CELL_SIDE / 40)
    shown = Image.fromarray(pictures.read_example(wide, wide).pixels)
    expected = shown.resize((CELL_SIDE, height), Image.Resampling.NEAREST)
    assert np.array_equal(cells[0][-height:], np.asarray(expected))
    assert (cells[0][:-height] == 255).all()
    assert (cells[1] == COLOURS["green"]).all()
    assert (sheet[8 + CELL_SIDE :] < 100).any()  # words


def test_what_the_loss_does_not_count_is_pale_on_the_sheet(pictures: Pictures) -> None:
    cell = np.asarray(draw_contact_sheet(pictures, [0]))[8 : 8 + CELL_SIDE, 8 : 8 + CELL_SIDE]
    assert cell.min() > 100
    assert len(np.unique(cell.reshape(-1, 3), axis=0)) == 2


def test_a_sheet_s_pictures_are_spread_over_all(pictures: Pictures) -> None:
    assert select_evenly_spaced_picture_indices(pictures, 3) == [0, 2, 4]
    assert select_evenly_spaced_picture_indices(pictures, 99) == list(range(7))
