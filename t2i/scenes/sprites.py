"""Sprites of the objects of scenes, their repainting, and the named colours."""

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from importlib.resources.abc import Traversable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BACKGROUND_COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (244, 244, 244),
    "black": (22, 22, 24),
    "gray": (128, 129, 132),
    "red": (200, 34, 40),
    "orange": (240, 138, 40),
    "yellow": (250, 222, 74),
    "green": (52, 158, 76),
    "blue": (44, 98, 216),
    "purple": (122, 60, 176),
    "pink": (246, 168, 202),
    "brown": (116, 74, 46),
    "teal": (24, 168, 170),
}
"""Background -> its colour, RGB from 0 to 255."""
PAINT_COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (357.0, 1.0, 1.0),
    "orange": (28.0, 1.05, 0.5),
    "yellow": (50.0, 1.0, 0.3),
    "green": (128.0, 0.95, 1.0),
    "blue": (216.0, 1.0, 0.9),
    "purple": (270.0, 0.9, 0.9),
    "pink": (325.0, 0.6, 0.35),
}
"""Colour -> hue in degrees, and factors on the saturation and on the distance of the value from 1.

These are the colours in which objects can be painted.
"""
NATURAL_HUE_DEGREES: dict[str, float] = {
    name: hue for name, (hue, _, _) in PAINT_COLOURS.items()
} | {"brown": 18.0}
"""Natural colour -> hue around which an object of that colour lies; brown is a dark orange."""
SIMILAR_COLOURS: dict[str, frozenset[str]] = {
    "red": frozenset({"red"}),
    "orange": frozenset({"orange", "yellow"}),
    "yellow": frozenset({"yellow"}),
    "green": frozenset({"green"}),
    "blue": frozenset({"blue"}),
    "purple": frozenset({"purple"}),
    "pink": frozenset({"pink", "red"}),
    "brown": frozenset({"red", "orange"}),
}
"""Natural colour -> paint colours that cannot be told apart from it."""
MIN_VISIBLE_COLOUR_DISTANCE = 165.0
"""Distance, by `compute_distances_to_colour`, below which a pixel vanishes in a background."""
MAX_INVISIBLE_PIXEL_SHARE = 0.4
"""Share of vanishing pixels with which an object is not clearly visible on a background."""


@dataclass(frozen=True, slots=True)
class VocabularyObject:
    """Object that scenes may show; `natural_colour` is None where its colour has no name.

    file : of its sprite, in the folder of the scenes' assets
    core : True if it is one of the 48 core objects
    repaintable : True if it can be painted in other colours
    """

    file: str
    name: str
    synonyms: tuple[str, ...]
    core: bool
    natural_colour: str | None
    repaintable: bool

    @property
    def paint_colours(self) -> tuple[str, ...]:
        """Colours in which the object can be painted and which differ clearly from its own."""
        if not self.repaintable or self.natural_colour is None:
            return ()
        return tuple(
            name for name in PAINT_COLOURS if name not in SIMILAR_COLOURS[self.natural_colour]
        )


def find_scene_assets_folder() -> Traversable:
    """Return the folder with the sprites and the lists of objects of scenes."""
    return resources.files("t2i").joinpath("assets", "scenes")


