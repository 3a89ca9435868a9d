"""Pictures with a class for each pixel, of Pascal VOC and COCO, read where a user has them.

H W size of a picture.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from t2i.errors import DataError
from t2i.pictures import opening_picture_as_stored
from t2i.safe_reading import CAPTION_TABLE_KIND, parse_json, read_text
from t2i.validation_errors import describe_first_validation_error

BACKGROUND, VOID = 0, 255
"""Labels of what is of no class, and of pixels that no figure counts."""
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa"),
    *("train", "television"),
)
"""Classes of Pascal VOC in the order of its labels, from 1, in words that a prompt can have."""
Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SegmentedPicture:
    """Picture of a data set, and the class of each of its pixels.

    key : its name in the data set
    read_labels : returns (H, W): BACKGROUND, the number of a class from 1, or VOID
    """

    key: str
    path: Path
    read_labels: Callable[[], Labels]


@dataclass(frozen=True, slots=True)
class SegmentedPictures:
    """Pictures of a data set with a class for each pixel, and its classes in words."""

    classes: Sequence[str]
    pictures: Sequence[SegmentedPicture]


def read_voc(folder: Path, split: str) -> SegmentedPictures:
    """Read the segmentations of Pascal VOC (Everingham et al. 2010), a folder such as VOC2012.

    split : name of a list in ImageSets/Segmentation, such as "val"
    Raises DataError for another folder, and for pictures of the list that are missing.
    """
    listed = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    for path in (folder / "JPEGImages", folder / "SegmentationClass", listed):
        if not path.exists():
            raise DataError(
                f"{folder} is no Pascal VOC with segmentations: {path.relative_to(folder)} is "
                "missing. Give the folder VOCdevkit/VOC2012 of its archive, and a split that it "
                "has."
            )
    keys = read_text(listed, CAPTION_TABLE_KIND.copy_with_noun("list of pictures")).split()
    pictures = []
    for key in keys:
        path, mask = folder / "JPEGImages" / f"{key}.jpg", folder / "SegmentationClass"
        mask /= f"{key}.png"
        for file in (path, mask):
            if Path(key).name != key or not file.is_file():
                raise DataError(f"{listed} names {key!r:.80}, and {file} is missing.")
        pictures.append(SegmentedPicture(key, path, partial(read_voc_labels, mask)))
    return SegmentedPictures(VOC_CLASSES, _check_not_empty(listed, pictures))


def read_voc_labels(path: Path) -> Labels:
    """Return the labels (H, W) of one of Pascal VOC's palette pictures.

    Raises DataError for a picture of colours, and for a label that is no class.
    """
    with opening_picture_as_stored(path) as mask:
        if mask.mode not in ("P", "L"):
            raise DataError(
                f"{path} has colours (mode {mask.mode}), expected a palette picture whose indices "
                "are the classes, as Pascal VOC's SegmentationClass has them."
            )
        labels_HW = np.array(mask, dtype=np.uint8)
    known = labels_HW[labels_HW != VOID]
    if known.size and known.max() > len(VOC_CLASSES):
        raise DataError(
            f"{path} has the label {known.max()}, and Pascal VOC has {len(VOC_CLASSES)} classes."
        )
    return labels_HW


def _check_plain_name(name: str) -> str:
    if Path(name).name != name:
        raise ValueError("expected the name of a file, without folders")
    return name


class CocoPicture(BaseModel):
    """Entry of "images" in a file of COCO's instances."""

    model_config = ConfigDict(frozen=True)

    id: int
    file_name: Annotated[str, AfterValidator(_check_plain_name)]
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]


class CocoRunLengths(BaseModel):
    """Run lengths of a region, column by column, of background and region in turn."""

    model_config = ConfigDict(frozen=True)

    counts: tuple[Annotated[int, Field(ge=0)], ...]


class CocoRegion(BaseModel):
    """Entry of "annotations" in a file of COCO's instances: one thing, or a crowd of them.

    segmentation : polygons, each x, y, x, y, ...; or run lengths
    """

    model_config = ConfigDict(frozen=True)

    image_id: int
    category_id: int
    segmentation: tuple[tuple[float, ...], ...] | CocoRunLengths = Field(repr=False)
    area: float = 0.0
    iscrowd: int = 0


class CocoCategory(BaseModel):
    """Entry of "categories" in a file of COCO's instances."""

    model_config = ConfigDict(frozen=True)

    id: int
    name: str


