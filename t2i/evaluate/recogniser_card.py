"""Export a trained recogniser with a card of its accuracy.

`python -m t2i.evaluate.recogniser_card RUN FOLDER` writes it.

RUN is that of configs/train/agreement.toml, whose model also holds its recogniser. Both are
copied, together with a README.md that gives their accuracy on scenes of other seeds.
"""

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from t2i.atomic_folders import atomic_folder
from t2i.errors import OutputError, T2IError
from t2i.evaluate.generation.judge import (
    build_caption_statement,
    judge_by_other_captions,
    judge_by_statement,
)
from t2i.evaluate.report.chapter import Estimate, Table
from t2i.evaluate.report.markdown import render_table
from t2i.evaluate.report.statistics import mean_with_bootstrap_interval, proportion_with_interval
from t2i.pictures import build_picture_grid, save_picture
from t2i.scenes.caption_matcher import CaptionMatcher
from t2i.scenes.recognised_objects import Recognition
from t2i.scenes.recogniser import CONFIG_FILE
from t2i.scenes.scenes import Scene, SceneDataset, SceneDatasetConfig
from t2i.terminal import print_note_to_stderr, print_result_line
from train.loop import MODEL_FOLDER
from train.targets.caption_matcher import swap_position_words
from train.targets.recogniser import draw_beside_highlighted_objects, format_recognised_objects

SEED = 9000
BATCH_SIZE = 16
SHEET_SCENES = 12
SPLIT_TITLES = {
    "train": "scenes of other seeds",
    "held_out": "combinations no model was shown",
}
CRITERION_QUESTIONS = {
    "each": "each object is there",
    "nothing_else": "nothing else is there",
    "relation": "what stands where",
    "background": "background",
    "recolour": "new colour",
    "natural": "own colour",
}
CARD_TEMPLATE = """# The recogniser of t2i

Tells which objects of `scenes` are in a picture, where, in which colour and before which
background, and how well a caption fits: what `t2i evaluate` judges pictures with. It knows
{objects} objects, {backgrounds} backgrounds and {colours} colours, at {size} x {size} pixels, and
nothing else: what looks like none of them is "something".

It learned by the loop in `train/` (`configs/train/recogniser.toml`, then `agreement.toml`) from
compositions of its own: any object in any place, size and company, warped, blurred and
recoloured, some spoiled until they have no name; no picture of a model was among them. Weights
are the exponential moving average, in fp16: {weights}.

## How well it does

On scenes it never saw, as they were composed. Shares with Wilson's 95 % interval; the figures of
`t2i evaluate` can be no better than these.

{table}

The text-picture score is the cosine of two embeddings learned contrastively; it is no CLIP score.
{confused}

![{shown} scenes, the first of the seed, and what was recognised](recognised.png)

## Licence

Apache-2.0. Trained only on pictures composed of Microsoft's Fluent Emoji (MIT), which
`t2i/assets/scenes` ships.
"""


@dataclass(slots=True)
class RecognitionTally:
    """Tally of the results of recogniser and caption matcher on the scenes of a split.

    criterion_results : criterion -> results of the scenes judged by their own captions
    other_caption_results : the same, judged by the captions of other scenes
    mask_ious : IoU of each object's true and recognised mask
    confusions : (missed object, object recognised instead) -> count
    beats_next_caption : per scene, whether its caption scores above the next scene's
    beats_swapped_positions : per scene, whether its caption scores above itself with positions
        swapped; only for captions that state positions
    """

    criterion_results: dict[str, list[bool]] = field(
        default_factory=lambda: {name: [] for name in CRITERION_QUESTIONS}
    )
    other_caption_results: dict[str, list[bool]] = field(
        default_factory=lambda: {name: [] for name in CRITERION_QUESTIONS}
    )
    mask_ious: list[float] = field(default_factory=list)
    confusions: Counter[tuple[str, str]] = field(default_factory=Counter)
    beats_next_caption: list[bool] = field(default_factory=list)
    beats_swapped_positions: list[bool] = field(default_factory=list)


