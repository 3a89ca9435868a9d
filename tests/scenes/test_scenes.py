"""What the scenes promise, checked on the pictures and sentences themselves."""

import colorsys
import itertools
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from t2i.errors import ArgumentError
from t2i.scenes.captions import MAX_CAPTION_WORDS, Caption, Mention
from t2i.scenes.held_out import load_held_out_combinations
from t2i.scenes.layout import SceneLayout, render_picture_and_masks
from t2i.scenes.object_placement import PlacedObject
from t2i.scenes.scenes import Scene, SceneDataset, SceneDatasetConfig, SceneObject
from t2i.scenes.sprites import (
    BACKGROUND_COLOURS,
    find_scene_assets_folder,
    list_contrasting_backgrounds,
    load_object_entries_by_name,
    load_premultiplied_sprite,
)
from train.data.sheets.mask_sheet import MASK_COLOURS, draw_training_example_sheet

SMALL = SceneDatasetConfig(size=64, seed=7, vocabulary="all")
# Degrees of hue people call by each name.
HUE_RANGES = {
    "red": (340, 14),
    "orange": (10, 43),
    "yellow": (38, 72),
    "green": (80, 165),
    "blue": (190, 243),
    "purple": (243, 300),
    "pink": (300, 340),
}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    data = SceneDataset(SMALL)
    return [data.render_scene(index) for index in range(600)]


def digest(scene: Scene) -> str:
    known = [(o.name, o.word, o.span, o.colour, o.size_word, o.box) for o in scene.objects]
    text = repr((scene.name, scene.caption, scene.background, known, scene.relations))
    masks = b"".join(placed.mask.tobytes() for placed in scene.objects)
    return sha256(scene.pixels.tobytes() + masks + text.encode()).hexdigest()


def centre(placed: SceneObject) -> tuple[float, float]:
    """(x, y) of the mask's centre of mass, as fractions of the side."""
    ys, xs = np.nonzero(placed.mask)
    return float(xs.mean() / len(placed.mask)), float(ys.mean() / len(placed.mask))


def is_true(subject: SceneObject, relation: str, other: SceneObject) -> bool:
    """Whether the centres are a seventh of the side apart, and mostly in that direction."""
    (x, y), (other_x, other_y) = centre(subject), centre(other)
    right, down = x - other_x, y - other_y
    along = {"left": -right, "right": right, "above": -down, "below": down}[relation]
    across = abs(down) if relation in ("left", "right") else abs(right)
    return along > 1 / 7 and along > across


def test_a_scene_is_the_same_in_another_instance_order_length_and_thread(
    scenes: list[Scene],
) -> None:
    other = SceneDataset(SMALL.model_copy(update={"length": 100}))
    indices = list(range(99, -1, -1))
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda index: digest(other.render_scene(index)), indices))
    assert again == [digest(scenes[index]) for index in indices]


