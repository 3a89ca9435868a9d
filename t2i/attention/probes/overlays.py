"""Images with heat maps drawn over them."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from t2i.atomic_files import write_atomically
from t2i.attention.probes.heat_maps import HeatMaps
from t2i.pictures import MIN_DISPLAY_WIDTH, build_picture_grid

FRAME_MS, LAST_FRAME_MS = 300, 1600
"""How long a frame of an animation is shown, and the last one."""


def draw_overlays(image: Image.Image, maps: HeatMaps | None) -> list[Image.Image]:
    """Return the image, then a copy for each word with the word's heat map drawn over it."""
    base = enlarge_to_display_width(image)
    return [base] if maps is None else [base, *(maps.overlay(word, base) for word in maps)]


def enlarge_to_display_width(image: Image.Image) -> Image.Image:
    """Return the image, enlarged by a whole factor if it is below the display width."""
    factor = max(1, round(MIN_DISPLAY_WIDTH / image.width))
    size = (image.width * factor, image.height * factor)
    return image if factor == 1 else image.resize(size, Image.Resampling.BICUBIC)


def draw_animation_frames(
    image: Image.Image, steps: Sequence[HeatMaps], words: Sequence[str]
) -> list[Image.Image]:
    """Return for each step the words' heat maps of that step over the image, side by side with
    labels: the frames of an animation.

    A word that the prompt does not contain at a step has the bare image there.
    """
    base, frames = enlarge_to_display_width(image).convert("RGB"), []
    for number, maps in enumerate(steps, start=1):
        tiles = [maps.overlay(word, base) if maps.has_read(word) else base for word in words]
        labels = [f"{word}, step {number} of {len(steps)}" for word in words]
        frames.append(build_picture_grid(tiles, labels, columns=len(tiles)))
    return frames


def save_animated_png(frames: Sequence[Image.Image], path: Path) -> None:
    """Save frames as an animated PNG that repeats without end and rests on its last frame."""
    first, *others = frames
    durations = [FRAME_MS] * len(others) + [LAST_FRAME_MS]

    def write(file: Path) -> None:
        first.save(file, "PNG", save_all=True, append_images=others, duration=durations, loop=0)

    write_atomically(path, write)
