"""Objects that the recogniser found in a picture, with its background and features.

H W size of the picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

OWN_COLOUR = "own"
"""Colour of an object in many colours, or in one that the recogniser has no name for."""
Relation = Literal["left", "right", "above", "below"]
MIN_RELATION_OFFSET = 0.05
"""Smallest distance of two centres, as a share of the picture's side, for a relation to hold."""


@dataclass(frozen=True, slots=True)
class RecognisedObject:
    """Object that the recogniser found in a picture.

    share : share of the picture's area that it covers
    centre : x and y, each from 0 to 1
    colour : its main colour, natural or painted; OWN_COLOUR where it has no name
    mask : (H, W) bool ndarray
    colour_scores : mean probability of each colour over the mask
    """

    name: str
    share: float
    centre: tuple[float, float]
    colour: str
    mask: NDArray[np.bool_]
    colour_scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recognition:
    """Result of the recogniser for one picture: objects, background and features.

    unknown_share : share of the area that is an object of no known class
    mean_features : (F,) float32 ndarray, for distances between sets of pictures
    features : (F, h, w) float32 ndarray, spatial features, for distances between layouts
    object_scores : for every object, recognised or not, the mean of its probability over the
        smallest area that is recognised as an object, where it is highest
    background_scores : probability of each background
    """

    objects: dict[str, RecognisedObject]
    background: str
    unknown_share: float
    mean_features: NDArray[np.float32]
    features: NDArray[np.float32]
    object_scores: Mapping[str, float] = field(default_factory=dict)
    background_scores: Mapping[str, float] = field(default_factory=dict)

    def has_relation(self, subject: str, relation: Relation, other: str) -> bool:
        """Return True if the recogniser found both objects in the picture, and `subject` is
        `relation` of `other`, as "left".
        """
        if subject not in self.objects or other not in self.objects:
            return False
        a, b = self.objects[subject].centre, self.objects[other].centre
        across, down = b[0] - a[0], b[1] - a[1]
        away = {"left": across, "right": -across, "above": down, "below": -down}[relation]
        return away > MIN_RELATION_OFFSET

    def has_colour(self, name: str, colour: str) -> bool:
        """Return True if the recogniser found the object in the picture, in this colour."""
        return name in self.objects and self.objects[name].colour == colour
