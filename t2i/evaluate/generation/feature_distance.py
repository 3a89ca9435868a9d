"""Frechet distance between sets of pictures, in the features of the recogniser.

N pictures, F features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from t2i.evaluate.optional_imports import explaining_missing_extra


class PassThroughFeatures(nn.Module):
    """Feature extractor for torchmetrics' FID whose input already is features (N, F)."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features_NF: Tensor) -> Tensor:
        """Return the features (N, F) unchanged: torchmetrics' FID calls this on pictures, and is
        given features.
        """
        return features_NF


def compute_frechet_distance(
    one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]
) -> float:
    """Return the Frechet distance of two sets of feature vectors, as FID computes it.

    As Heusel et al. (2017) compare pictures, but in the recogniser's features: figures of other
    suites cannot be compared with it. It grows as the sets shrink: compare equal sizes only.
    """
    with explaining_missing_extra():
        from torchmetrics.image.fid import FrechetInceptionDistance

    one_NF, other_NF = (torch.tensor(side, dtype=torch.float64) for side in (one, other))
    metric = FrechetInceptionDistance(PassThroughFeatures(one_NF.shape[1])).set_dtype(torch.float64)
    metric.update(one_NF, real=True)
    metric.update(other_NF, real=False)
    # Rounding may leave a hair less than nothing.
    return max(0.0, float(metric.compute()))
