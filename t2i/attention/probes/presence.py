"""Presence of the thing that a word names: its probability, by the word's heat map.

When a model leaves out a thing that the prompt names, no part of the image attends much to the
word. A logistic regression on a few figures of the map, fitted to a model's own images, turns this
into a probability (calibration: Platt 1999).

H W size of the heat maps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from t2i.attention.prompts.prompt_tokenizers import find_denoiser
from t2i.attention.weights_fingerprint import compute_weights_fingerprint
from t2i.errors import ModelError
from t2i.safe_reading import parse_json
from t2i.validation_errors import describe_first_validation_error

FIT_COMMAND = "python -m t2i.evaluate.presence.fit MODEL"
TOP_SHARE = 0.05
"""Share of the positions, those where the map is highest, whose mean is the score."""
FINGERPRINTED_PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
"""Parts of a pipeline on which the attention to a word depends."""
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Presence:
    """Presence of the thing that a word names in an image, judged by the word's heat map.

    score : mean of the map, before it is rescaled, over the TOP_SHARE of the positions where it is
        highest; no probability, and of another scale for each model and convention
    probability : that the thing is in the image, 0 to 1; None for a model, or a probe, that the
        fit is not for
    is_missing : whether the probability is below the threshold of the fit, which one in twenty
        things that are there falls below; None where there is no probability
    remark : why there is no probability, or what it does not take into account; else empty
    """

    word: str
    score: float
    probability: float | None = None
    is_missing: bool | None = None
    remark: str = ""


@dataclass(slots=True)
class RunModel:
    """Model that made the images of a run, whose fit judges presence in them.

    pipe : its pipeline
    """

    pipe: Any
    _fingerprint: str | None = None

    def begin_run(self) -> None:
        """Forget the weights of the previous run: they may have changed in place since."""
        self._fingerprint = None

    def fingerprint_weights(self) -> str:
        """Return the fingerprint of the weights on which the attention depends, as they are when
        the first word of the run is judged: it reads all of them, and every word has the same.
        """
        if self._fingerprint is None:
            self._fingerprint = compute_attention_fingerprint(self.pipe)
        return self._fingerprint


class PresenceTerm(BaseModel):
    """Term of a logistic regression: a feature, standardised by mean and deviation, times its
    weight.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: FiniteFloat
    deviation: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    weight: FiniteFloat


class PresenceRegression(BaseModel):
    """Logistic regression of presence on features of a heat map of one convention."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    terms: dict[Literal["top", "deviation", "area"], PresenceTerm]
    """By the name of the feature, a key of PRESENCE_FEATURES."""
    intercept: FiniteFloat
    threshold: Annotated[float, Field(ge=0, le=1)]
    """Probability below which a thing counts as missing."""

    def compute_probability(self, map_HW: Tensor) -> float:
        """Return the probability of presence by a heat map (H, W) that is not rescaled."""
        logit = self.intercept
        for name, term in self.terms.items():
            value = PRESENCE_FEATURES[name](map_HW)
            logit += term.weight * (value - term.mean) / term.deviation
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, logit))))


class PresenceFit(BaseModel):
    """Fit of `HeatMaps.found` to the weights of one model, as the presence.json in its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    weights: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Fingerprint of the weights that it was fitted to: `compute_attention_fingerprint`."""
    conventions: dict[str, PresenceRegression]
    words: tuple[str, ...] = ()
    """Names of the things in the captions that it was fitted to; empty for a fit for any word."""
    made: dict[str, Any] = {}
    """How it was fitted, and how well it does on other images."""

    def knows(self, word: str) -> bool:
        """Return whether the fit is for a word: the name of a thing, no colour or place."""
        return not self.words or word.casefold() in self.words


def measure_top(map_HW: Tensor) -> float:
    """Return the mean of a heat map over the TOP_SHARE of its positions where it is highest."""
    count = max(1, round(TOP_SHARE * map_HW.numel()))
    return float(map_HW.flatten().topk(count).values.mean())


def measure_deviation(map_HW: Tensor) -> float:
    """Return the standard deviation of a heat map over its positions."""
    return float(map_HW.std(correction=0))


def measure_half_height_area(map_HW: Tensor) -> float:
    """Return the share of the positions at which a heat map is at least halfway between its lowest
    and its highest value.
    """
    half = (map_HW.min() + map_HW.max()) / 2
    return float((map_HW >= half).float().mean())


PRESENCE_FEATURES: dict[str, Callable[[Tensor], float]] = {
    "top": measure_top,
    "deviation": measure_deviation,
    "area": measure_half_height_area,
}
"""Features of a word's heat map (H, W) that is not rescaled, by name."""


