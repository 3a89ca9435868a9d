"""Colour profiles (ICC) of photos: to sRGB, which models are trained on, and back."""

import io
import warnings

from PIL import Image, ImageCms

UNUSABLE_PROFILE_ERRORS = (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError)
"""What Pillow raises for a damaged profile, and for one of other channels than the picture's."""


def convert_to_srgb(name: str, picture: Image.Image, icc_profile: bytes) -> Image.Image:
    """Return a picture in sRGB, in mode RGB; with an unusable profile converted without it.

    name : of the picture, for the warning
    """
    # Some programs give a gray picture the profile of a coloured one.
    for one in (picture, picture.convert("RGB")):
        try:
            converted = ImageCms.profileToProfile(
                one, open_profile(icc_profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except UNUSABLE_PROFILE_ERRORS as error:
            problem: BaseException = error
        else:
            assert converted is not None  # as not in place
            return converted
    warn_of_unusable_profile(name, problem)
    return picture.convert("RGB")


def convert_from_srgb(name: str, picture: Image.Image, icc_profile: bytes) -> Image.Image:
    """Return a picture of mode RGB in the colours of a profile; unchanged if that is unusable."""
    try:
        converted = ImageCms.profileToProfile(
            picture, ImageCms.createProfile("sRGB"), open_profile(icc_profile), outputMode="RGB"
        )
    except UNUSABLE_PROFILE_ERRORS as error:
        warn_of_unusable_profile(name, error)
        return picture
    assert converted is not None  # as not in place
    return converted


def open_profile(icc_profile: bytes) -> ImageCms.ImageCmsProfile:
    """Open a colour profile (ICC) from the bytes in a picture's file."""
    return ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))


def warn_of_unusable_profile(name: str, error: BaseException) -> None:
    """Warn that the colour profile of a picture cannot be used and is ignored."""
    warnings.warn(
        f"The colour profile of the {name} cannot be used ({error!r:.100}): its colours are read "
        "as sRGB.",
        stacklevel=4,
    )
