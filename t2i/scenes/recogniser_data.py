"""Training data of the recogniser: objects in any position, size and combination, with distortions.

Unlike `scenes`, nothing is held out, objects overlap, the picture is warped, blurred, recoloured
and noisy, and some objects are of no known class.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from pydantic import BaseModel, ConfigDict, Field

from t2i.data.training_example import TrainingExample
from t2i.scenes.layout import paste_sprite_and_update_masks, render_background
from t2i.scenes.object_placement import random_between, random_choice
from t2i.scenes.recogniser import RecogniserLabels, build_recogniser_labels
from t2i.scenes.scenes import (
    choose_random_background_tint,
    list_shared_contrasting_backgrounds,
    resolve_object_names,
)
from t2i.scenes.sprites import (
    BACKGROUND_COLOURS,
    PAINT_COLOURS,
    load_object_entries_by_name,
    load_premultiplied_sprite,
)

COMPOSITIONS_SEED_KEY = 2
"""Part of the random seed, other than those of scenes, `t2i.scenes.scenes.SPLIT_SEED_KEYS`."""
OBJECT_COUNT_SHARES = (0.06, 0.34, 0.38, 0.17, 0.05)
"""Shares of the pictures with none, one, two, three and four objects."""
SIDE_RANGES = {1: (0.25, 0.9), 2: (0.22, 0.65), 3: (0.22, 0.48), 4: (0.22, 0.42)}
"""Number of objects -> range of their sides, as shares of the picture's side."""
MIN_VISIBLE_SHARE = 0.6
"""Share of each object that must be visible."""
MAX_TRIES = 8
UNKNOWN_SHARE = 0.12
"""Share of the objects that are distorted into unknown ones."""
RECOLOURED_SHARE = 0.3
"""Share of the objects that are painted in another colour, of those that can be."""


