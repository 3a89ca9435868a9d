"""Two-object prompts: are both present, and in the stated relation, with each edit."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from t2i.attention import AttendAndExcite, Region, Regions, attend
from t2i.attention.edits.base.edit import Edit
from t2i.evaluate.editing.methods import NO_EDIT
from t2i.evaluate.editing.pairs import MAX_SCENES_TRIED, find_mention
from t2i.evaluate.editing.records import TwoObjectPromptRecord, build_pixel_similarity_record
from t2i.evaluate.editing.scores import measure_pixel_similarity
from t2i.evaluate.generation.judge import build_caption_statement, judge_by_statement
from t2i.evaluate.suite_part import EvaluationContext
from t2i.pictures import build_picture_grid
from t2i.scenes.layout import SceneLayout
from t2i.scenes.recognised_objects import Relation
from t2i.scenes.scenes import SceneDataset

if TYPE_CHECKING:
    from PIL import Image

ATTEND_AND_EXCITE, REGIONS = "AttendAndExcite", "Regions"
EDIT_NAMES = (ATTEND_AND_EXCITE, REGIONS)
VARIANTS = (NO_EDIT, *EDIT_NAMES)
FIRST_HALF, SECOND_HALF, MIDDLE_HALF = (0.02, 0.48), (0.52, 0.98), (0.25, 0.75)
"""Begin and end of a box along an axis: of two boxes side by side, and across to them."""


def find_nth_layout_relating_two_objects(scenes: SceneDataset, number: int) -> SceneLayout | None:
    """Return layout `number` with two objects whose caption states their relation, or None.

    It is the first of MAX_SCENES_TRIED scenes.
    """
    for index in range(number * MAX_SCENES_TRIED, (number + 1) * MAX_SCENES_TRIED):
        layout = scenes.compose_layout(index)
        if len(layout.objects) == 2 and layout.caption.relations:
            return layout
    return None


def measure_two_object_prompt(
    context: EvaluationContext, layout: SceneLayout, seed: int, name: str
) -> TwoObjectPromptRecord:
    """Generate pictures of a two-object prompt without an edit and with each edit, judge them by a
    recogniser and return the record.
    """
    pictures: list[Image.Image] = generate_with_each_edit(
        context, layout, VARIANTS, seed, context.steps
    )
    judged = [
        judge_by_statement(build_caption_statement(layout), seen)
        for seen in context.recogniser.recognise(pictures)
    ]
    everywhere = np.ones((pictures[0].height, pictures[0].width), dtype=np.bool_)
    whole = [measure_pixel_similarity(pictures[0], picture, everywhere) for picture in pictures]
    strip = build_picture_grid(pictures, VARIANTS, columns=len(VARIANTS)).convert("RGB")
    return TwoObjectPromptRecord(
        caption=layout.caption.text,
        both={one: right["both"][0] for one, right in zip(VARIANTS, judged, strict=True)},
        relation={one: right["relation"][0] for one, right in zip(VARIANTS, judged, strict=True)},
        whole={
            one: build_pixel_similarity_record(found)
            for one, found in zip(VARIANTS, whole, strict=True)
            if found
        },
        file=context.save_picture(name, strip),
    )


def generate_with_each_edit(
    context: EvaluationContext,
    layout: SceneLayout,
    names: Sequence[str],
    seed: int,
    steps: int,
    output_type: Literal["pil", "latent"] = "pil",
) -> Any:
    """Generate a two-object prompt once for each named edit, all from the same noise.

    Any other name, such as NO_EDIT, is generated without an edit. Returns PIL images, or latents
    (B, C, H, W).
    """
    with attend(context.pipe) as attn:
        for row, name in enumerate(names):
            if name in EDIT_NAMES:
                attn.edit(build_attend_and_excite_or_regions(name, layout, row))
        return context.pipe(
            [layout.caption.text] * len(names),
            num_inference_steps=steps,
            guidance_scale=context.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for _ in names],
            output_type=output_type,
            return_dict=False,
        )[0]


def build_attend_and_excite_or_regions(name: str, layout: SceneLayout, row: int) -> Edit:
    """Return the attention edit AttendAndExcite or Regions, by its name, for a two-object prompt in
    this row of the batch.
    """
    words = [find_mention(layout, index).word for index in (0, 1)]
    if name == ATTEND_AND_EXCITE:
        return AttendAndExcite(tuple(words), target=row)
    (subject, relation, other) = layout.caption.relations[0]
    boxes = {
        subject: compute_related_object_box(relation, first=True),
        other: compute_related_object_box(relation, first=False),
    }
    regions = [Region(words=words[index], box=boxes[index]) for index in (0, 1)]
    return Regions(regions, target=row)


def compute_related_object_box(
    relation: Relation, *, first: bool
) -> tuple[float, float, float, float]:
    """Return the box (left, top, right, bottom, as fractions of the picture) in which the subject
    (`first`) or the other object of a relation such as "left" should be drawn.
    """
    begins = (relation in ("left", "above")) == first
    low, high = FIRST_HALF if begins else SECOND_HALF
    if relation in ("left", "right"):
        return low, MIDDLE_HALF[0], high, MIDDLE_HALF[1]
    return MIDDLE_HALF[0], low, MIDDLE_HALF[1], high
