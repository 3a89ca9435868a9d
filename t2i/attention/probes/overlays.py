"""Images with heat maps drawn over them."""

from PIL import Image

from t2i.attention.probes.heat_maps import MIN_DISPLAY_WIDTH, HeatMaps


def draw_overlays(image: Image.Image, maps: HeatMaps | None) -> list[Image.Image]:
    """Return the image, then a copy for each word with the word's heat map drawn over it."""
    base = enlarge_to_display_width(image)
    return [base] if maps is None else [base, *(maps.overlay(word, base) for word in maps)]


def enlarge_to_display_width(image: Image.Image) -> Image.Image:
    """Return the image, enlarged by a whole factor if it is below the display width."""
    factor = max(1, round(MIN_DISPLAY_WIDTH / image.width))
    size = (image.width * factor, image.height * factor)
    return image if factor == 1 else image.resize(size, Image.Resampling.BICUBIC)
