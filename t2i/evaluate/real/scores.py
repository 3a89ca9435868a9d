"""Scores of an edited picture against the source's own pixels and the composed target.

H W size of the pictures, F features, h w size of the feature maps.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from t2i.evaluate.editing.records import DECIMALS, build_pixel_similarity_record
from t2i.evaluate.editing.scores import (
    compute_self_similarity,
    fulfils_target_prompt,
    is_edit_successful,
    measure_pixel_similarity,
)
from t2i.evaluate.real.picture_pairs import PicturePair
from t2i.evaluate.real.records import PictureEditScores
from t2i.scenes.recognised_objects import Recognition


@dataclass(frozen=True, slots=True)
class RecognisedPicture:
    """Picture with its recognised objects and its caption score for the target's prompt."""

    picture: Image.Image
    recognition: Recognition
    caption_score: float | None


def score_picture(
    pair: PicturePair, source_seen: Recognition, judged: RecognisedPicture
) -> PictureEditScores:
    """Score an edited or baseline picture of a pair against the pair's source and target.

    source_seen : recognised objects of the pair's source
    """
    seen = judged.recognition
    kept = measure_pixel_similarity(pair.source, judged.picture, pair.kept_HW)
    whole_HW = np.ones_like(pair.kept_HW)
    whole = measure_pixel_similarity(pair.target, judged.picture, whole_HW)
    assert whole is not None
    structure = compute_kept_structure_distance(source_seen.features, seen.features, pair.kept_HW)
    return PictureEditScores(
        success=is_edit_successful(pair.prompts, source_seen, seen),
        everything=fulfils_target_prompt(pair.prompts, seen),
        kept=None if kept is None else build_pixel_similarity_record(kept),
        kept_structure=None if structure is None else round(structure, DECIMALS),
        target=build_pixel_similarity_record(whole),
        fit=None if judged.caption_score is None else round(judged.caption_score, DECIMALS),
    )


def compute_kept_structure_distance(
    one_Fhw: NDArray[np.float32], other_Fhw: NDArray[np.float32], kept_HW: NDArray[np.bool_]
) -> float | None:
    """Return the structure distance of two feature maps (F, h, w) over the kept positions.

    As t2i.evaluate.editing.scores.compute_structure_distance; None where fewer than two positions
    lie in the mask with all their pixels.
    """
    changed_11HW = torch.from_numpy(~kept_HW).float()[None, None]
    changed_hw = functional.adaptive_max_pool2d(changed_11HW, one_Fhw.shape[1:])[0, 0]
    kept_P = changed_hw.flatten() == 0
    if int(kept_P.sum()) < 2:
        return None
    one_PP, other_PP = (
        compute_self_similarity(torch.from_numpy(side))[kept_P][:, kept_P]
        for side in (one_Fhw, other_Fhw)
    )
    return float((one_PP - other_PP).square().mean())
