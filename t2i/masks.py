"""Masks painted by people: transparency, thresholds, and probable mistakes.

A mask is a picture of any kind, painted on a sheet or on a clear layer. White is asked for; what is
clear is not painted, so it is black.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2i.pictures import to_rgb_or_rgba

MaskMistake = Literal["white", "black", "hole"]
"""Probable mistake in a painted mask: white or black all over, or a picture with a clear hole,
where other programs draw."""

MIN_WHITE = 128
"""From this value of 0..255 on, gray counts as white, and what is covered as opaque."""
MAX_GRAY_COLOURS = 16
"""Colours that a gray picture can have of 4 bits a channel: with more, it is one in colour."""
MIN_GRADUAL_COLOURS = 8
"""Number of such colours that a painted mask does not have between black and white."""

INVERT_ALPHA_CODE = (
    "from PIL import Image, ImageOps; "
    "ImageOps.invert(Image.open('PICTURE').convert('RGBA').getchannel('A')).save('mask.png')"
)
"""Python that makes a mask of the clear part of PICTURE."""

MASK_MISTAKE_WARNINGS: dict[MaskMistake, str] = {
    "white": "is white all over, so the whole picture is drawn anew: paint black what is to stay.",
    "black": "is black all over, so nothing is drawn anew: paint white what is to change. What is "
    "clear counts as black.",
    "hole": "looks like a picture with a clear hole. Here what is white is drawn anew, and what is "
    f'clear stays. To draw in the hole, make a mask of it: python -c "{INVERT_ALPHA_CODE}"',
}
"""Mistake in a mask -> its warning, which follows the words "the mask"."""


def remove_mask_transparency(mask: Image.Image) -> Image.Image:
    """Return a painted mask without transparency: black where it was transparent.

    An opaque mask is returned as it is, for diffusers to read; but 16 bits of gray become 8, of
    which Pillow would cut off all but the darkest.
    """
    plain = to_rgb_or_rgba(mask)
    if plain.mode != "RGBA" or plain.getchannel("A").getextrema() == (255, 255):
        return plain if mask.mode.startswith("I") else mask
    return Image.alpha_composite(Image.new("RGBA", plain.size, "black"), plain).convert("RGB")


def find_mask_mistake(mask: Image.Image) -> MaskMistake | None:
    """Return the probable mistake in a painted mask, or None: "white" or "black" all over, or a
    picture with a transparent "hole" in place of a mask.
    """
    plain = to_rgb_or_rgba(mask)
    if plain.mode == "RGBA":
        rgba = np.asarray(plain)
        covered = rgba[..., 3] >= MIN_WHITE
        if not covered.all() and are_photo_colours(rgba[covered][:, :3]):
            return "hole"
    darkest, lightest = remove_mask_transparency(mask).convert("L").getextrema()
    assert isinstance(darkest, int | float)  # of one channel
    assert isinstance(lightest, int | float)
    return "white" if darkest >= MIN_WHITE else "black" if lightest < MIN_WHITE else None


def are_photo_colours(colours_N3: NDArray[np.uint8]) -> bool:
    """Return True if the colours (N, 3) of pixels are those of a photo rather than of a painted
    mask: many, or gradual.
    """
    coarse_N3 = colours_N3.astype(np.int32) >> 4
    colours = np.unique(coarse_N3 @ np.array([256, 16, 1]))
    if len(colours) > MAX_GRAY_COLOURS:
        return True
    gray_N = colours_N3.mean(axis=1)
    between = float(((gray_N > 48) & (gray_N < 208)).mean()) if len(gray_N) else 0.0
    return len(colours) >= MIN_GRADUAL_COLOURS and between > 0.5