def measure_presence_features(map_HW: Tensor) -> dict[str, float]:
    """Return the PRESENCE_FEATURES of a heat map (H, W) that is not rescaled."""
    return {name: measure(map_HW) for name, measure in PRESENCE_FEATURES.items()}


def judge_presence(
    word: str,
    map_HW: Tensor,
    convention: str,
    model: RunModel | None,
    edits: Sequence[str] = (),
    caches: str = "",
) -> Presence:
    """Return the presence of what a word names, by its heat map and the model's fit.

    map_HW : heat map of a convention that is not rescaled
    model : whose fit is used if it was made for its weights; None for a map to which no fit
        applies, as that of a part of the run
    edits : names of the edits of attention or latents under which the image was made
    caches : caches of the run that made it, as the command line takes them; "" without any
    """
    score = measure_top(map_HW)
    if model is None:
        return Presence(
            word,
            score,
            remark="A fit is for probes of a prompt's own words, at all steps, sites and heads.",
        )
    fit = find_presence_fit(model.pipe)
    if not math.isfinite(score):
        remark = "The heat map has numbers that are not finite."
    elif fit is None:
        remark = f"The model has no presence fit. Make one: {FIT_COMMAND}"
    elif fit.weights != model.fingerprint_weights():
        remark = (
            f"The presence fit is for other weights: the model was trained further, has "
            f"a LoRA, or another precision. Fit it again: {FIT_COMMAND}"
        )
    elif convention not in fit.conventions:
        known = ", ".join(fit.conventions)
        remark = f"The presence fit is for the conventions {known}, not for {convention}."
    elif not fit.knows(word):
        remark = (
            f"The presence fit is for words of things that it was made with, not for {word!r:.80}: "
            f"{', '.join(fit.words):.400}."
        )
    else:
        regression = fit.conventions[convention]
        probability = regression.compute_probability(map_HW)
        unseen = [f"under edits ({', '.join(dict.fromkeys(edits))})"] if edits else []
        unseen += [f"with a cache ({caches})"] if caches else []
        remark = (
            f"The image was made {' and '.join(unseen)}, of which the presence fit has seen none: "
            "its probability may be off."
            if unseen
            else ""
        )
        return Presence(word, score, probability, probability < regression.threshold, remark)
    return Presence(word, score, remark=remark)


def compute_attention_fingerprint(pipe: Any) -> str:
    """Return the fingerprint of those weights of a pipeline on which its attention depends."""
    parts = {name: getattr(pipe, name, None) for name in FINGERPRINTED_PARTS}
    return compute_weights_fingerprint(
        {name: getattr(part, "_orig_mod", part) for name, part in parts.items()}
    )


def parse_presence_fit(text: str, path: Path = Path("presence.json")) -> PresenceFit:
    """Parse the text of a presence.json. Raises ModelError if it is invalid."""
    try:
        return PresenceFit.model_validate(parse_json(text))
    except ValidationError as error:
        reason = describe_first_validation_error(error)
    except ValueError as error:
        reason = f"not JSON: {error}"
    remedy = f"Remove it, or make it again: {FIT_COMMAND}"
    raise ModelError(f"Cannot use {path}: {reason}. {remedy}")


def store_presence_fit(denoiser: Any, text: str) -> None:
    """Store the text of a model's presence.json on its denoiser, so that every pipeline with this
    denoiser finds it.
    """
    denoiser.t2i_presence_fit = text


def read_presence_fit_text(denoiser: Any) -> str | None:
    """Return the text that `store_presence_fit` stored on a denoiser, or None."""
    text: str | None = getattr(getattr(denoiser, "_orig_mod", denoiser), "t2i_presence_fit", None)
    return text


def find_presence_fit(pipe: Any) -> PresenceFit | None:
    """Return the fit of a pipeline's model, whatever weights it is for; None without one."""
    text = read_presence_fit_text(find_denoiser(pipe))
    return None if text is None else parse_presence_fit(text)