class RecogniserDatasetConfig(BaseModel):
    """Configuration of the recogniser's training pictures, which label every pixel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["compositions"] = "compositions"
    size: int = Field(128, ge=32, le=2048)
    """Side of the square pictures, in pixels."""
    seed: int = Field(0, ge=0)
    length: int = Field(1_000_000, ge=1)
    vocabulary: Literal["core", "all"] | tuple[str, ...] = "core"
    """The 48 core objects, all of them, or the names of the ones wanted."""
    disturbed: bool = True
    """Warp, blur and recolour the pictures, and lay some unnameable things among the objects."""


class RecogniserDataset:
    """Training data set of the recogniser; example `index` depends on config and `index` alone."""

    def __init__(self, config: RecogniserDatasetConfig) -> None:
        self.config = config
        self.vocabulary = resolve_object_names(config.vocabulary)
        self.labels: RecogniserLabels = build_recogniser_labels(
            self.vocabulary, tuple(BACKGROUND_COLOURS), tuple(PAINT_COLOURS)
        )

    def __len__(self) -> int:
        return self.config.length

    def group_indices_by_shape(self) -> Sequence[Sequence[int]]:
        """Return the indices of all examples as one group: all pictures have one shape."""
        return [range(len(self))]

    def read_example(self, index: int, _visit: int = 0, /) -> TrainingExample:
        """Compose training example `index` with its label maps, the same at each visit."""
        config, labels = self.config, self.labels
        key = (config.seed, COMPOSITIONS_SEED_KEY, index)
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))

        # what is there, before what
        names, painted, background = self._choose(rng)
        pixels = render_background(
            choose_random_background_tint(rng, background),
            int(random_between(rng, -30, 30)),
            "down" if rng.random() < 0.5 else "across",
            config.size,
        )
        kinds, colours = list(map(labels.objects.index, names)), []
        masks: list[NDArray[np.bool_]] = []
        places = choose_random_sides_and_centres(rng, len(names))
        for number, (name, colour) in enumerate(zip(names, painted, strict=True)):
            picture = load_premultiplied_sprite(name, colour)
            if config.disturbed and rng.random() < UNKNOWN_SHARE:
                picture = make_unknown_object_sprite(
                    rng,
                    picture,
                    load_premultiplied_sprite(random_choice(rng, self.vocabulary), None),
                )
                kinds[number] = labels.unknown_index
            colours.append(
                labels.colour_index(colour or load_object_entries_by_name()[name].natural_colour)
            )
            paste_sprite_and_update_masks(pixels, masks, picture, *places[number])

        # what each pixel is
        behind = labels.unknown_index + 1 + labels.backgrounds.index(background)
        label_maps = np.full((2, config.size, config.size), behind, dtype=np.uint8)
        label_maps[1] = 0
        for kind, colour_number, mask in zip(kinds, colours, masks, strict=True):
            label_maps[0][mask], label_maps[1][mask] = kind, colour_number

        if config.disturbed:
            pixels, label_maps = warp_picture_and_labels(rng, pixels, label_maps)
            pixels = degrade_picture(rng, pixels)
        named = [i for i, kind in enumerate(kinds) if kind != labels.unknown_index]
        shape = (0, config.size, config.size)
        visible = (
            np.stack([label_maps[0] == kinds[i] for i in named]) if named else np.zeros(shape, bool)
        )
        caption = ", ".join([*(names[i] for i in named), f"{background} background"])
        return TrainingExample(
            f"compositions/{config.seed}/{index}", pixels, caption, visible, label_maps
        )

    def _choose(self, rng: np.random.Generator) -> tuple[list[str], list[str | None], str]:
        count = int(np.searchsorted(np.cumsum(OBJECT_COUNT_SHARES), rng.random()))
        count = min(count, len(self.vocabulary), len(OBJECT_COUNT_SHARES) - 1)
        names = [self.vocabulary[i] for i in rng.permutation(len(self.vocabulary))[:count]]
        painted = [
            random_choice(rng, colours)
            if (colours := load_object_entries_by_name()[name].paint_colours) and wanted
            else None
            for name, wanted in zip(names, rng.random(count) < RECOLOURED_SHARE, strict=True)
        ]
        while not (backgrounds := list_shared_contrasting_backgrounds(names, painted)):
            names, painted = names[:-1], painted[:-1]
        return names, painted, random_choice(rng, backgrounds)


SidesAndCentres = list[tuple[float, tuple[float, float]]]


def choose_random_sides_and_centres(rng: np.random.Generator, count: int) -> SidesAndCentres:
    """Return random sizes and centres, as shares of the picture's side, of the objects of a
    training picture; none hides too much of another.
    """
    for _ in range(MAX_TRIES):
        sides = [random_between(rng, *SIDE_RANGES[count]) for _ in range(count)]
        placements = [
            (s, (random_between(rng, s / 2, 1 - s / 2), random_between(rng, s / 2, 1 - s / 2)))
            for s in sides
        ]
        if all(
            compute_covered_share_of_square(below, above) < 1 - MIN_VISIBLE_SHARE
            for number, below in enumerate(placements)
            for above in placements[number + 1 :]
        ):
            return placements
    step = 1 / (count + 1)
    return [(step, (step * (number + 1), random_between(rng, 0.3, 0.7))) for number in range(count)]


def compute_covered_share_of_square(
    below: tuple[float, tuple[float, float]], above: tuple[float, tuple[float, float]]
) -> float:
    """Return the fraction of the square `below` that the square `above` covers."""
    (side, centre), (other, at) = below, above
    width, height = (
        max(0.0, min(a + side / 2, b + other / 2) - max(a - side / 2, b - other / 2))
        for a, b in zip(centre, at, strict=True)
    )
    return width * height / side**2


def make_unknown_object_sprite(
    rng: np.random.Generator, picture: Image.Image, other: Image.Image
) -> Image.Image:
    """Make a sprite of no known class: halves of two objects, shuffled tiles, or a blur."""
    side = picture.width
    how = rng.random()
    if how < 0.4:
        half = Image.new("1", (side, side))
        cut = (side // 2, 0, side, side) if rng.random() < 0.5 else (0, side // 2, side, side)
        half.paste(1, cut)
        return Image.composite(other.resize((side, side)), picture, half)
    if how < 0.7:
        tile = side // 4
        boxes = [(x * tile, y * tile) for y in range(4) for x in range(4)]
        mixed = Image.new("RGBa", (side, side))
        for (x, y), number in zip(boxes, rng.permutation(16), strict=True):
            u, v = boxes[number]
            mixed.paste(picture.crop((u, v, u + tile, v + tile)), (x, y))
        return mixed
    return picture.filter(ImageFilter.GaussianBlur(side * random_between(rng, 0.16, 0.22)))


def warp_picture_and_labels(
    rng: np.random.Generator, pixels: NDArray[np.uint8], label_maps: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Mirror and warp a picture and its label maps at random, by moving the nodes of a grid."""
    if rng.random() < 0.5:
        pixels, label_maps = pixels[:, ::-1], label_maps[:, :, ::-1]
    size, cells = len(pixels), 4
    corners = np.stack(np.meshgrid(*2 * [np.linspace(0, size, cells + 1)], indexing="ij"))
    moved = rng.normal(0, size * random_between(rng, 0, 0.025), corners.shape)
    moved[0, [0, -1]] = moved[1, :, [0, -1]] = 0  # the border stays on the border
    rows, columns = np.clip(corners + moved, 0, size)
    mesh = []
    for i in range(cells):
        for j in range(cells):
            corner = ((i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1))
            box = tuple(int(corners[axis][at]) for at in (corner[0], corner[2]) for axis in (1, 0))
            mesh.append((box, tuple(float(side[at]) for at in corner for side in (columns, rows))))

    def bent(plane: NDArray[np.uint8], how: Image.Resampling) -> NDArray[np.uint8]:
        picture = Image.fromarray(np.ascontiguousarray(plane))
        return np.asarray(picture.transform((size, size), Image.Transform.MESH, mesh, how))

    planes = [bent(plane, Image.Resampling.NEAREST) for plane in label_maps]
    return bent(pixels, Image.Resampling.BILINEAR), np.stack(planes)


def degrade_picture(rng: np.random.Generator, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Degrade a picture at random: resample, blur, change contrast and tint, add noise."""
    picture = Image.fromarray(pixels)
    size = picture.width
    if rng.random() < 0.5:
        coarse = round(size / random_between(rng, 1, 2.5))
        picture = picture.resize((coarse, coarse), Image.Resampling.BOX)
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        picture = picture.filter(
            ImageFilter.GaussianBlur(random_between(rng, 0.3, 1.6) * size / 128)
        )
    values = np.asarray(picture, dtype=np.float64)
    if rng.random() < 0.7:
        contrast, gain = random_between(rng, 0.85, 1.12), rng.uniform(0.96, 1.04, 3)
        values = ((values - 128) * contrast + 128 + random_between(rng, -12, 12)) * gain
    if rng.random() < 0.5:
        grain = rng.standard_normal(values.shape)
        values = values + grain * random_between(rng, 0, 10)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
