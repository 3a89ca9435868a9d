"""Fit of presence: a logistic regression for each convention of heat maps."""

from collections.abc import Sequence
from typing import Any

from t2i.attention.probes.presence import (
    PRESENCE_FEATURES,
    PresenceFit,
    PresenceRegression,
    PresenceTerm,
    compute_attention_fingerprint,
)
from t2i.evaluate.presence.logistic_regression import choose_threshold, fit_logistic_regression
from t2i.evaluate.presence.records import PresenceSamples

MAX_FALSE_ALARMS = 0.05
"""Share of the things that are there which may count as missing, on the scenes of the fit."""


def fit_presence(pipe: Any, samples: PresenceSamples, conventions: Sequence[str]) -> PresenceFit:
    """Fit presence to samples of a pipeline's images, for the pipeline's present weights."""
    names = tuple(PRESENCE_FEATURES)
    regressions = {}
    for convention in conventions:
        features_WF = samples.stack_features(convention, names)
        fitted = fit_logistic_regression(features_WF, samples.is_there_W)
        probs_W = fitted.compute_probabilities(features_WF)
        terms = {
            name: PresenceTerm(
                mean=fitted.mean_F[number],
                deviation=fitted.deviation_F[number],
                weight=fitted.weight_F[number],
            )
            for number, name in enumerate(names)
        }
        regressions[convention] = PresenceRegression.model_validate(
            {
                "terms": terms,
                "intercept": fitted.intercept,
                "threshold": choose_threshold(probs_W, samples.is_there_W, MAX_FALSE_ALARMS),
            }
        )
    return PresenceFit(weights=compute_attention_fingerprint(pipe), conventions=regressions)
