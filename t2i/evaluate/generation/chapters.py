"""Report of the generation part: tables, plots and galleries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2i.evaluate.generation.feature_distance import compute_frechet_distance
from t2i.evaluate.generation.judge import CRITERION_TITLES
from t2i.evaluate.generation.records import PictureRecord, SweepPoint
from t2i.evaluate.generation.sampling_chapter import build_sampling_chapter
from t2i.evaluate.generation.soft_tifa import compute_arithmetic_mean, compute_geometric_mean
from t2i.evaluate.report.chapter import Block, Cell, Chapter, Estimate, Gallery, Table
from t2i.evaluate.report.statistics import (
    independent_difference,
    mean_with_bootstrap_interval,
    proportion_with_interval,
)
from t2i.terminal import plural

SPLIT_HEADS = {"seen": "seen", "held_out": "held out"}
"""Split -> its column head in the tables."""
GALLERY_SIZE = 12
"""Pictures of a gallery."""


@dataclass(frozen=True, slots=True)
class GenerationResults:
    """Results of a finished generation part: the judged scenes and generated pictures that its
    report is about.

    real, drawn : split -> scenes of the data set; pictures that the model drew of their captions
    sweeps : varied setting -> one sampling run for each of its values
    default_labels : varied setting -> label of the run with the model's default
    sampling_text : description of how `drawn` was sampled
    """

    real: Mapping[str, SweepPoint]
    drawn: Mapping[str, SweepPoint]
    sweeps: Mapping[str, Sequence[SweepPoint]]
    default_labels: Mapping[str, str]
    sampling_text: str


def build_chapters(results: GenerationResults) -> list[Chapter]:
    """Build the report chapters of the generation part; empty ones are left out."""
    chapters = [
        build_recogniser_chapter(results),
        build_generation_chapter(results),
        build_sampling_chapter(results.sweeps, results.default_labels),
        build_pictures_chapter(results),
    ]
    return [chapter for chapter in chapters if chapter.blocks]


def build_recogniser_chapter(results: GenerationResults) -> Chapter:
    """Build the chapter that shows the recogniser's own error, on real scenes."""
    table = Table(
        name="recogniser",
        title="Real scenes, judged as if the model had drawn them",
        heads=[SPLIT_HEADS[split] for split in results.real],
        rows=build_criterion_rows(results.real),
        units=dict.fromkeys(SPLIT_HEADS.values(), "%"),
        better=dict.fromkeys(SPLIT_HEADS.values(), "higher"),
    )
    return Chapter(
        name="recogniser",
        title="The judge",
        text="All pictures are judged by the recogniser that comes with t2i. Here it judges real "
        "scenes by their own captions, which are true: what is missing to 100 % is its own error, "
        "so that no model can be measured to be better than this.",
        blocks=[table],
    )


def build_generation_chapter(results: GenerationResults) -> Chapter:
    """Build the chapter that shows how well generated pictures follow their captions."""
    heads = [SPLIT_HEADS[split] for split in results.drawn]
    blocks: list[Block] = [
        Table(
            name="generation",
            title=f"What was asked for is there ({results.sampling_text})",
            heads=[*heads, *["held out - seen"] * (len(heads) > 1)],
            rows=build_criterion_rows(results.drawn, compared=len(heads) > 1),
            units=dict.fromkeys(heads, "%") | {"held out - seen": "points"},
            better=dict.fromkeys([*heads, "held out - seen"], "higher"),
        ),
        build_mismatched_caption_table(results),
        *build_soft_tifa_table(results),
        build_frechet_distance_table(results),
        *build_caption_score_tables(results),
    ]
    return Chapter(
        name="generation",
        title="Generation",
        text="The model draws captions of scenes; the recogniser says what is in the pictures. "
        "Seen: combinations of objects and colours as training shows them, in scenes of other "
        "seeds. Held out: each caption has a pair of objects, or an object in a colour, that "
        "training never shows. Only statements of the caption are judged; every picture counts: a "
        "relation is wrong where one of its objects is missing, and a new colour where it is on "
        "another object.",
        blocks=blocks,
    )


