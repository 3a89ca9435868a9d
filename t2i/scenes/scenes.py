"""Procedural scenes: one to three objects on a background, captioned, with exact masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from t2i.data.training_example import TrainingExample
from t2i.errors import ArgumentError, suggest_choice
from t2i.scenes.captions import POSITION_SHARE, generate_caption
from t2i.scenes.held_out import (
    list_training_colours,
    load_held_out_combinations,
    may_appear_together_in_training,
)
from t2i.scenes.hints import SceneHintKind, draw_scene_hint
from t2i.scenes.layout import SceneLayout, compute_mask_bounding_box, render_picture_and_masks
from t2i.scenes.object_placement import (
    SizeWord,
    choose_random_arrangement_sizes_and_positions,
    random_choice,
)
from t2i.scenes.recognised_objects import Relation
from t2i.scenes.sprites import (
    BACKGROUND_COLOURS,
    list_contrasting_backgrounds,
    load_object_entries_by_name,
)

SPLIT_SEED_KEYS = {"train": 0, "held_out": 1}
"""Split -> part of the random seed, so that the splits have different scenes."""
TWO_OBJECT_SHARE = 8 / 11
"""Share of the scenes with several objects that have two; the others have three."""


class SceneDatasetConfig(BaseModel):
    """Configuration of a data set of scenes, synthetic pictures of one to three objects with
    captions and masks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["scenes"] = "scenes"
    size: int = Field(128, ge=32, le=2048)
    """Side of the square pictures, in pixels."""
    seed: int = Field(0, ge=0)
    length: int = Field(1_000_000, ge=1)
    """How many scenes there are; scene i is the same whatever the length."""
    vocabulary: Literal["core", "all"] | tuple[str, ...] = "core"
    """The 48 core objects, all of them, or the names of the ones wanted."""
    max_objects: int = Field(3, ge=1, le=3)
    alone: float = Field(0.45, ge=0, le=1)
    """Share of the scenes that show one object."""
    repainted: float = Field(0.25, ge=0, le=1)
    """Share of the objects that are painted in another colour than their own."""
    stated: float = Field(POSITION_SHARE, ge=0, le=1)
    """Share of the captions of several objects that say how these stand."""
    split: Literal["train", "held_out"] = "train"
    """`train` never shows a combination of `held_out.json`; every `held_out` scene shows one."""
    hint: SceneHintKind | None = None
    """Exact hint of every scene, for targets that train a control; None draws none."""


@dataclass(frozen=True, slots=True)
class SceneObject:
    """Object of a rendered scene, with the word that names it in the caption.

    colour, size_word : as it was painted and sized, mentioned in the caption or not
    box : left, top, right, bottom of its visible pixels
    mask : (H, W) bool ndarray
    """

    name: str
    word: str
    span: tuple[int, int]
    colour: str | None
    size_word: SizeWord | None
    box: tuple[int, int, int, int]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scene:
    """Rendered scene with its caption and objects; pixels are (H, W, 3), uint8.

    relations : (subject, relation, object) as the caption states them, indices into `objects`
    """

    name: str
    pixels: NDArray[np.uint8]
    caption: str
    background: str
    objects: tuple[SceneObject, ...]
    relations: tuple[tuple[int, Relation, int], ...]