def tally_recognition_of_split(
    caption_matcher: CaptionMatcher, scenes: SceneDataset, count: int
) -> RecognitionTally:
    """Recognise the first `count` scenes of a data set and return a tally of how well recogniser
    and caption matcher judge them.
    """
    found = RecognitionTally()
    statements = [build_caption_statement(scenes.compose_layout(number)) for number in range(count)]
    for start in range(0, count, BATCH_SIZE):
        numbers = range(start, min(start + BATCH_SIZE, count))
        batch = [scenes.render_scene(number) for number in numbers]
        pictures = [Image.fromarray(scene.pixels) for scene in batch]
        for number, scene, seen in zip(
            numbers, batch, caption_matcher.recogniser.recognise(pictures), strict=True
        ):
            right = judge_by_statement(statements[number], seen)
            right["each"] = right.get("each", []) + right.get("one", [])
            other = judge_by_other_captions(statements, number, seen)
            other["each"] = other.get("each", []) + other.get("one", [])
            for name in CRITERION_QUESTIONS:
                found.criterion_results[name] += right.get(name, [])
                found.other_caption_results[name] += other.get(name, [])
            found.mask_ious += compute_object_ious(scene, seen)
            found.confusions.update(iter_object_confusions(scene, seen))
        captions = [scene.caption for scene in batch]
        add_caption_comparisons_to_tally(caption_matcher, pictures, captions, found)
    return found


def add_caption_comparisons_to_tally(
    caption_matcher: CaptionMatcher,
    pictures: list[Image.Image],
    captions: list[str],
    found: RecognitionTally,
) -> None:
    """Add to a tally whether each picture's own caption scores above the next picture's caption,
    and above itself with positions swapped.

    The wrong ones are the next picture's caption, and its own with reversed positions.
    """
    own_B = caption_matcher.compute_paired_similarities(pictures, captions)
    next_B = caption_matcher.compute_paired_similarities(pictures, [*captions[1:], captions[0]])
    turned = [swap_position_words(caption) for caption in captions]
    turned_B = caption_matcher.compute_paired_similarities(pictures, turned)
    found.beats_next_caption += (own_B > next_B).tolist()
    found.beats_swapped_positions += [
        better
        for better, one, other in zip((own_B > turned_B).tolist(), captions, turned, strict=True)
        if one != other
    ]


def compute_object_ious(scene: Scene, seen: Recognition) -> list[float]:
    """Return the IoU of each object's true and recognised mask; 0 if it was not recognised."""
    shares = []
    for placed in scene.objects:
        mask = seen.objects[placed.name].mask if placed.name in seen.objects else None
        union = placed.mask if mask is None else placed.mask | mask
        both = np.zeros_like(placed.mask) if mask is None else placed.mask & mask
        shares.append(float(both.sum() / union.sum()))
    return shares


def iter_object_confusions(scene: Scene, seen: Recognition) -> Iterator[tuple[str, str]]:
    """Yield the name of each object of a scene that was not recognised, with the name of a wrongly
    recognised object instead, or "nothing".
    """
    there = {placed.name for placed in scene.objects}
    for placed in scene.objects:
        if placed.name not in seen.objects:
            others = [name for name in seen.objects if name not in there]
            yield placed.name, others[0] if others else "nothing"


def build_recognition_table(tallies: dict[str, RecognitionTally]) -> Table:
    """Build the table of the recogniser's accuracy on each split, beside wrong captions."""

    def figures(name: str) -> list[Estimate | None]:
        return [
            proportion_with_interval(flags[name])
            for found in tallies.values()
            for flags in (found.criterion_results, found.other_caption_results)
        ]

    rows: list[tuple[str, list[Estimate | str | None]]] = [
        (question, [*figures(name)]) for name, question in CRITERION_QUESTIONS.items()
    ]
    empty: list[tuple[str, str]] = [
        ("mask_ious", "overlap of an object's pixels (mean IoU)"),
        ("beats_next_caption", "fits its caption better than another's"),
        ("beats_swapped_positions", "fits it better than with the places turned round"),
    ]
    for name, question in empty:
        cells: list[Estimate | str | None] = []
        for found in tallies.values():
            values = getattr(found, name)
            cells += [
                mean_with_bootstrap_interval(values)
                if name == "mask_ious"
                else proportion_with_interval(values),
                None,
            ]
        rows.append((question, cells))
    heads = [
        head
        for split in tallies
        for head in (SPLIT_TITLES[split], f"{SPLIT_TITLES[split]}: another's caption")
    ]
    title = "the recogniser on real scenes"
    units = dict.fromkeys(heads, "%")
    return Table("recogniser", title, heads, rows, units, dict.fromkeys(heads[::2], "higher"))