def build_criterion_rows(
    runs: Mapping[str, SweepPoint], compared: bool = False
) -> list[tuple[str, list[Cell]]]:
    """Build the table row of each criterion: the share of correct pictures of each run.

    compared : append the difference of the second run to the first
    """
    rows: list[tuple[str, list[Cell]]] = []
    for kind, title in CRITERION_TITLES.items():
        figures = [
            proportion_with_interval(run.list_criterion_results(kind)) for run in runs.values()
        ]
        if not any(figures):
            continue
        change = [independent_difference(figures[1], figures[0])] if compared else []
        rows.append((title, [*figures, *change]))
    return rows


def build_mismatched_caption_table(results: GenerationResults) -> Table:
    """Build the table of pictures judged by another picture's caption, as a control.

    Rendered scenes that are judged so give the level of chance for these captions.
    """
    heads = ["drawn", "drawn, another's caption", "real, another's caption"]
    rows: list[tuple[str, list[Cell]]] = []
    for kind, title in CRITERION_TITLES.items():
        own = [flag for run in results.drawn.values() for flag in run.list_criterion_results(kind)]
        drawn = [
            flag for run in results.drawn.values() for flag in run.list_other_caption_results(kind)
        ]
        real = [
            flag for run in results.real.values() for flag in run.list_other_caption_results(kind)
        ]
        if own:
            rows.append(
                (
                    title,
                    [
                        proportion_with_interval(own),
                        proportion_with_interval(drawn),
                        proportion_with_interval(real),
                    ],
                )
            )
    return Table(
        name="control",
        title="The control: judged by the caption of the next picture that says such a thing",
        heads=heads,
        rows=rows,
        units=dict.fromkeys(heads, "%"),
        better={"drawn": "higher"},
    )


def build_soft_tifa_table(results: GenerationResults) -> list[Table]:
    """Build the table of Soft-TIFA's two means, over all captions and by their number of atoms;
    [] for records without atoms.
    """
    runs = {
        **{f"real, {SPLIT_HEADS[split]}": run for split, run in results.real.items()},
        **{f"drawn, {SPLIT_HEADS[split]}": run for split, run in results.drawn.items()},
    }
    atoms = {name: [picture.atoms or [] for picture in run.pictures] for name, run in runs.items()}
    counts = sorted({len(scores) for several in atoms.values() for scores in several if scores})
    rows: list[tuple[str, list[Cell]]] = []
    for title, mean in (
        ("arithmetic mean", compute_arithmetic_mean),
        ("geometric mean", compute_geometric_mean),
    ):
        for count in (None, *counts):
            label = title if count is None else f"{title}, {plural(count, 'atom')}"
            rows.append(
                (
                    label,
                    [
                        mean_with_bootstrap_interval(
                            [
                                mean(scores) if scores else None
                                for scores in several
                                if count in (None, len(scores))
                            ]
                        )
                        for several in atoms.values()
                    ],
                )
            )
    heads = [*runs]
    table = Table(
        name="soft_tifa",
        title="Soft-TIFA: the mean score of a caption's atoms",
        heads=heads,
        rows=rows,
        units=dict.fromkeys(heads, "%"),
        better={head: "higher" for head in heads if head.startswith("drawn")},
    )
    return [table] if counts else []


def build_frechet_distance_table(results: GenerationResults) -> Table:
    """Build the table of Frechet distances between real scenes and generated pictures."""
    heads = ["real scenes to drawn pictures", "real scenes to real scenes"]
    rows: list[tuple[str, list[Cell]]] = []
    for split, drawn in results.drawn.items():
        real = results.real[split].pictures
        rows.append(
            (
                SPLIT_HEADS[split],
                [
                    compute_cross_half_frechet_distance(real, drawn.pictures),
                    compute_cross_half_frechet_distance(real, real),
                ],
            ),
        )
    return Table(
        name="scenes_distance",
        title="Scenes distance: one half of the real scenes, to the other half drawn or real",
        heads=heads,
        rows=rows,
        units={},
        better={heads[0]: "lower"},
    )


