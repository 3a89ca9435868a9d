"""What a recogniser would say, written by hand."""

import numpy as np

from t2i.scenes.recognised_objects import OWN, Found, Seen

Place = tuple[str, tuple[float, float]]
"""A colour and a centre."""


def seen_of(background: str = "white", **objects: Place) -> Seen:
    mask = np.zeros((8, 8), dtype=np.bool_)
    found = {
        name: Found(name, 0.2, centre, colour, mask) for name, (colour, centre) in objects.items()
    }
    nothing = np.zeros(4, dtype=np.float32)
    return Seen(found, background, 0.0, nothing, nothing[:, None, None])


def at(across: float, down: float, colour: str = OWN) -> Place:
    return colour, (across, down)
