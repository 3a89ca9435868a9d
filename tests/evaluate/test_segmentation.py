"""Pascal VOC and COCO in miniature: read by path, segmented by heat maps, and reported."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from t2i.errors import DataError
from t2i.evaluate.report.chapter import Estimate, Gallery, Table
from t2i.evaluate.segmentation.datasets import VOC_CLASSES, VOID, read_coco, read_voc
from t2i.evaluate.segmentation.part import (
    ALL_BACKGROUND,
    SegmentationConfig,
    SegmentationPart,
    build_prompt,
    find_word_ranges,
    to_class_numbers,
)
from t2i.evaluate.segmentation.records import compute_iou_by_class, measure_overlap
from t2i.evaluate.suite import read_suite_config
from tests.evaluate.tiny_context import tiny_context

CAT, DOG = VOC_CLASSES.index("cat") + 1, VOC_CLASSES.index("dog") + 1
WIDTH, HEIGHT = 24, 16


def save_photo(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (*size[::-1], 3))
    Image.fromarray(noise.astype(np.uint8)).save(path)


def save_mask(path: Path, labels_HW: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(labels_HW.astype(np.uint8), "L").convert("P")
    mask.putpalette([value for value in range(256) for _ in range(3)])
    mask.putdata(labels_HW.flatten().tolist())
    mask.save(path)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Two pictures: a cat and a dog with a void border, and a picture of nothing."""
    folder = tmp_path / "VOC2012"
    labels_HW = np.zeros((HEIGHT, WIDTH))
    labels_HW[2:8, 2:10], labels_HW[4:14, 14:20], labels_HW[0] = CAT, DOG, VOID
    for key, one in (("2007_000033", labels_HW), ("2007_000042", np.zeros((HEIGHT, WIDTH)))):
        save_photo(folder / "JPEGImages" / f"{key}.jpg")
        save_mask(folder / "SegmentationClass" / f"{key}.png", one)
    listed = folder / "ImageSets" / "Segmentation" / "val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("2007_000033\n2007_000042\n")
    return folder


def instances() -> dict[str, Any]:
    """A cat of two polygons under a small dog, and a crowd in run lengths, column by column."""
    crowd_HW = np.zeros((HEIGHT, WIDTH), dtype=bool)
    crowd_HW[12:, :4] = True
    flat = crowd_HW.T.flatten()
    cuts = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), len(flat)]
    counts = np.diff(cuts).tolist()
    image = {"id": 7, "file_name": "000000000007.jpg", "height": HEIGHT, "width": WIDTH}
    return {
        "info": {"year": 2017},
        "images": [image, image | {"id": 8, "file_name": "000000000008.jpg"}],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
        "annotations": [
            {
                "image_id": 7,
                "category_id": 18,
                "segmentation": [[4, 4, 7, 4, 7, 7, 4, 7]],
                "area": 9.0,
            },
            {
                "image_id": 7,
                "category_id": 17,
                "segmentation": [[2, 2, 10, 2, 10, 8, 2, 8], [14, 2, 20, 2, 20, 8, 14, 8]],
                "area": 96.0,
            },
            {
                "image_id": 7,
                "category_id": 17,
                "segmentation": {"counts": counts, "size": [HEIGHT, WIDTH]},
                "area": 16.0,
                "iscrowd": 1,
            },
        ],
    }


def write_coco(folder: Path, tree: Mapping[str, Any]) -> Path:
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(tree))
    for one in (7, 8):
        save_photo(folder / "val2017" / f"{one:012}.jpg")
    return folder


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco", instances())


def test_voc_is_read_by_its_list(voc: Path) -> None:
    data = read_voc(voc, "val")
    assert [one.key for one in data.pictures] == ["2007_000033", "2007_000042"]
    labels_HW = data.pictures[0].read_labels()
    assert labels_HW.shape == (HEIGHT, WIDTH)
    assert set(np.unique(labels_HW)) == {0, CAT, DOG, VOID}
    assert (labels_HW == CAT).sum() == 48
    assert data.classes[DOG - 1] == "dog"


