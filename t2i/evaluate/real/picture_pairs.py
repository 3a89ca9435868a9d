"""Pairs of composed pictures: one to edit, and the one that its edit should lead to.

H W size of the pictures.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2i.errors import ArgumentError
from t2i.evaluate.editing.pairs import (
    CHANGE_TITLES,
    MAX_SCENES_TRIED,
    PAIR_BUILDERS,
    ChangeKind,
    PromptPair,
    build_nth_prompt_pair,
)
from t2i.evaluate.editing.scores import DILATION_SHARE, dilate_mask
from t2i.scenes.held_out import load_held_out_combinations
from t2i.scenes.layout import SceneLayout, render_picture_and_masks
from t2i.scenes.scenes import SceneDataset
from t2i.scenes.sprites import BACKGROUND_COLOURS

Split = Literal["seen", "held_out"]
STRENGTHENED_SIDE_FACTOR = 1.1
"""Factor of a strengthened object's side in the target picture; for "small" its inverse."""


@dataclass(frozen=True, slots=True, eq=False)
class PicturePair:
    """Pair of composed pictures: the source, the target that an edit should lead to, and a mask.

    prompts : captions of both, which are the prompts of the edit
    kept_HW : pixels that the edit should leave as they are
    """

    prompts: PromptPair
    source: Image.Image
    target: Image.Image
    kept_HW: NDArray[np.bool_]


def build_nth_picture_pair(scenes: SceneDataset, kind: ChangeKind, number: int) -> PicturePair:
    """Return the picture pair with this number for a kind of change: a rendered picture to edit,
    and the one that the edit should lead to.

    Of scenes of held-out combinations the target shows one. Raises ArgumentError if none of
    MAX_SCENES_TRIED scenes can be changed so.
    """
    held_out = scenes.config.split == "held_out"
    find = build_unseen_combination_prompt_pair if held_out else build_nth_prompt_pair
    return render_picture_pair(find(scenes, kind, number), scenes.config.size)


def build_unseen_combination_prompt_pair(
    scenes: SceneDataset, kind: ChangeKind, number: int
) -> PromptPair:
    """Return the prompt pair with this number for a kind of change, whose target shows a
    combination of objects or colours that training never shows.

    An object is swapped or recoloured so that a combination arises that the source has not;
    another background stands behind one that both have.
    """
    for attempt in range(MAX_SCENES_TRIED):
        index = number * MAX_SCENES_TRIED + attempt
        found = PAIR_BUILDERS[kind](scenes, scenes.compose_layout(index), f"{kind}/{index}")
        if found is None:
            continue
        if kind not in ("swap", "recolour"):
            return found
        back = reverse_prompt_pair(found)
        if makes_held_out_combination(back):
            return back
    raise ArgumentError(
        f"None of {MAX_SCENES_TRIED} scenes can be changed in {CHANGE_TITLES[kind]!r} to a "
        f"held-out combination of {', '.join(scenes.vocabulary)}: leave out that kind of edit."
    )


def reverse_prompt_pair(pair: PromptPair) -> PromptPair:
    """Return a prompt pair with source and target exchanged, so that its edit leads from the target
    to the source.
    """
    return replace(
        pair,
        source=pair.target,
        target=pair.source,
        source_word=pair.target_word,
        target_word=pair.source_word,
    )


def makes_held_out_combination(pair: PromptPair) -> bool:
    """Return True if the changed object of a prompt pair makes a combination that is held out from
    training: with another object for a swap, with its new colour for a recolour.
    """
    assert pair.object_index is not None
    placed = pair.target.objects[pair.object_index]
    if pair.kind == "recolour":
        return (placed.name, placed.colour) in load_held_out_combinations().colours
    pairs = {frozenset((placed.name, other)) for other in pair.unchanged_object_names}
    return placed.colour is None and bool(pairs & load_held_out_combinations().pairs)


def render_picture_pair(pair: PromptPair, size: int) -> PicturePair:
    """Render the source scene of a prompt pair and the scene that the edit should lead to, `size`
    pixels wide and high; return both pictures as a PicturePair.
    """
    source, source_masks = render_picture_and_masks(pair.source, size)
    target, target_masks = render_picture_and_masks(build_expected_target_layout(pair), size)
    by = math.ceil(DILATION_SHARE * size)
    if pair.object_index is None:
        objects_HW = np.any(source_masks, axis=0)
        kept_HW = ~dilate_mask(~objects_HW, by)
    else:
        changing_HW = source_masks[pair.object_index] | target_masks[pair.object_index]
        kept_HW = ~dilate_mask(changing_HW, by)
    return PicturePair(pair, Image.fromarray(source), Image.fromarray(target), kept_HW)


def build_expected_target_layout(pair: PromptPair) -> SceneLayout:
    """Return the scene layout of the picture that the edit of a prompt pair should lead to.

    A new background has the old one's shade, in its own colour; a strengthened object another size.
    """
    target = pair.target
    if pair.strengthened_word is not None:
        assert pair.object_index is not None
        placed = target.objects[pair.object_index]
        factor = (
            STRENGTHENED_SIDE_FACTOR
            if pair.strengthened_word == "large"
            else 1 / STRENGTHENED_SIDE_FACTOR
        )
        objects = list(target.objects)
        objects[pair.object_index] = replace(placed, side=min(1.0, placed.side * factor))
        return replace(target, objects=tuple(objects))
    before, after = (
        BACKGROUND_COLOURS[pair.source.background],
        BACKGROUND_COLOURS[target.background],
    )
    red, green, blue = (
        tint + new - old for tint, new, old in zip(pair.source.tint, after, before, strict=True)
    )
    return replace(target, tint=(red, green, blue))