@cache
def load_object_entries_by_name() -> dict[str, VocabularyObject]:
    """Load the objects that scenes may show, by name, in the order of `objects.jsonl`."""
    found = {}
    for line in (
        find_scene_assets_folder()
        .joinpath("objects.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    ):
        row = json.loads(line)
        found[row["name"]] = VocabularyObject(
            file=row["file"],
            name=row["name"],
            synonyms=tuple(row["synonyms"]),
            core=row["core"],
            natural_colour=row["colour"],
            repaintable=row["recolour"],
        )
    return found


@lru_cache(maxsize=1024)
def load_premultiplied_sprite(name: str, colour: str | None) -> Image.Image:
    """Load the object's sprite, alpha premultiplied (mode RGBa), painted in `colour` if given."""
    thing = load_object_entries_by_name()[name]
    picture = Image.open(
        io.BytesIO(find_scene_assets_folder().joinpath(thing.file).read_bytes())
    ).convert("RGBA")
    if colour is not None and thing.natural_colour is not None:
        picture = Image.fromarray(
            repaint_sprite(np.asarray(picture), thing.natural_colour, colour), "RGBA"
        )
    return picture.convert("RGBa")


def repaint_sprite(rgba: NDArray[np.uint8], source: str, target: str) -> NDArray[np.uint8]:
    """Shift the hues around the natural colour `source` to `target`; gray and other hues stay.

    rgba : (H, W, 4) uint8 ndarray, straight alpha
    """
    rgb = rgba[..., :3].astype(np.float64) / 255.0
    hue, saturation, value = rgb_to_hsv(rgb)

    # how much each pixel belongs to the natural colour
    away = np.abs(compute_signed_hue_difference(hue, NATURAL_HUE_DEGREES[source]))
    own = np.clip((62.0 - away) / 14.0, 0.0, 1.0) * np.clip((saturation - 0.08) / 0.14, 0.0, 1.0)

    # turn the middle of those hues onto the target, keeping some of the spread around it
    weight = own * saturation * rgba[..., 3]
    angle = np.radians(hue)
    middle = np.degrees(np.arctan2((weight * np.sin(angle)).sum(), (weight * np.cos(angle)).sum()))
    target_hue, saturation_factor, darkness_factor = PAINT_COLOURS[target]
    turned = hsv_to_rgb(
        (target_hue + 0.35 * compute_signed_hue_difference(hue, middle)) % 360.0,
        np.clip(saturation * saturation_factor, 0.0, 1.0),
        1.0 - (1.0 - value) * darkness_factor,
    )
    mixed = rgb + own[..., None] * (turned - rgb)
    painted = rgba.copy()
    painted[..., :3] = np.rint(mixed * 255.0).astype(np.uint8)
    return painted


def compute_signed_hue_difference(hue: NDArray[np.float64], centre: float) -> NDArray[np.float64]:
    """Return the signed distance on the colour circle in degrees, in (-180, 180]."""
    return (hue - centre + 180.0) % 360.0 - 180.0


def rgb_to_hsv(
    rgb: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Convert (H, W, 3) in [0, 1] to hue, saturation and value, each (H, W).

    Hue is in degrees, saturation and value in [0, 1].
    """
    value = rgb.max(axis=-1)
    spread = value - rgb.min(axis=-1)
    safe = np.where(spread > 0, spread, 1.0)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    sixth = np.where(
        value == red,
        (green - blue) / safe,
        np.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    saturation = spread / np.where(value > 0, value, 1.0)
    return (60.0 * sixth) % 360.0, saturation, value


def hsv_to_rgb(
    hue: NDArray[np.float64], saturation: NDArray[np.float64], value: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Convert hue, saturation and value to (H, W, 3) in [0, 1]; inverse of `rgb_to_hsv`."""
    offset = np.array([5.0, 3.0, 1.0])
    k = (offset + hue[..., None] / 60.0) % 6.0
    drop = np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    return np.asarray(value[..., None] * (1.0 - saturation[..., None] * drop))


@lru_cache(maxsize=1024)
def list_contrasting_backgrounds(name: str, colour: str | None) -> frozenset[str]:
    """Return the backgrounds on which the object is clearly visible, in `colour` or its own."""
    rgba = np.asarray(
        load_premultiplied_sprite(name, colour)
        .convert("RGBA")
        .resize((32, 32), Image.Resampling.BOX)
    )
    rgb = rgba[..., :3][rgba[..., 3] > 127].astype(np.float64)
    own = colour or load_object_entries_by_name()[name].natural_colour
    return frozenset(
        background
        for background, tint in BACKGROUND_COLOURS.items()
        if background != own
        and (compute_distances_to_colour(rgb, tint) < MIN_VISIBLE_COLOUR_DISTANCE).mean()
        < MAX_INVISIBLE_PIXEL_SHARE
    )


def compute_distances_to_colour(
    rgb: NDArray[np.float64], tint: Iterable[int]
) -> NDArray[np.float64]:
    """Return the perceived distance of colours (N, 3) to a tint, (N,), from 0 to about 765.

    All are RGB from 0 to 255; the distance is the "redmean" approximation.
    """
    other = np.array(list(tint), dtype=np.float64)
    mean_red = (rgb[:, 0] + other[0]) / 2.0
    red, green, blue = ((rgb - other) ** 2).T
    squared = (
        (2.0 + mean_red / 256.0) * red + 4.0 * green + (2.0 + (255.0 - mean_red) / 256.0) * blue
    )
    return np.asarray(np.sqrt(squared))