class SceneDataset:
    """Data set of scenes; scene `index` depends on the config and `index` alone."""

    def __init__(self, config: SceneDatasetConfig) -> None:
        self.config = config
        self.vocabulary = resolve_object_names(config.vocabulary)
        known = set(self.vocabulary)
        self.held_out_pairs = sorted(
            sorted(pair) for pair in load_held_out_combinations().pairs if pair <= known
        )
        self.held_out_colours = sorted(
            pair for pair in load_held_out_combinations().colours if pair[0] in known
        )
        if config.max_objects == 1:
            self.held_out_pairs = []
        if config.split == "held_out" and not self.held_out_pairs and not self.held_out_colours:
            raise ArgumentError(
                f"split='held_out' has nothing to show: no held-out combination can be made of "
                f"{', '.join(self.vocabulary)}. Use vocabulary='core', or more of its objects."
            )

    def __len__(self) -> int:
        return self.config.length

    def group_indices_by_shape(self) -> Sequence[Sequence[int]]:
        """Return the indices of all scenes as one group: all pictures have one shape."""
        return [range(len(self))]

    def read_example(self, index: int, _visit: int = 0, /) -> TrainingExample:
        """Return scene `index` as a training example, the same at each visit."""
        scene = self.render_scene(index)
        masks = np.stack([placed.mask for placed in scene.objects])
        spans = tuple(placed.span for placed in scene.objects)
        return TrainingExample(
            scene.name,
            scene.pixels,
            scene.caption,
            masks,
            spans=spans,
            hint=self.draw_hint_of_scene(scene, self.config.hint) if self.config.hint else None,
        )

    def draw_hint_of_scene(self, scene: Scene, kind: SceneHintKind) -> NDArray[np.uint8]:
        """Draw a hint of a scene, (H, W, 3): where its objects are."""
        names, masks = zip(*((one.name, one.mask) for one in scene.objects), strict=True)
        return draw_scene_hint(kind, scene.pixels, names, masks)

    def render_scene(self, index: int) -> Scene:
        """Return scene `index` of the data set, composed and rendered: pixels, caption, and masks
        of the objects.
        """
        layout = self.compose_layout(index)
        pixels, masks = render_picture_and_masks(layout, self.config.size)
        caption = layout.caption
        order = [mention.object_index for mention in caption.mentions]
        objects = tuple(
            SceneObject(
                name=layout.objects[mention.object_index].name,
                word=mention.word,
                span=mention.span,
                colour=layout.objects[mention.object_index].colour,
                size_word=layout.objects[mention.object_index].size_word,
                box=compute_mask_bounding_box(masks[mention.object_index]),
                mask=masks[mention.object_index],
            )
            for mention in caption.mentions
        )
        relations = tuple(
            (order.index(a), relation, order.index(b)) for a, relation, b in caption.relations
        )
        return Scene(
            self.scene_name(index), pixels, caption.text, layout.background, objects, relations
        )

    def scene_name(self, index: int) -> str:
        """Return the name of scene `index` for log lines and errors."""
        split = "" if self.config.split == "train" else f"{self.config.split}/"
        return f"scenes/{split}{self.config.seed}/{index}"

    def compose_layout(self, index: int) -> SceneLayout:
        """Compose scene `index` without rendering it, and return its layout."""
        if not 0 <= index < self.config.length:
            raise IndexError(f"No scene {index}: there are {self.config.length}, counted from 0.")
        key = (self.config.seed, SPLIT_SEED_KEYS[self.config.split], index)
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))

        # what is there
        names, painted = self._choose_objects(rng)
        backgrounds = list_shared_contrasting_backgrounds(names, painted)
        if not backgrounds:
            names, painted = names[:2], painted[:2]
            backgrounds = list_shared_contrasting_backgrounds(names, painted)

        # where it is
        arrangement, places = choose_random_arrangement_sizes_and_positions(rng, len(names))
        objects = tuple(
            place.place_object(name, colour)
            for place, name, colour in zip(places, names, painted, strict=True)
        )

        # the background and the captions
        background = random_choice(rng, backgrounds)
        tint = choose_random_background_tint(rng, background)
        brightness_gradient = int(rng.random() * 49) - 24
        gradient_direction: Literal["across", "down"] = "down" if rng.random() < 0.5 else "across"
        brightness_gradient = 0 if rng.random() < 0.5 else brightness_gradient
        caption = generate_caption(rng, objects, arrangement, background, self.config.stated)
        return SceneLayout(
            objects, arrangement, background, tint, brightness_gradient, gradient_direction, caption
        )

    def _choose_objects(self, rng: np.random.Generator) -> tuple[list[str], list[str | None]]:
        """Names and colours (None: as it is), keeping to the split."""
        alone, u = self.config.alone, rng.random()
        two = alone + TWO_OBJECT_SHARE * (1 - alone)
        count = min(1 if u < alone else 2 if u < two else 3, self.config.max_objects)
        names: list[str] = []
        forced: dict[str, str] = {}

        # one held-out combination first, if this split asks for it
        if self.config.split == "held_out":
            combinations = [
                choices for choices in (self.held_out_pairs, self.held_out_colours) if choices
            ]
            chosen = random_choice(rng, random_choice(rng, combinations))
            if isinstance(chosen, list):
                names += chosen if rng.random() < 0.5 else chosen[::-1]
            else:
                names.append(chosen[0])
                forced[chosen[0]] = chosen[1]

        # the rest as in training
        while len(names) < count:
            fitting = [
                name for name in self.vocabulary if may_appear_together_in_training(name, names)
            ]
            if not fitting:
                break
            names.append(random_choice(rng, fitting))
        probability = self.config.repainted
        painted = [
            forced.get(name) or maybe_choose_repaint_colour(rng, name, probability)
            for name in names
        ]
        return names, painted


def resolve_object_names(wanted: Literal["core", "all"] | tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the objects that a config asks for, in the order of `objects.jsonl`."""
    if wanted == "core":
        return tuple(name for name, thing in load_object_entries_by_name().items() if thing.core)
    if wanted == "all":
        return tuple(load_object_entries_by_name())
    if not wanted:
        raise ArgumentError(
            "vocabulary is empty: name at least one object, or say 'core' or 'all'."
        )
    for name in wanted:
        if name not in load_object_entries_by_name():
            raise ArgumentError(
                f"vocabulary: no object is called {name!r}. "
                f"{suggest_choice(name, load_object_entries_by_name())}"
            )
    return tuple(name for name in load_object_entries_by_name() if name in wanted)


def maybe_choose_repaint_colour(
    rng: np.random.Generator, object_name: str, probability: float
) -> str | None:
    """Return, with this probability, a random colour for an object other than its natural one; else
    None.
    """
    wanted = rng.random() < probability
    choices = list_training_colours(object_name)
    return random_choice(rng, choices) if wanted and choices else None


def choose_random_background_tint(
    rng: np.random.Generator, background: str
) -> tuple[int, int, int]:
    """Return a random shade (RGB) of the colour of a scene's background."""
    shade = int(rng.random() * 17) - 8
    red, green, blue = (
        channel + shade + int(rng.random() * 5) - 2 for channel in BACKGROUND_COLOURS[background]
    )
    return red, green, blue


def list_shared_contrasting_backgrounds(
    names: Sequence[str], painted: Sequence[str | None]
) -> list[str]:
    """Return the scene backgrounds on which all of these objects, in these colours, are clearly
    visible.
    """
    clear = [
        list_contrasting_backgrounds(name, colour)
        for name, colour in zip(names, painted, strict=True)
    ]
    return [
        background for background in BACKGROUND_COLOURS if all(background in one for one in clear)
    ]
