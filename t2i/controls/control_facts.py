"""Facts of a control as JSON data: runs with equal facts of their controls are equal."""

import hashlib
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from t2i.attention.weights_fingerprint import compute_weights_fingerprint
from t2i.controls.control import Control
from t2i.controls.hint_pictures import to_processor_input


def control_to_dict(control: Control) -> dict[str, Any]:
    """Convert a control to a dict of JSON-compatible values: its settings, and digests of its
    network and pictures.
    """
    scales = control.block_scales
    of_union = {"type": control.type_number} if control.is_union else {}
    return {
        "network": compute_weights_fingerprint({"control": control.network}),
        "picture": compute_pictures_digest(control.picture),
        "scale": float(control.scale),
        "steps": None if control.steps is None else list(control.steps),
        "mode": control.mode,
        "mask": None if control.mask is None else compute_pictures_digest(control.mask),
        "blocks": None if scales is None else {name: float(one) for name, one in scales.items()},
    } | of_union


def compute_pictures_digest(pictures: Any) -> str:
    """Return the SHA-256 of a picture, or of several in their order, as they are before resizing.

    A file and the same picture opened have one digest; an array or tensor has another.
    """
    sha = hashlib.sha256()
    for one in pictures if isinstance(pictures, list | tuple) else [pictures]:
        read = to_processor_input(one)
        if isinstance(read, Image.Image):
            sha.update(f"{read.mode} {read.size} ".encode() + read.tobytes())
        else:
            values = read.detach().cpu().float().numpy() if isinstance(read, Tensor) else read
            values = np.ascontiguousarray(values, dtype=np.float32)
            sha.update(f"{values.shape} ".encode() + values.tobytes())
    return sha.hexdigest()