def test_a_scene_is_the_same_in_another_process(scenes: list[Scene]) -> None:
    script = (
        "from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig; "
        "from hashlib import sha256; "
        "s = SceneDataset(SceneDatasetConfig(size=64, seed=7, vocabulary='all')); "
        "read = [s.read_example(i) for i in (9, 4)]; "
        "seen = b''.join(one.pixels.tobytes() + one.caption.encode() for one in read); "
        "print(sha256(seen).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    here = b"".join(scenes[i].pixels.tobytes() + scenes[i].caption.encode() for i in (9, 4))
    assert run.stdout.strip() == sha256(here).hexdigest()


def test_seed_index_and_split_each_change_the_scene() -> None:
    base = SceneDatasetConfig(seed=1)
    others = (base.model_copy(update={"seed": 2}), base.model_copy(update={"split": "held_out"}))
    first = [SceneDataset(base).compose_layout(index) for index in range(30)]
    assert len({layout.caption.text for layout in first}) > 25
    for other in others:
        second = [SceneDataset(other).compose_layout(index) for index in range(30)]
        assert sum(a == b for a, b in zip(first, second, strict=True)) == 0


def test_a_sample_is_the_scene() -> None:
    data = SceneDataset(SMALL)
    for index in range(5):
        sample, scene = data.read_example(index), data.render_scene(index)
        assert sample.name == f"scenes/7/{index}"
        assert sample.caption == scene.caption
        assert sample.pixels.dtype == np.uint8
        assert sample.masks.dtype == np.bool_
        assert sample.masks.shape == (len(scene.objects), 64, 64)
        np.testing.assert_array_equal(sample.pixels, scene.pixels)
        for mask, placed in zip(sample.masks, scene.objects, strict=True):
            np.testing.assert_array_equal(mask, placed.mask)


def recompose(layout: SceneLayout, size: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The picture by Pillow's own compositing and the masks from a map of who is on top."""
    background = np.zeros((size, size, 4), np.uint8)
    for y, x, channel in itertools.product(range(size), range(size), range(3)):
        along = ((y if layout.gradient_direction == "down" else x) + 0.5) / size - 0.5
        shade = round(layout.tint[channel] + layout.brightness_gradient * along)
        background[y, x, channel] = min(255, max(0, shade))
    background[..., 3] = 255
    picture = Image.fromarray(background)
    on_top = np.zeros((size, size), int)
    for number, placed in enumerate(layout.objects, start=1):
        side = round(placed.side * size)
        corner = [min(max(round(c * size - side / 2), 0), size - side) for c in placed.centre]
        small = load_premultiplied_sprite(placed.name, placed.colour).resize(
            (side, side), Image.Resampling.HAMMING
        )
        small = small.convert("RGBA")
        picture.alpha_composite(small, (corner[0], corner[1]))
        alpha = np.asarray(small)[..., 3]
        window = on_top[corner[1] : corner[1] + side, corner[0] : corner[0] + side]
        window[alpha > 127] = number
    masks = [on_top == number for number in range(1, len(layout.objects) + 1)]
    return np.asarray(picture.convert("RGB")), masks


def test_pixels_and_masks_are_those_of_an_independent_recomposition() -> None:
    data = SceneDataset(SMALL)
    for index in range(12):
        layout = data.compose_layout(index)
        pixels, masks = recompose(layout, 64)
        scene = data.render_scene(index)
        difference = np.abs(pixels.astype(int) - scene.pixels)
        assert difference.max() <= 3, f"max {difference.max()}, mean {difference.mean():.3f}"
        for mention, placed in zip(layout.caption.mentions, scene.objects, strict=True):
            np.testing.assert_array_equal(placed.mask, masks[mention.object_index])


def test_a_mask_loses_what_a_later_object_covers() -> None:
    placed_objects = (
        PlacedObject("house", None, None, 0.6, (0.4, 0.5)),
        PlacedObject("moon", None, None, 0.5, (0.6, 0.5)),
    )
    mentions = tuple(Mention(i, s.name, (0, 1), None, None) for i, s in enumerate(placed_objects))
    caption = Caption("a house and a moon", mentions, ())
    layout = SceneLayout(placed_objects, "row", "teal", (24, 168, 170), 0, "down", caption)
    pixels, (house, moon) = render_picture_and_masks(layout, 64)
    expected_pixels, (expected_house, expected_moon) = recompose(layout, 64)
    np.testing.assert_array_equal(moon, expected_moon)
    np.testing.assert_array_equal(house, expected_house)
    assert np.abs(expected_pixels.astype(int) - pixels).max() <= 3
    alone = render_picture_and_masks(
        SceneLayout(placed_objects[:1], "single", "teal", (24, 168, 170), 0, "down", caption), 64
    )[1][0]
    assert 0 < house.sum() < alone.sum()
    assert not (house & moon).any()


def test_boxes_are_the_extent_of_the_masks_and_every_object_is_visible(scenes: list[Scene]) -> None:
    for scene in scenes:
        for placed in scene.objects:
            ys, xs = np.nonzero(placed.mask)
            assert placed.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert placed.mask.sum() > 0.005 * placed.mask.size, scene.caption


def test_stated_relations_are_true_of_the_masks(scenes: list[Scene]) -> None:
    stated = 0
    for scene in scenes:
        for subject, relation, other in scene.relations:
            stated += 1
            assert is_true(scene.objects[subject], relation, scene.objects[other]), scene.caption
    assert stated > 200


# What the sentence itself says, read without the templates: "<a> {between} <b> {after}".
READINGS = (
    (r" (to the )?left of an? ([a-z]+ )*", "", "left"),
    (r" (to the )?right of an? ([a-z]+ )*", "", "right"),
    (r" (above|over) an? ([a-z]+ )*", "", "above"),
    (r" (below|under) an? ([a-z]+ )*", "", "below"),
    (r" with an? ([a-z]+ )*", " to its right", "left"),
    (r" with an? ([a-z]+ )*", " to its left", "right"),
    (r" with an? ([a-z]+ )*", " below it", "above"),
    (r" with an? ([a-z]+ )*", " above it", "below"),
    (r" on the left and an? ([a-z]+ )*", " on the right", "left"),
    (r" at the top and an? ([a-z]+ )*", " at the bottom", "above"),
)


def test_relations_read_from_the_sentence_alone_are_true_of_the_masks(scenes: list[Scene]) -> None:
    read: Counter[str] = Counter()
    for scene in scenes:
        for first, second in itertools.pairwise(scene.objects):
            between = scene.caption[first.span[1] : second.span[0]]
            after = scene.caption[second.span[1] :]
            for pattern, end, relation in READINGS:
                if re.fullmatch(pattern, between) and after.startswith(end):
                    read[pattern + end] += 1
                    assert is_true(first, relation, second), scene.caption
        if scene.caption.startswith("from "):
            relation = "left" if "left to right" in scene.caption else "above"
            for first, second in itertools.pairwise(scene.objects):
                read["from"] += 1
                assert is_true(first, relation, second), scene.caption
    assert set(read) == {pattern + end for pattern, end, _ in READINGS} | {"from"}


def test_sizes_said_are_true_of_the_masks(scenes: list[Scene]) -> None:
    said: Counter[str] = Counter()
    for scene in scenes:
        for placed in scene.objects:
            before = scene.caption[: placed.span[0]].split()
            word = next((w for w in reversed(before[-2:]) if w in ("small", "large")), None)
            left, top, right, bottom = placed.box
            side = max(right - left, bottom - top) / 64
            said[word or "none"] += 1
            if word == "small":
                assert side < 0.44, scene.caption
            if word == "large":
                assert side > 0.5, scene.caption
    assert said["small"] > 30
    assert said["large"] > 30


def test_spans_point_at_the_words_in_caption_order(scenes: list[Scene]) -> None:
    synonyms_used = 0
    for scene in scenes:
        starts = [placed.span[0] for placed in scene.objects]
        assert starts == sorted(starts)
        for placed in scene.objects:
            thing = load_object_entries_by_name()[placed.name]
            assert scene.caption[slice(*placed.span)] == placed.word
            assert placed.word in (thing.name, *thing.synonyms)
            synonyms_used += placed.word != thing.name
    assert synonyms_used > 20


def test_a_colour_said_is_painted_or_natural_and_a_painted_one_is_always_said(
    scenes: list[Scene],
) -> None:
    painted = natural = 0
    for scene in scenes:
        for placed in scene.objects:
            before = scene.caption[: placed.span[0]].split()[-1]
            if placed.colour is not None:
                assert before == placed.colour, scene.caption
                painted += 1
            elif before in HUE_RANGES:
                assert before == load_object_entries_by_name()[placed.name].natural_colour, (
                    scene.caption
                )
                natural += 1
    assert painted > 40
    assert natural > 40


def in_range(hue: float, name: str) -> bool:
    low, high = HUE_RANGES[name]
    return low <= hue < high if low < high else hue >= low or hue < high


@pytest.mark.parametrize(
    "name", [thing.name for thing in load_object_entries_by_name().values() if thing.repaintable]
)
def test_a_repainted_object_is_mostly_of_its_new_colour(name: str) -> None:
    natural = np.asarray(load_premultiplied_sprite(name, None).convert("RGBA"))[::4, ::4].astype(
        int
    )
    for colour in load_object_entries_by_name()[name].paint_colours:
        rgba = np.asarray(load_premultiplied_sprite(name, colour).convert("RGBA"))[::4, ::4]
        assert (rgba[..., 3] == natural[..., 3]).all()
        solid = rgba[..., 3] > 250
        changed = solid & (np.abs(rgba[..., :3] - natural[..., :3]).max(axis=-1) > 24)
        assert changed.sum() > 0.15 * solid.sum()
        hsv = [colorsys.rgb_to_hsv(*(pixel / 255)) for pixel in rgba[changed][:, :3]]
        hues = [360 * hue for hue, saturation, value in hsv if saturation > 0.25 and value > 0.4]
        right = sum(in_range(hue, colour) for hue in hues) / len(hues)
        assert right > 0.75, f"{right:.0%} of what is new on a {colour} {name} is {colour}"


def test_repainting_leaves_other_hues_and_grays_alone() -> None:
    before = np.asarray(load_premultiplied_sprite("car", None).convert("RGBA")).astype(int)
    after = np.asarray(load_premultiplied_sprite("car", "green").convert("RGBA")).astype(int)
    red, green, blue, alpha = before[..., 0], before[..., 1], before[..., 2], before[..., 3]
    windows = (alpha > 250) & (blue > 200) & (green > 120) & (red < 130)
    body = (alpha > 250) & (red > 200) & (green < 60) & (blue < 90)
    assert windows.sum() > 300
    assert body.sum() > 300
    assert np.abs(after - before)[windows].max() <= 1
    assert (after[..., 1] > after[..., 0])[body].all()


def test_the_background_is_of_its_name_and_named_truly_in_six_of_ten_captions(
    scenes: list[Scene],
) -> None:
    said = 0
    for scene in scenes:
        # alone at its edges, where no object stands
        free = ~np.any([placed.mask for placed in scene.objects], axis=0)
        seen = np.median(scene.pixels[free], axis=0)
        nearest = min(
            BACKGROUND_COLOURS, key=lambda name: np.abs(seen - BACKGROUND_COLOURS[name]).sum()
        )
        assert nearest == scene.background
        named = re.search(r"(\w+) background", scene.caption)
        if named is not None:
            said += 1
            assert named[1] == scene.background
    assert said / len(scenes) == pytest.approx(0.6, abs=0.06)


def test_any_two_objects_have_a_background_before_which_both_are_seen() -> None:
    clear = {
        (thing.name, colour): list_contrasting_backgrounds(thing.name, colour)
        for thing in load_object_entries_by_name().values()
        for colour in (None, *thing.paint_colours)
    }
    assert "green" not in clear["tree", None]
    assert "gray" not in clear["elephant", None]
    assert "blue" not in clear["car", "blue"]
    assert "orange" not in clear["star", None]
    assert "pink" not in clear["swan", None]
    for (one, first), (other, second) in itertools.combinations(clear.items(), 2):
        assert len(first & second) >= 2, f"{one} and {other} share too few backgrounds"


def test_captions_are_short_lower_case_and_name_every_object_once() -> None:
    data = SceneDataset(SceneDatasetConfig(vocabulary="all"))
    counts: Counter[int] = Counter()
    for index in range(2500):
        layout = data.compose_layout(index)
        text = layout.caption.text
        counts[len(layout.objects)] += 1
        assert text == text.lower()
        assert len(text.split()) <= MAX_CAPTION_WORDS
        assert "{" not in text
        assert "  " not in text
        assert sorted(m.object_index for m in layout.caption.mentions) == list(
            range(len(layout.objects))
        )
        assert not re.search(r"\ba ([aeio]|umbrella)", text), text
        assert not re.search(r"\ban (?![aeio]|umbrella)", text), text
    for count, share in ((1, 0.45), (2, 0.4), (3, 0.15)):
        assert counts[count] / 2500 == pytest.approx(share, abs=0.03)


def combinations(layout: SceneLayout) -> set[object]:
    """The held-out combinations a layout shows."""
    names = [placed.name for placed in layout.objects]
    pairs = {frozenset(pair) for pair in itertools.combinations(names, 2)}
    colours = {(placed.name, placed.colour) for placed in layout.objects}
    return (pairs & load_held_out_combinations().pairs) | (
        colours & load_held_out_combinations().colours
    )


@pytest.mark.parametrize("vocabulary", ["core", "all"])
def test_training_never_shows_a_held_out_combination(vocabulary: str) -> None:
    data = SceneDataset(SceneDatasetConfig(seed=3, vocabulary=vocabulary))
    for index in range(3000):
        assert not combinations(data.compose_layout(index))


def test_every_held_out_scene_shows_one_and_together_they_show_all() -> None:
    data = SceneDataset(SceneDatasetConfig(seed=3, split="held_out"))
    shown: set[object] = set()
    for index in range(1500):
        layout = data.compose_layout(index)
        here = combinations(layout)
        assert here
        assert layout.background in list_contrasting_backgrounds(
            layout.objects[0].name, layout.objects[0].colour
        )
        shown |= here
    assert shown == load_held_out_combinations().pairs | load_held_out_combinations().colours


def test_the_hold_out_file_lists_what_could_otherwise_occur() -> None:
    core = {name for name, thing in load_object_entries_by_name().items() if thing.core}
    paintings = sum(len(load_object_entries_by_name()[name].paint_colours) for name in core)
    assert all(len(pair) == 2 and pair <= core for pair in load_held_out_combinations().pairs)
    assert set().union(*load_held_out_combinations().pairs) == core
    assert 0.05 <= len(load_held_out_combinations().pairs) / (48 * 47 / 2) <= 0.08
    assert all(
        colour in load_object_entries_by_name()[name].paint_colours
        for name, colour in load_held_out_combinations().colours
    )
    assert 0.08 <= len(load_held_out_combinations().colours) / paintings <= 0.12
    assert {colour for _, colour in load_held_out_combinations().colours} == set(HUE_RANGES)


def test_the_objects_are_complete_small_and_licensed() -> None:
    assert len(load_object_entries_by_name()) >= 100
    assert sum(thing.core for thing in load_object_entries_by_name().values()) == 48
    total = 0
    for thing in load_object_entries_by_name().values():
        data = find_scene_assets_folder().joinpath(thing.file).read_bytes()
        total += len(data)
        assert load_premultiplied_sprite(thing.name, None).size == (128, 128)
        left, top, right, bottom = (
            load_premultiplied_sprite(thing.name, None).convert("RGBA").getbbox()
        )
        assert max(right - left, bottom - top) >= 124, thing.name
    assert total < 2_000_000
    assert "Microsoft" in find_scene_assets_folder().joinpath("LICENSE").read_text(encoding="utf-8")
    words = [
        word
        for thing in load_object_entries_by_name().values()
        for word in (thing.name, *thing.synonyms)
    ]
    assert not [word for word, times in Counter(words).items() if times > 1]


@pytest.mark.parametrize("size", [32, 100, 256])
def test_any_size_shows_the_same_scene(size: int) -> None:
    small, other = SceneDataset(SMALL), SceneDataset(SMALL.model_copy(update={"size": size}))
    for index in range(20):
        a, b = small.render_scene(index), other.render_scene(index)
        assert b.pixels.shape == (size, size, 3)
        assert a.caption == b.caption
        for first, second in zip(a.objects, b.objects, strict=True):
            assert centre(first) == pytest.approx(centre(second), abs=1.5 / min(size, 64))


def test_a_vocabulary_and_a_number_of_objects_are_kept_to() -> None:
    data = SceneDataset(SceneDatasetConfig(vocabulary=("cat", "dog", "car"), max_objects=2))
    layouts = [data.compose_layout(index) for index in range(200)]
    assert {placed.name for layout in layouts for placed in layout.objects} == {"cat", "dog", "car"}
    assert {len(layout.objects) for layout in layouts} == {1, 2}
    alone = SceneDataset(SceneDatasetConfig(vocabulary=("cat",)))
    assert all(len(alone.compose_layout(index).objects) == 1 for index in range(20))


def test_an_unknown_object_is_refused_with_the_nearest() -> None:
    with pytest.raises(ArgumentError, match=r"no object is called 'aple'. Did you mean 'apple'\?"):
        SceneDataset(SceneDatasetConfig(vocabulary=("cat", "aple")))


def test_an_empty_vocabulary_is_refused() -> None:
    with pytest.raises(ArgumentError, match="vocabulary is empty: name at least one object"):
        SceneDataset(SceneDatasetConfig(vocabulary=()))


def test_a_held_out_split_without_combinations_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"nothing to show.*can be made of cat, dog"):
        SceneDataset(SceneDatasetConfig(vocabulary=("cat", "dog"), split="held_out"))


def test_an_index_outside_is_refused() -> None:
    data = SceneDataset(SceneDatasetConfig(length=5))
    assert len(data) == 5
    for index in (5, -1):
        with pytest.raises(IndexError, match=f"No scene {index}: there are 5, counted from 0"):
            data.read_example(index)


@pytest.mark.parametrize(
    ("key", "value"), [("size", 31), ("max_objects", 4), ("split", "test"), ("sizes", 64)]
)
def test_a_config_out_of_range_or_with_an_unknown_key_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValidationError, match=key):
        SceneDatasetConfig(**{key: value})


