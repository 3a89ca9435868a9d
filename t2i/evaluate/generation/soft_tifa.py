"""Soft-TIFA: how much of a caption a picture shows, as means over the atoms of the caption.

Kamath et al. 2025 (GenEval 2, arXiv 2512.16853): each atom of a prompt has a probability, and the
score of a prompt is their arithmetic mean (how many atoms are right) or their geometric mean
(whether the prompt as a whole is). Here the recogniser judges instead of a vision-language model,
so that scores are comparable between models judged by it, and not with published ones.
"""

import math
from collections.abc import Sequence

from t2i.evaluate.generation.judge import CaptionStatement
from t2i.scenes.recognised_objects import OWN_COLOUR, Recognition
from t2i.scenes.sprites import PAINT_COLOURS

MIN_ATOM_SCORE = 1e-4
"""Score of an atom in a geometric mean at least, which a single 0 would make 0."""


def score_atoms(statement: CaptionStatement, seen: Recognition) -> list[float]:
    """Return the probability of each atom of a caption: of its objects, colours, relations and
    background, in this order.

    A relation is 1 or 0, by the centres of the recognised objects; a colour is 0 on an object that
    is not recognised.
    """
    scores = [seen.object_scores.get(name, 0.0) for name in statement.objects]
    for name, colour, _ in statement.colours:
        found = seen.objects.get(name)
        label = colour if colour in PAINT_COLOURS else OWN_COLOUR
        scores.append(0.0 if found is None else found.colour_scores.get(label, 0.0))
    scores += [float(seen.has_relation(*relation)) for relation in statement.relations]
    if statement.background is not None:
        scores.append(seen.background_scores.get(statement.background, 0.0))
    return scores


def compute_arithmetic_mean(scores: Sequence[float]) -> float:
    """Return the arithmetic mean of the scores of a prompt's atoms."""
    return sum(scores) / len(scores)


def compute_geometric_mean(scores: Sequence[float]) -> float:
    """Return the geometric mean of the scores of a prompt's atoms, each at least MIN_ATOM_SCORE."""
    logs = [math.log(max(score, MIN_ATOM_SCORE)) for score in scores]
    return math.exp(sum(logs) / len(logs))
