"""Scores of a heat map against the mask of its object.

H W size of the picture, P its positions in descending order of heat.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from t2i.evaluate.optional_imports import explaining_missing_extra

THRESHOLDS = tuple(round(0.05 * number, 2) for number in range(1, 20))
"""Thresholds of a map rescaled to 0..1; one is chosen for each method, on scenes of its own."""


@dataclass(frozen=True, slots=True)
class MaskOverlapScores:
    """Scores of one heat map against the mask of its object.

    ious : intersection over union of the mask and the map at each of THRESHOLDS
    best_iou : IoU at the best threshold for this map: an upper bound
    pointing : True if the map's peak is inside the mask
    average_precision : over the positions (area under precision and recall)
    leakage : share of the map that lies on the masks of other objects; None without any
    """

    ious: tuple[float, ...]
    best_iou: float
    pointing: bool
    average_precision: float
    leakage: float | None


def score_map_against_mask(
    map_HW: Tensor, mask_HW: Tensor, others_HW: Tensor | None = None
) -> MaskOverlapScores:
    """Score a heat map (H, W), of values of any range, against the mask of its object.

    mask_HW, others_HW : (H, W) bool, the first not empty
    """
    map_P, mask_P = rescale_to_0_1(map_HW).flatten(), mask_HW.flatten()
    hottest_P, order_P = map_P.sort(descending=True)
    hits_P = mask_P[order_P].cumsum(0)
    reached_P = torch.arange(1, len(map_P) + 1)
    iou_P = hits_P / (mask_P.sum() + reached_P - hits_P)
    # A threshold lies between two values: of equal ones it takes all or none.
    last_P = torch.ones_like(mask_P)
    last_P[:-1] = hottest_P[:-1] > hottest_P[1:]
    counts = [int((map_P >= threshold).sum()) for threshold in THRESHOLDS]
    total = float(map_P.sum())
    leaked = None
    if others_HW is not None:
        leaked = float(map_P[others_HW.flatten()].sum()) / total if total else 0.0
    return MaskOverlapScores(
        ious=tuple(float(iou_P[count - 1]) if count else 0.0 for count in counts),
        best_iou=float(iou_P[last_P].max()),
        pointing=bool(mask_P[map_P.argmax()]),
        average_precision=average_precision(map_P, mask_P),
        leakage=leaked,
    )


def average_precision(map_P: Tensor, mask_P: Tensor) -> float:
    """Return the average precision of a heat map as a classifier of a mask's positions."""
    with explaining_missing_extra():
        from torchmetrics.functional.classification import binary_average_precision

    # NOTE a footgun: numbers outside 0..1 would be taken for logits.
    return float(binary_average_precision(map_P, mask_P.long()))


def rescale_to_0_1(map_HW: Tensor) -> Tensor:
    """Rescale a heat map linearly to the range 0 to 1; a constant map becomes 0."""
    low, high = map_HW.min(), map_HW.max()
    return (map_HW - low) / (high - low).clamp(min=1e-12)


def resize_map(map_HW: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Resize a heat map to the picture's size: bilinear, or bicubic as DAAM does."""
    return functional.interpolate(map_HW[None, None].float(), size, mode=mode)[0, 0]


def build_centred_blob(size: tuple[int, int], width: float = 0.25) -> Tensor:
    """Return a Gaussian blob in the middle, (H, W), a baseline that ignores the picture.

    width : standard deviation, as a fraction of the sides
    """
    across, down = (torch.linspace(-0.5, 0.5, side) for side in (size[1], size[0]))
    return torch.exp(-(down[:, None] ** 2 + across**2) / (2 * width**2))
