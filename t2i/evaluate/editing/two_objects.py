"""Two objects in one prompt: are both there, and where they should be, with help and without."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from t2i.attention import AttendAndExcite, Region, Regions, attend
from t2i.attention.edits.base.edit import Edit
from t2i.evaluate.editing.methods import NONE
from t2i.evaluate.editing.pairs import TRIES, mention_of
from t2i.evaluate.editing.records import TwoObjects, alike
from t2i.evaluate.editing.scores import kept
from t2i.evaluate.generation.judge import judge, said
from t2i.evaluate.suite_part import Bench
from t2i.pictures import picture_grid
from t2i.scenes.recognised_objects import Relation
from t2i.scenes.scenes import Layout, Scenes

EXCITED, PLACED = "AttendAndExcite", "Regions"
HELPED = (EXCITED, PLACED)
NAMES = (NONE, *HELPED)
FIRST, SECOND, ACROSS = (0.02, 0.48), (0.52, 0.98), (0.25, 0.75)
"""Sides of the boxes: two one after the other, and what they share."""


def layout_of_two(scenes: Scenes, number: int) -> Layout | None:
    """Of TRIES scenes the first whose caption says how two objects stand; None without one."""
    for index in range(number * TRIES, (number + 1) * TRIES):
        layout = scenes.layout(index)
        if len(layout.spots) == 2 and layout.caption.relations:
            return layout
    return None


def drawn_with_help(bench: Bench, layout: Layout, seed: int, name: str) -> TwoObjects:
    """The same noise without an edit, with both words excited, and with a region for each."""
    pictures: list[Image.Image] = drawn(bench, layout, NAMES, seed, bench.steps)
    told = [judge(said(layout), seen) for seen in bench.recogniser.look(pictures)]
    everywhere = np.ones((pictures[0].height, pictures[0].width), dtype=np.bool_)
    whole = [kept(pictures[0], picture, everywhere) for picture in pictures]
    strip = picture_grid(pictures, NAMES, columns=len(NAMES)).convert("RGB")
    return TwoObjects(
        caption=layout.caption.text,
        both={one: right["both"][0] for one, right in zip(NAMES, told, strict=True)},
        relation={one: right["relation"][0] for one, right in zip(NAMES, told, strict=True)},
        whole={one: alike(found) for one, found in zip(NAMES, whole, strict=True) if found},
        file=bench.keep(name, strip),
    )


def drawn(
    bench: Bench,
    layout: Layout,
    names: Sequence[str],
    seed: int,
    steps: int,
    output_type: Literal["pil", "latent"] = "pil",
) -> Any:
    """What the pipeline gives: the prompt once for each name, all from the same noise."""
    with attend(bench.pipe) as attn:
        for row, name in enumerate(names):
            if name in HELPED:
                attn.edit(edit_of(name, layout, row))
        return bench.pipe(
            [layout.caption.text] * len(names),
            num_inference_steps=steps,
            guidance_scale=bench.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for _ in names],
            output_type=output_type,
            return_dict=False,
        )[0]


def edit_of(name: str, layout: Layout, row: int) -> Edit:
    """Of the picture of that row."""
    words = [mention_of(layout, spot).word for spot in (0, 1)]
    if name == EXCITED:
        return AttendAndExcite(tuple(words), target=row)
    (subject, relation, other) = layout.caption.relations[0]
    boxes = {subject: box_of(relation, first=True), other: box_of(relation, first=False)}
    regions = [Region(words=words[spot], box=boxes[spot]) for spot in (0, 1)]
    return Regions(regions, target=row)


def box_of(relation: Relation, *, first: bool) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the one that stands so to the other, or of that other."""
    begins = (relation in ("left", "above")) == first
    low, high = FIRST if begins else SECOND
    if relation in ("left", "right"):
        return low, ACROSS[0], high, ACROSS[1]
    return ACROSS[0], low, ACROSS[1], high