def draw_recognition_sheet(caption_matcher: CaptionMatcher, scenes: SceneDataset) -> Image.Image:
    """Build a sheet of the first SHEET_SCENES scenes with recognised objects highlighted."""
    pictures = [
        Image.fromarray(scenes.render_scene(number).pixels) for number in range(SHEET_SCENES)
    ]
    looks = caption_matcher.recogniser.recognise(pictures)
    both = [draw_beside_highlighted_objects(*one) for one in zip(pictures, looks, strict=True)]
    return build_picture_grid(both, [format_recognised_objects(seen) for seen in looks], columns=3)


def export_recogniser_with_card(run: Path, folder: Path, count: int) -> None:
    """Write a folder with a copy of a trained recogniser and its model card, with accuracies
    measured on `count` scenes of each split; print the counts to stdout.

    The folder is replaced as a whole. Raises T2IError.
    """
    if folder.exists() and not (folder / CONFIG_FILE).is_file():
        raise OutputError(f"{folder} exists and holds no recogniser: choose another folder.")
    caption_matcher = CaptionMatcher.load(run / MODEL_FOLDER)
    labels, size = caption_matcher.recogniser.labels, caption_matcher.recogniser.size
    sets = {
        "train": SceneDataset(SceneDatasetConfig(seed=SEED, size=size)),
        "held_out": SceneDataset(SceneDatasetConfig(seed=SEED, size=size, split="held_out")),
    }
    tallies = {
        split: tally_recognition_of_split(caption_matcher, scenes, count)
        for split, scenes in sets.items()
    }
    confused = sum((found.confusions for found in tallies.values()), Counter[tuple[str, str]]())
    worst = ", ".join(f"{a} for {b} ({n})" for (b, a), n in confused.most_common(5))
    parts = {
        "recogniser": caption_matcher.recogniser,
        "picture side of the score": caption_matcher.eyes,
        "text side": caption_matcher.ears,
    }
    with atomic_folder(folder) as new:
        shutil.copytree(run / MODEL_FOLDER, new, dirs_exist_ok=True)
        save_picture(draw_recognition_sheet(caption_matcher, sets["train"]), new / "recognised.png")
        card = CARD_TEMPLATE.format(
            objects=len(labels.objects),
            backgrounds=len(labels.backgrounds),
            colours=len(labels.colours) - 1,
            size=size,
            weights=", ".join(
                f"{sum(p.numel() for p in part.parameters()):,} ({name})"
                for name, part in parts.items()
            ),
            table=render_table(build_recognition_table(tallies)),
            confused=f"Most often mistaken: {worst}." if worst else "No object was mistaken.",
            shown=SHEET_SCENES,
        )
        (new / "README.md").write_text(card, "utf-8")
        counts = {split: len(found.mask_ious) for split, found in tallies.items()}
        print_result_line(json.dumps({"objects": counts, "folder": str(folder)}))


def main() -> None:
    """Export a trained recogniser with its card, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the run, such as runs/caption_matcher")
    parser.add_argument("folder", type=Path, help="where it goes; replaced")
    parser.add_argument("--count", type=int, default=1000, help="scenes of each split")
    given = parser.parse_args()
    try:
        export_recogniser_with_card(given.run, given.folder, given.count)
    except T2IError as error:
        print_note_to_stderr(f"{type(error).__name__}: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