def test_coco_s_polygons_and_run_lengths_become_labels(coco: Path) -> None:
    data = read_coco(coco, "val2017")
    (picture,) = data.pictures  # the other has no region
    assert picture.key == "000000000007"
    labels_HW = picture.read_labels()
    assert data.classes == ["cat", "dog"]
    assert labels_HW[5, 5] == 2, "the smaller region counts"
    assert labels_HW[3, 3] == labels_HW[5, 16] == 1
    assert labels_HW[5, 12] == 0
    assert (labels_HW == VOID).sum() == 16
    assert (labels_HW[12:, :4] == VOID).all()


def test_overlaps_are_counted_over_all_pictures_without_void() -> None:
    truth_HW = np.array([[0, 0, 8, 8], [0, VOID, 8, 12]])
    labels_HW = np.array([[0, 8, 8, 8], [0, 8, 0, 0]])
    one = measure_overlap(labels_HW, truth_HW, VOC_CLASSES)
    assert one.counted == 7
    assert one.correct == 4
    assert one.overlaps == {"background": (2, 5), "cat": (2, 4), "dog": (0, 1)}
    other = measure_overlap(np.full((2, 4), 8), np.full((2, 4), 8), VOC_CLASSES)
    ious = compute_iou_by_class([one, other])
    assert ious == {"background": 2 / 5, "cat": 10 / 12, "dog": 0.0}


def test_words_become_the_numbers_of_their_classes() -> None:
    labels_HW = torch.tensor([[-1, 0], [1, -1]])
    assert to_class_numbers(labels_HW, [CAT, DOG]).tolist() == [[0, CAT], [DOG, 0]]
    assert build_prompt(["dog", "aeroplane"]) == "a photo of a dog and an aeroplane"


def test_a_class_within_another_s_name_is_found_where_it_stands_alone() -> None:
    for words in (["dog", "hot dog"], ["hot dog", "dog"], ["bear", "teddy bear"]):
        prompt = build_prompt(words)
        ranges = find_word_ranges(prompt, words)
        assert [prompt[slice(*one)] for one in ranges] == words
        assert ranges[0][1] < ranges[1][0]


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_pictures_are_segmented_and_reported(
    kind: str, voc: Path, coco: Path, tmp_path: Path
) -> None:
    folder = {"voc": voc, "coco": coco}[kind]
    context = tiny_context(tmp_path / "pictures")
    config = SegmentationConfig.model_validate(
        {"kind": kind, "folder": str(folder), "levels": (0.5,), "conventions": ("default", "mean")}
    )
    part = SegmentationPart(config, context)
    records = {unit: part.measure_unit(unit) for unit in part.list_unit_keys()}
    assert records == {unit: part.measure_unit(unit) for unit in records}, "the same each time"
    first = next(iter(records.values()))
    assert first["words"] == ["cat", "dog"]
    methods = first["methods"]
    counted = {"voc": HEIGHT * WIDTH - WIDTH, "coco": HEIGHT * WIDTH - 16}[kind]
    assert {one["counted"] for one in methods.values()} == {counted}
    none = methods[ALL_BACKGROUND]
    assert none["overlaps"]["background"] == [none["correct"], counted]
    assert none["overlaps"]["cat"][0] == 0
    assert methods["default"]["overlaps"] != none["overlaps"]
    assert {"cat", "dog"} <= methods["default"]["overlaps"].keys()

    (chapter,) = part.build_chapters(records)
    table, classes, gallery = chapter.blocks
    assert isinstance(table, Table)
    assert [title for title, _ in table.rows] == [
        *("our default", "mean of the probabilities", "control: no word anywhere")
    ]
    for _, (miou, *_) in table.rows:
        assert isinstance(miou, Estimate)
        assert 0 <= miou.value <= 1
    assert isinstance(classes, Table)
    assert [name for name, _ in classes.rows] == ["background", "cat", "dog"]
    assert isinstance(gallery, Gallery)
    assert len(gallery.pictures) == {"voc": 2, "coco": 1}[kind]


