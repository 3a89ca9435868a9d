"""Photos as tensors and JSON data, for the folder of a recorded source.

Y X image size.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipelines.images.photo import Photo
from pipelines.images.photo_fitting import Fitting


def photo_to_tensors(photo: Photo) -> dict[str, Tensor]:
    """Convert a photo to named tensors for a safetensors file: pixels, full-size picture, Exif,
    colour profile and mask, without its fitting.
    """
    tensors = {
        "picture": photo.pixels,
        "photo": torch.from_numpy(np.array(photo.picture)),
        "photo_exif": bytes_to_tensor(photo.exif),
        "photo_icc_profile": bytes_to_tensor(photo.icc_profile),
    }
    if photo.mask is not None:
        tensors["photo_mask"] = torch.from_numpy(np.array(photo.mask))
    if photo.reproduction is not None:
        tensors["photo_reproduction"] = photo.reproduction
    return tensors


def photo_from_tensors(tensors: Mapping[str, Tensor], fitting: Mapping[str, Any]) -> Photo:
    """Build a Photo from the tensors of `photo_to_tensors` and the JSON data of its fitting.

    Raises KeyError, TypeError or ValueError for other data.
    """
    boxes = {name: tuple(fitting[name]) for name in ("box", "frame")}
    mask = tensors.get("photo_mask")
    photo = Photo(
        picture=Image.fromarray(tensors["photo"].numpy()),
        pixels=tensors["picture"],
        fitting=Fitting(**{**fitting, **boxes}),
        mask=None if mask is None else Image.fromarray(mask.numpy()),
        exif=tensors["photo_exif"].numpy().tobytes(),
        icc_profile=tensors["photo_icc_profile"].numpy().tobytes(),
        reproduction=tensors.get("photo_reproduction"),
    )
    size = (photo.fitting.width, photo.fitting.height)
    if photo.picture.size != size or (photo.mask is not None and photo.mask.size != size):
        raise ValueError(f"the photo or its mask is not of {size[0]}x{size[1]} pixels")
    return photo


def fitting_to_dict(photo: Photo) -> dict[str, Any]:
    """Return how a photo was fitted to the model's size, as JSON data."""
    return asdict(photo.fitting)


def bytes_to_tensor(data: bytes) -> Tensor:
    """Return bytes as a tensor (N,) of uint8, to be stored in a safetensors file."""
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