def build_caption_score_tables(results: GenerationResults) -> list[Table]:
    """Build the table of the caption matcher's scores; [] if they were not computed."""
    heads = ["real", "real, the next caption", "drawn", "drawn, the next caption"]
    rows: list[tuple[str, list[Cell]]] = []
    for split, drawn in results.drawn.items():
        cells: list[Cell] = []
        for run in (results.real[split], drawn):
            cells += [
                mean_with_bootstrap_interval([picture.fit for picture in run.pictures]),
                mean_with_bootstrap_interval([picture.fit_of_another for picture in run.pictures]),
            ]
        if any(cells):
            rows.append((SPLIT_HEADS[split], cells))
    table = Table(
        name="text_picture_score",
        title="Text-picture score: how well the caption fits, from -1 to 1",
        heads=heads,
        rows=rows,
        units={},
        better={"drawn": "higher"},
    )
    return [table] if rows else []


def compute_cross_half_frechet_distance(
    real: Sequence[PictureRecord], others: Sequence[PictureRecord]
) -> Estimate | None:
    """Return the Frechet distance of half of `real` to the other half of `others`.

    The halves have different captions; the mean of both ways round. Real to real is the lower
    bound. None where a half has fewer than two pictures.
    """
    halves = [[p.features for p in pictures] for pictures in (real[::2], others[1::2])]
    again = [[p.features for p in pictures] for pictures in (real[1::2], others[::2])]
    if min(len(half) for half in (*halves, *again)) < 2:
        return None
    value = (compute_frechet_distance(*halves) + compute_frechet_distance(*again)) / 2
    return Estimate(value, None, None, len(halves[1]) + len(again[1]))


def build_pictures_chapter(results: GenerationResults) -> Chapter:
    """Build the chapter of galleries: the worst, the best and the first generated pictures."""
    blocks: list[Block] = []
    for split, run in results.drawn.items():
        ranked = sorted(run.pictures, key=lambda p: (-len(p.mistake_descriptions), p.number))
        best = sorted(run.pictures, key=lambda p: (len(p.mistake_descriptions), p.number))
        count = min(GALLERY_SIZE, len(ranked) // 2)
        flawless = sum(not picture.mistake_descriptions for picture in ranked)
        share_of = f"{flawless} of {len(ranked)} without a mistake"
        blocks += [
            build_judged_picture_gallery(
                f"worst_{split}", f"The worst, {SPLIT_HEADS[split]} ({share_of})", ranked[:count]
            ),
            build_judged_picture_gallery(
                f"best_{split}", f"The best, {SPLIT_HEADS[split]}", best[:count]
            ),
            build_judged_picture_gallery(
                f"first_{split}",
                f"The first, {SPLIT_HEADS[split]}, as they came",
                run.pictures[:GALLERY_SIZE],
            ),
        ]
    return Chapter(
        name="pictures",
        title="Pictures",
        text="Ranked by how many things are wrong, then in the order of the scenes: nobody chose "
        "them. Under each picture stands its caption and, in brackets, what the recogniser finds "
        "to be otherwise.",
        blocks=blocks,
    )


def build_judged_picture_gallery(
    name: str, title: str, pictures: Sequence[PictureRecord]
) -> Gallery:
    """Build a gallery of generated pictures with caption and mistakes under each."""
    labels = [
        picture.caption
        + (
            f" [{'; '.join(dict.fromkeys(picture.mistake_descriptions))}]"
            if picture.mistake_descriptions
            else ""
        )
        for picture in pictures
    ]
    files = [picture.file or "" for picture in pictures]
    return Gallery(name, title, list(zip(files, labels, strict=True)))