def test_the_sheet_shows_each_scene_beside_its_masks() -> None:
    data = SceneDataset(SMALL)
    index = next(i for i in range(50) if len(data.read_example(i).masks) == 2)
    bare, full = (
        draw_training_example_sheet(data, [index], masks=False),
        draw_training_example_sheet(data, [index]),
    )
    assert full.width > 2 * bare.width - 20
    overlay = np.asarray(full)[:, full.width // 2 :].astype(int)
    for mask, colour in zip(data.read_example(index).masks, MASK_COLOURS, strict=False):
        shown = np.abs(overlay - 0.75 * np.array(colour) - 45).max(axis=-1) < 25
        assert shown.sum() == pytest.approx(9 * mask.sum(), rel=0.2)


def test_the_sheet_refuses_a_sample_that_is_not_there() -> None:
    with pytest.raises(ArgumentError, match="No sample 7: the data set holds 5"):
        draw_training_example_sheet(SceneDataset(SceneDatasetConfig(length=5)), [1, 7])


@pytest.mark.parametrize(
    ("share", "counted"),
    [
        ("alone", lambda scene: len(scene.objects) == 1),
        ("repainted", lambda scene: any(o.colour for o in scene.objects)),
        ("stated", lambda scene: bool(scene.relations)),
    ],
)
def test_a_share_of_the_scenes_says_how_often(share: str, counted: Callable[[Scene], bool]) -> None:
    def found(value: float) -> float:
        of_one = {} if share == "alone" else {"alone": 0.0}
        data = SceneDataset(
            SceneDatasetConfig(size=32, seed=3, max_objects=2, **of_one, **{share: value})
        )
        return sum(counted(data.render_scene(index)) for index in range(200)) / 200

    never, half, always = found(0.0), found(0.5), found(1.0)
    assert never == 0
    assert 0.3 < half < 0.9 * always
    assert always > 0.6