class CocoInstances(BaseModel):
    """File of COCO's instances, of which other keys are not read."""

    model_config = ConfigDict(frozen=True)

    images: tuple[CocoPicture, ...]
    annotations: tuple[CocoRegion, ...]
    categories: tuple[CocoCategory, ...]


def read_coco(folder: Path, split: str) -> SegmentedPictures:
    """Read the instances of COCO (Lin et al. 2014) as a class for each pixel.

    split : such as "val2017": its pictures are in a folder of that name, its regions in
        annotations/instances_val2017.json. Pictures without a region are left out.
    Raises DataError for another folder, a file of another format, and missing pictures.

    Of regions that overlap the smaller one counts; crowds are VOID. Polygons are drawn by Pillow,
    which differs from COCO's own tool along their edges.
    """
    path = folder / "annotations" / f"instances_{split}.json"
    for file in (path, folder / split):
        if not file.exists():
            raise DataError(
                f"{folder} is no COCO: {file.relative_to(folder)} is missing. Give the folder with "
                "annotations/ and the pictures of the split, such as val2017/."
            )
    try:
        text = read_text(path, CAPTION_TABLE_KIND.copy_with_noun("file of instances"))
        instances = CocoInstances.model_validate(parse_json(text))
    except ValidationError as error:
        raise DataError(
            f"{path} is laid out otherwise than COCO's instances: "
            f"{describe_first_validation_error(error)}."
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}.") from error
    numbers = {one.id: number for number, one in enumerate(instances.categories, start=1)}
    if len(numbers) >= VOID:
        raise DataError(f"{path} has {len(numbers)} categories, expected fewer than {VOID}.")
    regions: dict[int, list[CocoRegion]] = {}
    for region in instances.annotations:
        if region.category_id not in numbers:
            raise DataError(f"{path} has a region of the unknown category {region.category_id}.")
        regions.setdefault(region.image_id, []).append(region)
    pictures = []
    for one in instances.images:
        file = folder / split / one.file_name
        if one.id not in regions:
            continue
        if not file.is_file():
            raise DataError(f"{path} names {one.file_name!r:.80}, and {file} is missing.")
        own = sorted(regions[one.id], key=lambda region: -region.area)
        pictures.append(_coco_picture(one, own, numbers, path, file))
    names = [one.name for one in instances.categories]
    return SegmentedPictures(names, _check_not_empty(path, pictures))


def _coco_picture(
    one: CocoPicture,
    regions: Sequence[CocoRegion],
    numbers: Mapping[int, int],
    path: Path,
    file: Path,
) -> SegmentedPicture:
    def read_labels() -> Labels:
        labels = Image.new("L", (one.width, one.height), BACKGROUND)
        for region in regions:
            value = VOID if region.iscrowd else numbers[region.category_id]
            try:
                draw_coco_region(labels, region, value)
            except ValueError as error:
                raise DataError(f"{path}: a region of {one.file_name!r:.80}: {error}.") from error
        return np.array(labels, dtype=np.uint8)

    return SegmentedPicture(Path(one.file_name).stem, file, read_labels)


def draw_coco_region(labels: Image.Image, region: CocoRegion, value: int) -> None:
    """Draw a region of COCO into a picture of labels. Raises ValueError for one that fits none."""
    if isinstance(region.segmentation, CocoRunLengths):
        counts = np.array(region.segmentation.counts, dtype=np.int64)
        if counts.sum() != labels.width * labels.height:
            raise ValueError(
                f"its run lengths have {counts.sum()} pixels, and the picture "
                f"{labels.width * labels.height}"
            )
        inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        mask_HW = inside.reshape(labels.width, labels.height).T
        labels.paste(value, mask=Image.fromarray(mask_HW.astype(np.uint8) * 255))
        return
    for polygon in region.segmentation:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon has {len(polygon)} numbers, expected pairs of x and y")
        ImageDraw.Draw(labels).polygon([*zip(polygon[::2], polygon[1::2], strict=True)], value)


def _check_not_empty(path: Path, pictures: list[Any]) -> list[Any]:
    if not pictures:
        raise DataError(f"{path} names no picture with a segmentation.")
    return pictures


READERS: dict[str, Callable[[Path, str], SegmentedPictures]] = {"voc": read_voc, "coco": read_coco}
"""Kind of a data set -> reader of the pictures of a split from its folder."""
DEFAULT_SPLITS = {"voc": "val", "coco": "val2017"}
