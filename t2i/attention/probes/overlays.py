"""A picture beside itself with the heat map of each of its words over it."""

from PIL import Image

from t2i.attention.probes.heat_maps import SHOWN_WIDTH, HeatMaps


def draw_overlays(picture: Image.Image, maps: HeatMaps | None) -> list[Image.Image]:
    """The picture, then one for each word of its maps, in their order."""
    shown = enlarged(picture)
    return [shown] if maps is None else [shown, *(maps.overlay(word, shown) for word in maps)]


def enlarged(picture: Image.Image) -> Image.Image:
    times = max(1, round(SHOWN_WIDTH / picture.width))
    size = (picture.width * times, picture.height * times)
    return picture if times == 1 else picture.resize(size, Image.Resampling.BICUBIC)
