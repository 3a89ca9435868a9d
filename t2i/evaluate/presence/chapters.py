"""Chapter of the report on presence: how well it is recognised, ROC and reliability.

W samples, F features.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from t2i.attention.probes.presence import PresenceFit, PresenceRegression
from t2i.evaluate.presence.logistic_regression import (
    Flags,
    Floats,
    LogisticRegression,
    compute_area_under_roc,
)
from t2i.evaluate.presence.records import PresenceSamples
from t2i.evaluate.report.chapter import Cell, Chapter, Estimate, Plot, Table
from t2i.evaluate.report.statistics import proportion_with_interval

SPLIT_TITLES = {"seen": "seen", "held_out": "held out"}
BIN_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97, 1.0)
"""Edges of the probabilities that the reliability plot takes together."""
FALSE_ALARM_SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of false alarms at which the ROC plot has a point."""
PRESENCE_TEXT = (
    "Whether each object of a caption is in the picture that was drawn of it, as HeatMaps.found "
    "has it by the heat map of its word. The recogniser is the truth. A missing object is noticed "
    "if its probability is below the threshold of the fit, and an object that is there and is "
    "below it is a false alarm. Fit and threshold come from other scenes. Captions name up to one "
    "object more than training showed at once, so that enough of them are missing."
)


def build_chapters(
    fit: PresenceFit, samples_by_split: Mapping[str, PresenceSamples]
) -> Sequence[Chapter]:
    """Build the chapter of a fit, measured on the samples of other scenes, by split."""
    known = {split: samples for split, samples in samples_by_split.items() if samples.words}
    rows: list[tuple[str, Sequence[Cell]]] = []
    reliability, roc = {}, {}
    for convention, regression in fit.conventions.items():
        for split, samples in known.items():
            label = f"{convention}, {SPLIT_TITLES[split]}"
            probs_W = compute_probabilities(regression, samples, convention)
            rows.append((label, build_row(regression, probs_W, samples.is_there_W)))
            reliability[label] = build_reliability_points(probs_W, samples.is_there_W)
            roc[label] = build_roc_points(probs_W, samples.is_there_W)
    heads = ("area under ROC", "missing noticed", "false alarms", "Brier score", "missing")
    table = Table(
        name="presence",
        title="Missing objects noticed",
        heads=heads,
        rows=rows,
        units={heads[0]: "", heads[1]: "%", heads[2]: "%", heads[3]: "", heads[4]: "%"},
        better={
            heads[0]: "higher",
            heads[1]: "higher",
            heads[2]: "lower",
            heads[3]: "lower",
        },
    )
    plots = (
        Plot(
            "reliability",
            "Reliability: of things with this probability, the share that are there",
            "probability",
            "share that are there",
            reliability,
        ),
        Plot("roc", "ROC", "share of false alarms", "share of missing things noticed", roc),
    )
    return [Chapter("presence", "Presence", PRESENCE_TEXT, [table, *plots])]


def compute_probabilities(
    regression: PresenceRegression, samples: PresenceSamples, convention: str
) -> Floats:
    """Return the probability of presence of each sample, (W,)."""
    terms = regression.terms.values()
    fitted = LogisticRegression(
        np.array([term.mean for term in terms]),
        np.array([term.deviation for term in terms]),
        np.array([term.weight for term in terms]),
        regression.intercept,
    )
    return fitted.compute_probabilities(samples.stack_features(convention, regression.terms))


def build_row(regression: PresenceRegression, probs_W: Floats, is_there_W: Flags) -> list[Cell]:
    """Return the cells of a row of the table: area under ROC, missing noticed, false alarms,
    Brier score, share of the objects that are missing.
    """
    below_W = probs_W < regression.threshold
    area = compute_area_under_roc(probs_W, is_there_W)
    return [
        None if area is None else Estimate(area, count=len(probs_W)),
        proportion_with_interval(below_W[~is_there_W].tolist()),
        proportion_with_interval(below_W[is_there_W].tolist()),
        Estimate(float(((probs_W - is_there_W) ** 2).mean()), count=len(probs_W)),
        proportion_with_interval((~is_there_W).tolist()),
    ]


def build_reliability_points(probs_W: Floats, is_there_W: Flags) -> list[tuple[float, Estimate]]:
    """Return for each bin of probabilities their mean, and the share that are there."""
    points = []
    for low, high in pairwise(BIN_EDGES):
        inside_W = (probs_W >= low) & ((probs_W < high) | (high == BIN_EDGES[-1]))
        share = proportion_with_interval(is_there_W[inside_W].tolist())
        if share is not None:
            points.append((round(float(probs_W[inside_W].mean()), 3), share))
    return points


def build_roc_points(probs_W: Floats, is_there_W: Flags) -> list[tuple[float, Estimate]]:
    """Return the share of missing things noticed at each of FALSE_ALARM_SHARES."""
    there, missing = np.sort(probs_W[is_there_W]), probs_W[~is_there_W]
    points = []
    for share in FALSE_ALARM_SHARES:
        if not len(there) or not len(missing):
            break
        threshold = there[min(int(share * len(there)), len(there) - 1)]
        noticed = proportion_with_interval((missing < threshold).tolist())
        assert noticed is not None
        points.append((share, noticed))
    return points
