"""Hints made of photos and drawings: edges, lines and colour blocks, for `Control(picture=...)`.

They need OpenCV, the extra `hints`.

Y X size of the picture, C colours.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2i.errors import ArgumentError, suggest_choice
from t2i.masks import remove_mask_transparency
from t2i.optional_dependencies import build_install_command
from t2i.pictures import open_picture

Picture: TypeAlias = Image.Image | str | Path
Pixels: TypeAlias = NDArray[np.uint8]
HintKind = Literal["canny", "soft-edge", "lines", "colours"]
DEFAULT_RESOLUTION = 512
MIN_RESPONSE = 4.0
"""Smallest response, of 255, that counts as an edge or a line: less is noise of the picture."""
FULL_SHARE = 0.95
"""Share of the responses that are below white; the strongest ones are cut off there."""


def make_hint(
    kind: str, picture: Picture, *, resolution: int | None = DEFAULT_RESOLUTION, **settings: float
) -> Image.Image:
    """Return the hint of a picture for a control, such as its Canny edges, as an image of the size
    of the scaled-down picture.

    >>> edges = make_hint("canny", "cat.jpg", low=50)
    >>> pipe("a cat made of glass", controls=[Control(network, edges)])

    Parameters
    ----------
    kind : "canny", "soft-edge", "lines" or "colours", see HINT_KINDS
    picture : a Pillow image or the path of one; transparency becomes black
    resolution : pixels of its shorter side, to which a larger picture is scaled down first. Edges
        of a large photo would be thinner than a pixel at the size of the image. None keeps the size
    settings : further arguments of the kind's function, such as `low` and `high`

    Raises ArgumentError for other kinds and settings, and without OpenCV.
    """
    if kind not in HINT_KINDS:
        raise ArgumentError(f"Got the hint {kind!r:.80}. {suggest_choice(str(kind), HINT_KINDS)}")
    make, names = HINT_KINDS[kind]
    for name in settings:
        if name not in names:
            raise ArgumentError(
                f"Got {name} for the hint {kind}, which has "
                f"{' and '.join(names)} to set. {suggest_choice(name, names)}"
            )
    return Image.fromarray(make(read_downscaled_pixels(picture, resolution), **settings))


def find_canny_edges(pixels_YXC: Pixels, low: float = 100, high: float = 200) -> Pixels:
    """Return the edges of a picture, one pixel wide, white on black (Y, X): Canny (1986), "A
    Computational Approach to Edge Detection". ControlNets of the name "canny" are trained on them.

    low, high : an edge has a gradient above `high` somewhere, and above `low` all along, in 8 bits
    """
    check_hint_setting("low", low, 0, 10_000)
    check_hint_setting("high", high, 0, 10_000)
    if low > high:
        raise ArgumentError(f"Got low={low} and high={high}, expected low to be at most high.")
    edges_YX: Pixels = import_opencv().Canny(pixels_YXC, low, high)
    return edges_YX


def find_soft_edges(pixels_YXC: Pixels, blur: float = 1.5) -> Pixels:
    """Return the edges of a picture in grades, white where the colours change most (Y, X): the
    length of the gradient, of the colour in which it is the longest.

    For ControlNets of soft edges (HED, PiDiNet). Their own detectors are networks, which leave out
    texture; this one leaves out what is finer than `blur`.

    blur : standard deviation of the blur before, in pixels
    """
    check_hint_setting("blur", blur, 0.1, 100)
    opencv = import_opencv()
    blurred_YXC = opencv.GaussianBlur(pixels_YXC.astype(np.float32), (0, 0), blur)
    # 16 is the sum of the weights of a side: the unit is levels within two pixels.
    across_YXC, down_YXC = (
        opencv.Scharr(blurred_YXC, opencv.CV_32F, *axis) / 16 for axis in ((1, 0), (0, 1))
    )
    return rescale_response_to_8_bit(np.hypot(across_YXC, down_YXC).max(axis=-1))


def find_strokes(pixels_YXC: Pixels, width: float = 7) -> Pixels:
    """Return the strokes of a drawing, white on black (Y, X): what is darker than its surroundings
    and at most `width` pixels wide (the black top-hat transform of the picture's gray).

    For ControlNets of line art and scribbles.
    """
    check_hint_setting("width", width, 1, 255, whole=True)
    opencv = import_opencv()
    side = 2 * (int(width) // 2 + 1) + 1
    kernel = opencv.getStructuringElement(opencv.MORPH_ELLIPSE, (side, side))
    gray_YX = opencv.cvtColor(pixels_YXC, opencv.COLOR_RGB2GRAY)
    strokes_YX = opencv.morphologyEx(gray_YX, opencv.MORPH_BLACKHAT, kernel)
    return rescale_response_to_8_bit(strokes_YX.astype(np.float32))


def average_colour_blocks(pixels_YXC: Pixels, blocks: float = 8) -> Pixels:
    """Return a picture in squares of its mean colours, (Y, X, C), as the T2I-Adapter "color" reads
    them: 8 along the shorter side are its 64 pixels of 512.

    blocks : squares along the shorter side
    """
    check_hint_setting("blocks", blocks, 1, 512, whole=True)
    opencv = import_opencv()
    height, width = pixels_YXC.shape[:2]
    shorter = min(height, width)
    size = [max(1, round(side * min(int(blocks), shorter) / shorter)) for side in (width, height)]
    small_YXC = opencv.resize(pixels_YXC, size, interpolation=opencv.INTER_AREA)
    large_YXC: Pixels = opencv.resize(
        small_YXC, (width, height), interpolation=opencv.INTER_NEAREST
    )
    return large_YXC


HINT_KINDS: dict[HintKind, tuple[Callable[..., Pixels], tuple[str, ...]]] = {
    "canny": (find_canny_edges, ("low", "high")),
    "soft-edge": (find_soft_edges, ("blur",)),
    "lines": (find_strokes, ("width",)),
    "colours": (average_colour_blocks, ("blocks",)),
}
"""Name of a kind of hint -> its function, and the names of its settings."""


def read_downscaled_pixels(picture: Picture, resolution: int | None) -> Pixels:
    """Return the pixels of a picture (Y, X, 3), scaled down to a shorter side of `resolution`; None
    keeps the size. Raises ArgumentError.
    """
    if resolution is not None:
        check_hint_setting("resolution", resolution, 16, 8192, whole=True)
    if isinstance(picture, str | Path):
        picture = open_picture(Path(picture))
    if not isinstance(picture, Image.Image):
        raise ArgumentError(
            f"Got a {type(picture).__name__} to make a hint of, expected a Pillow image or the "
            "path of a picture."
        )
    plain = remove_mask_transparency(picture).convert("RGB")
    shorter = min(plain.size)
    if resolution is not None and shorter > resolution:
        size = [max(1, round(side * resolution / shorter)) for side in plain.size]
        plain = plain.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    return np.array(plain)


def rescale_response_to_8_bit(response_YX: NDArray[np.float32]) -> Pixels:
    """Rescale the response of an edge or stroke detector to 8 bits, its strongest part white; all
    black where it is no more than noise.
    """
    found = response_YX[response_YX > MIN_RESPONSE]
    if not found.size:
        return np.zeros(response_YX.shape, np.uint8)
    full = float(np.quantile(found, FULL_SHARE))
    scaled_YX = np.where(response_YX > MIN_RESPONSE, response_YX * (255 / full), 0)
    return scaled_YX.clip(0, 255).round().astype(np.uint8)


def check_hint_setting(
    name: str, value: object, least: float, most: float, *, whole: bool = False
) -> None:
    """Raise ArgumentError unless a setting of a hint is a number within its limits."""
    kinds = int if whole else int | float
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:  # type: ignore[operator]  # a number, then
        expected = "a whole number" if whole else "a number"
        raise ArgumentError(
            f"Got {name}={value!r:.80}, expected {expected} from {least:g} to {most:g}."
        )


def import_opencv() -> Any:
    """Import and return OpenCV. Raises ArgumentError with the install command if it is not
    installed.
    """
    before = os.environ.get("LD_LIBRARY_PATH")
    try:
        import cv2
    except ImportError as error:
        raise ArgumentError(
            f"Making a hint needs OpenCV, which is not installed: {build_install_command('hints')}"
        ) from error
    # Its first import adds its own folder, which processes started later would inherit.
    if before is None:
        os.environ.pop("LD_LIBRARY_PATH", None)
    else:
        os.environ["LD_LIBRARY_PATH"] = before
    return cv2
