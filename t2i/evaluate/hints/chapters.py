"""Report of the part "hints": does the picture obey the hint, and do the words still count."""

from collections.abc import Mapping, Sequence

from t2i.evaluate.hints.conditions import COMPOSED, NO_HINT
from t2i.evaluate.hints.records import HintedPictureRecord
from t2i.evaluate.report.chapter import Block, Cell, Chapter, Estimate, Gallery, Table
from t2i.evaluate.report.statistics import (
    mean_with_bootstrap_interval,
    paired_difference,
    proportion_with_interval,
)

PLACE_HEAD, LESS_HEAD = "place IoU", "everything, less no hint"
CRITERION_HEADS = {
    "one": "one object",
    "each": "each of several objects",
    "background": "background",
    "colour": "colour",
    "everything": "everything said",
}
"""Criterion of the judge -> its column head."""
GALLERY_SCENES = 6
"""Scenes whose pictures under all conditions are shown."""
PicturesByCondition = Mapping[str, Sequence[HintedPictureRecord]]


def build_hint_chapter(
    pictures: PicturesByCondition, hint_files: Sequence[tuple[str, str]], sampling: str, hint: str
) -> Chapter:
    """Return the report chapter of the evaluation of control hints: a table of all conditions and a
    gallery of their pictures.

    pictures : label of a condition -> its pictures, in the order of the scenes
    hint_files : file and caption of the first scenes' hints
    sampling : how the pictures were sampled; hint : the kind of hint
    """
    heads = [PLACE_HEAD, *CRITERION_HEADS.values(), LESS_HEAD]
    table = Table(
        name="hints",
        title=f"Places and words ({hint}, {sampling})",
        heads=heads,
        rows=[(label, build_condition_cells(label, pictures)) for label in pictures],
        units=dict.fromkeys(heads, "%") | {LESS_HEAD: "points"},
        better=dict.fromkeys(heads, "higher"),
    )
    blocks: list[Block] = [table, build_gallery(pictures, hint_files)]
    return Chapter(
        name="hints",
        title="Hints",
        text="Captions of scenes are drawn with a control that reads the exact hint of the scene. "
        "Place IoU: for each object of the scene, the intersection over union of the pixels that "
        "it covers there and those where the recogniser finds it in the picture; 0 if it does not. "
        "The other columns are those of the generation part: what the caption says is there. "
        "Composed scenes are what no model can exceed with this judge. Without a hint, and with "
        "the hint of another scene, the place IoU is what chance gives. All conditions have the "
        "same captions and the same noise.",
        blocks=blocks,
    )


def build_condition_cells(label: str, pictures: PicturesByCondition) -> list[Cell]:
    """Return the table cells of one condition of the hint evaluation: the mean IoU of objects'
    places, the share met of each criterion, and the difference to no hint.
    """
    own = pictures[label]
    ious = [iou for picture in own for iou in picture.ious.values()]
    everything = estimate_criterion(own, "everything")
    less: Estimate | None = None
    if label not in (COMPOSED, NO_HINT):
        less = paired_difference(everything, estimate_criterion(pictures[NO_HINT], "everything"))
    shares = [estimate_criterion(own, criterion) for criterion in CRITERION_HEADS]
    return [mean_with_bootstrap_interval(ious), *shares, less]


def estimate_criterion(pictures: Sequence[HintedPictureRecord], criterion: str) -> Estimate | None:
    """Return the share of results of one caption criterion that are True over the pictures of a
    condition, with its interval; None if there are no results.
    """
    return proportion_with_interval(
        [flag for picture in pictures for flag in picture.list_criterion_results(criterion)]
    )


def build_gallery(pictures: PicturesByCondition, hint_files: Sequence[tuple[str, str]]) -> Gallery:
    """Return the gallery of the hint evaluation: for each of the first scenes its control hint and
    its picture under every condition.
    """
    shown: list[tuple[str, str]] = []
    for number, hint in enumerate(hint_files):
        shown.append(hint)
        shown += [(several[number].file, label) for label, several in pictures.items()]
    return Gallery("hint_pictures", "The first scenes", shown, columns=1 + len(pictures))
