"""Logistic regression with a ridge penalty, and the measures of a probability's quality.

W samples, F features.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t2i.errors import DataError

RIDGE = 1e-3
"""Penalty of the squared weights of standardised features, for each sample."""
MAX_ITERATIONS, TOLERANCE = 100, 1e-10
"""Iterations at most, and the change, relative to the largest weight, below which they end."""
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LogisticRegression:
    """Fitted logistic regression on standardised features.

    mean_F, deviation_F : of the features it was fitted to
    weight_F : of the standardised features
    """

    mean_F: Floats
    deviation_F: Floats
    weight_F: Floats
    intercept: float

    def compute_probabilities(self, features_WF: Floats) -> Floats:
        """Return the probability of True for each sample, (W,)."""
        standard_WF = (features_WF - self.mean_F) / self.deviation_F
        return sigmoid(standard_WF @ self.weight_F + self.intercept)


def sigmoid(logits: Floats) -> Floats:
    """Return the logistic function of each value."""
    result: Floats = 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
    return result


def fit_logistic_regression(features_WF: Floats, flags_W: Flags) -> LogisticRegression:
    """Fit a logistic regression by Newton's method (iteratively reweighted least squares).

    Raises DataError unless both values occur among the flags, and where the fit does not converge,
    as with features that are not finite.
    """
    if flags_W.all() or not flags_W.any():
        raise DataError(
            f"All {len(flags_W)} samples are {'there' if flags_W.all() else 'missing'}: a fit "
            "needs both. Draw more pictures with --count."
        )
    mean_F, deviation_F = features_WF.mean(axis=0), features_WF.std(axis=0)
    deviation_F = np.where(deviation_F > 0, deviation_F, 1.0)
    ones_W1 = np.ones((len(flags_W), 1))
    design_WG = np.concatenate([(features_WF - mean_F) / deviation_F, ones_W1], axis=1)
    ridge_G = np.full(design_WG.shape[1], RIDGE * len(flags_W))
    ridge_G[-1] = 0.0  # the intercept is free
    weight_G = np.zeros(design_WG.shape[1])
    for _ in range(MAX_ITERATIONS):
        probs_W = sigmoid(design_WG @ weight_G)
        gradient_G = design_WG.T @ (probs_W - flags_W) + ridge_G * weight_G
        curvature_W1 = (probs_W * (1 - probs_W))[:, None]
        hessian_GG = design_WG.T @ (curvature_W1 * design_WG) + np.diag(ridge_G)
        change_G = np.linalg.solve(hessian_GG + 1e-12 * np.eye(len(weight_G)), gradient_G)
        weight_G = weight_G - change_G
        if np.abs(change_G).max() < TOLERANCE * (1 + np.abs(weight_G).max()):
            break
    else:
        raise DataError(
            f"The logistic regression of {len(flags_W)} samples did not converge in "
            f"{MAX_ITERATIONS} iterations: its last one changed a weight by "
            f"{np.abs(change_G).max():.2g}. Look for heat maps that are not finite, or draw more "
            "pictures with --count."
        )
    return LogisticRegression(mean_F, deviation_F, weight_G[:-1], float(weight_G[-1]))


def compute_area_under_roc(scores_W: Floats, flags_W: Flags) -> float | None:
    """Return the area under the ROC curve, the probability that a sample of True has a higher
    score than one of False (Hanley and McNeil 1982); None unless both values occur.
    """
    positive, negative = scores_W[flags_W], scores_W[~flags_W]
    if not len(positive) or not len(negative):
        return None
    higher = (positive[:, None] > negative[None]).mean()
    equal = (positive[:, None] == negative[None]).mean()
    return float(higher + equal / 2)


def choose_threshold(probs_W: Floats, flags_W: Flags, max_false_alarms: float) -> float:
    """Return the highest threshold below which at most a share of the samples of True lie."""
    positive = np.sort(probs_W[flags_W])
    return float(positive[int(max_false_alarms * len(positive))])
