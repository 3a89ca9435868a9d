"""What a recogniser would say, written by hand."""

import numpy as np

from t2i.scenes.recognised_objects import OWN_COLOUR, RecognisedObject, Recognition

Place = tuple[str, tuple[float, float]]
"""A colour and a centre."""


def seen_of(background: str = "white", **objects: Place) -> Recognition:
    mask = np.zeros((8, 8), dtype=np.bool_)
    found = {
        name: RecognisedObject(name, 0.2, centre, colour, mask)
        for name, (colour, centre) in objects.items()
    }
    nothing = np.zeros(4, dtype=np.float32)
    return Recognition(found, background, 0.0, nothing, nothing[:, None, None])


def at(across: float, down: float, colour: str = OWN_COLOUR) -> Place:
    return colour, (across, down)
