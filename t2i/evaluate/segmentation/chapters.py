"""Report of the part "segmentation": a table of the methods, one of the classes, and a gallery."""

from collections.abc import Sequence
from statistics import fmean

from t2i.evaluate.report.chapter import Block, Cell, Chapter, Estimate, Gallery, Table
from t2i.evaluate.report.statistics import mean_with_bootstrap_interval
from t2i.evaluate.segmentation.records import SegmentedPictureRecord, compute_iou_by_class
from t2i.terminal import plural

GALLERY_SIZE = 12
SET_TITLES = {"voc": "Pascal VOC", "coco": "COCO"}
HEADS = ("mIoU", "mIoU without background", "pixel accuracy")


def build_chapters(
    records: Sequence[SegmentedPictureRecord], kind: str, split: str, titles: dict[str, str]
) -> list[Chapter]:
    """Build the report chapter of the part "segmentation" from the records of all pictures.

    titles : method -> title of its row
    """
    rows: list[tuple[str, Sequence[Cell]]] = []
    ious = {
        method: compute_iou_by_class([record.methods[method] for record in records])
        for method in titles
    }
    for method, title in titles.items():
        of_words = [iou for name, iou in ious[method].items() if name != "background"]
        own = [record.methods[method] for record in records]
        accuracy = [one.correct / one.counted if one.counted else None for one in own]
        count = len(records)
        rows.append(
            (
                title,
                [
                    Estimate(fmean(ious[method].values()), count=count),
                    Estimate(fmean(of_words), count=count) if of_words else None,
                    mean_with_bootstrap_interval(accuracy),
                ],
            )
        )
    names = sorted({name for found in ious.values() for name in found})
    by_class: list[tuple[str, Sequence[Cell]]] = [
        (
            name,
            [
                None if name not in ious[method] else Estimate(ious[method][name])
                for method in titles
            ],
        )
        for name in names
    ]
    percent = dict.fromkeys(HEADS, "%")
    heads = tuple(titles.values())
    blocks: list[Block] = [
        Table(
            "segmentation",
            f"All classes: {plural(len(records), 'picture')}",
            HEADS,
            rows,
            percent,
            dict.fromkeys(HEADS, "higher"),
        ),
        Table(
            "segmentation_classes",
            "Intersection over union by class",
            heads,
            by_class,
            dict.fromkeys(heads, "%"),
            dict.fromkeys(heads, "higher"),
        ),
        Gallery(
            "segmentation_first",
            "The first pictures: the picture, the truth, and the methods in the table's order",
            [(one.file, ", ".join(one.words)) for one in records[:GALLERY_SIZE]],
            columns=1,
        ),
    ]
    text = (
        f"The pictures of {SET_TITLES[kind]}, {split}, segmented by the heat maps of the words of "
        "the classes that are in them, as methods without training are compared in print: the "
        "picture is noised, the prompt names its classes, and each pixel has the word with the "
        "highest heat map there, or none below the convention's threshold. mIoU is the mean over "
        "classes and background of the intersection over union, over the pixels of all pictures "
        "together; void pixels do not count. Nothing is chosen on these pictures."
    )
    return [Chapter("segmentation", f"Segmentation of {SET_TITLES[kind]}", text, blocks)]