def test_a_suite_names_the_folder(voc: Path, tmp_path: Path) -> None:
    toml = tmp_path / "voc.toml"
    toml.write_text(f'[segmentation]\nkind = "voc"\nfolder = "{voc}"\ncount = 1\n')
    config = read_suite_config(str(toml), quick=False).segmentation
    assert config is not None
    assert config.used_split == "val"
    assert [*SegmentationPart(config, tiny_context(tmp_path)).pictures_by_key] == ["2007_000033"]


# refused


def test_folders_that_are_no_data_set_are_refused(voc: Path, coco: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no Pascal VOC with segmentations: JPEGImages is missing"):
        read_voc(coco, "val")
    with pytest.raises(DataError, match=r"ImageSets.Segmentation.train.txt is missing"):
        read_voc(voc, "train")
    with pytest.raises(DataError, match=r"is no COCO: annotations.instances_val2017.json is miss"):
        read_coco(voc, "val2017")
    (voc / "ImageSets/Segmentation/val.txt").write_text("\n")
    with pytest.raises(DataError, match="names no picture with a segmentation"):
        read_voc(voc, "val")


@pytest.mark.parametrize("key", ["2007_000099", "../2007_000033"])
def test_pictures_that_a_list_names_and_the_folder_lacks_are_refused(voc: Path, key: str) -> None:
    (voc / "ImageSets/Segmentation/val.txt").write_text(f"{key}\n")
    with pytest.raises(DataError, match=r"val.txt names .* is missing"):
        read_voc(voc, "val")


def test_masks_that_are_none_are_refused(voc: Path, tmp_path: Path) -> None:
    mask = voc / "SegmentationClass" / "2007_000033.png"
    picture = read_voc(voc, "val").pictures[0]
    save_photo(mask)
    with pytest.raises(DataError, match=r"has colours \(mode RGB\), expected a palette picture"):
        picture.read_labels()
    save_mask(mask, np.full((HEIGHT, WIDTH), 21))
    with pytest.raises(DataError, match="has the label 21, and Pascal VOC has 20 classes"):
        picture.read_labels()
    save_mask(mask, np.full((HEIGHT, 7), CAT))
    config = SegmentationConfig(kind="voc", folder=str(voc))
    with pytest.raises(DataError, match="has 24 x 16 pixels, and its segmentation 7 x 16"):
        SegmentationPart(config, tiny_context(tmp_path)).measure_unit("2007_000033")


def change_region(**changes: Any) -> dict[str, Any]:
    tree = instances()
    tree["annotations"][0] |= changes
    return tree


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([], r"laid out otherwise than COCO's instances"),
        ({"images": []}, r"laid out otherwise than COCO's instances: .*annotations"),
        (change_region(category_id=5), "a region of the unknown category 5"),
        (change_region(segmentation="abc"), r"laid out otherwise than COCO's instances"),
        (instances() | {"annotations": []}, "names no picture with a segmentation"),
        (
            instances() | {"images": [instances()["images"][0] | {"file_name": "../7.jpg"}]},
            r"expected the name of a file, without folders",
        ),
        (
            instances() | {"images": [instances()["images"][0] | {"file_name": "9.jpg"}]},
            r"names '9.jpg', and .* is missing",
        ),
    ],
)
def test_files_of_another_format_are_refused(tree: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_coco(write_coco(tmp_path / "coco", tree), "val2017")


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3, 4]], "a polygon has 4 numbers, expected pairs of x and y"),
        ({"counts": [3, 4]}, r"its run lengths have 7 pixels, and the picture 384"),
    ],
)
def test_regions_that_fit_no_picture_are_refused(
    segmentation: Any, message: str, tmp_path: Path
) -> None:
    folder = write_coco(tmp_path / "coco", change_region(segmentation=segmentation))
    (picture,) = read_coco(folder, "val2017").pictures
    with pytest.raises(DataError, match=message):
        picture.read_labels()


def test_a_file_that_is_no_json_is_refused(coco: Path) -> None:
    (coco / "annotations" / "instances_val2017.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        read_coco(coco, "val2017")
