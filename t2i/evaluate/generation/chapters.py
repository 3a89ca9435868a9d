"""Report of the generation part: tables, plots and galleries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2i.evaluate.generation.feature_distance import scenes_distance
from t2i.evaluate.generation.judge import CRITERIA
from t2i.evaluate.generation.records import PictureRecord, SamplingRun
from t2i.evaluate.generation.sampling_choice import (
    CHOICE_CRITERION,
    SamplingChoice,
    choose_best_and_cheapest,
)
from t2i.evaluate.report.chapter import Block, Cell, Chapter, Estimate, Gallery, Plot, Table
from t2i.evaluate.report.statistics import (
    independent_difference,
    mean_with_bootstrap_interval,
    proportion_with_interval,
)

SPLIT_HEADS = {"seen": "seen", "held_out": "held out"}
"""Splits of the tables -> their heads."""
PLOTTED_CRITERIA = ("one", "both", "relation", "background", "recolour", "everything")
LOSS_HEAD = f"{CRITERIA[CHOICE_CRITERION]}, less the best"
CHEAPEST_HEAD = "the cheapest not significantly worse"
GALLERY_SIZE = 12
"""Pictures of a gallery."""
SWEEP_TITLES = {
    "guidance": ("Against the guidance scale", "guidance scale"),
    "steps": ("Against the number of steps", "steps"),
    "samplers": ("Other samplers", "sampler"),
    "methods": ("Other methods of guidance", "method"),
}


@dataclass(frozen=True, slots=True)
class GenerationResults:
    """All pictures of a finished generation part.

    real, drawn : by split
    sweeps : name of what is varied -> a run for each value
    default_labels : name of what is varied -> label of the run with the model's default
    sampling_text : description of how `drawn` was sampled
    """

    real: Mapping[str, SamplingRun]
    drawn: Mapping[str, SamplingRun]
    sweeps: Mapping[str, Sequence[SamplingRun]]
    default_labels: Mapping[str, str]
    sampling_text: str


def build_chapters(results: GenerationResults) -> list[Chapter]:
    """Build the chapters of the part; those without blocks are left out."""
    chapters = [
        build_recogniser_chapter(results),
        build_generation_chapter(results),
        build_sampling_chapter(results),
        build_pictures_chapter(results),
    ]
    return [chapter for chapter in chapters if chapter.blocks]


def build_recogniser_chapter(results: GenerationResults) -> Chapter:
    """Build the chapter of real scenes: the recogniser's own error."""
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
    """Build the chapter of generated pictures: accuracy, control, distances and scores."""
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
        build_control_table(results),
        build_distance_table(results),
        *build_score_tables(results),
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
    runs: Mapping[str, SamplingRun], compared: bool = False
) -> list[tuple[str, list[Cell]]]:
    """Build a row for each criterion; `compared` appends the second run less the first."""
    rows: list[tuple[str, list[Cell]]] = []
    for kind, title in CRITERIA.items():
        figures = [proportion_with_interval(run.list_flags(kind)) for run in runs.values()]
        if not any(figures):
            continue
        change = [independent_difference(figures[1], figures[0])] if compared else []
        rows.append((title, [*figures, *change]))
    return rows


def build_control_table(results: GenerationResults) -> Table:
    """Build the table of pictures judged by other captions, beside real scenes judged so.

    Real scenes give the level of chance for these captions.
    """
    heads = ["drawn", "drawn, another's caption", "real, another's caption"]
    rows: list[tuple[str, list[Cell]]] = []
    for kind, title in CRITERIA.items():
        own = [flag for run in results.drawn.values() for flag in run.list_flags(kind)]
        drawn = [
            flag for run in results.drawn.values() for flag in run.list_other_caption_flags(kind)
        ]
        real = [
            flag for run in results.real.values() for flag in run.list_other_caption_flags(kind)
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


def build_distance_table(results: GenerationResults) -> Table:
    """Build the table of Frechet distances between real scenes and generated pictures."""
    heads = ["real scenes to drawn pictures", "real scenes to real scenes"]
    rows: list[tuple[str, list[Cell]]] = []
    for split, drawn in results.drawn.items():
        real = results.real[split].pictures
        rows.append(
            (
                SPLIT_HEADS[split],
                [split_half_distance(real, drawn.pictures), split_half_distance(real, real)],
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


def build_score_tables(results: GenerationResults) -> list[Table]:
    """Build the table of caption scores; none without a caption matcher."""
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


def split_half_distance(
    real: Sequence[PictureRecord], others: Sequence[PictureRecord]
) -> Estimate | None:
    """Return the distance of halves with different captions, averaged over both ways round.

    Real to real is the floor. None where a half has fewer than two pictures.
    """
    halves = [[p.features for p in pictures] for pictures in (real[::2], others[1::2])]
    again = [[p.features for p in pictures] for pictures in (real[1::2], others[::2])]
    if min(len(half) for half in (*halves, *again)) < 2:
        return None
    value = (scenes_distance(*halves) + scenes_distance(*again)) / 2
    return Estimate(value, None, None, len(halves[1]) + len(again[1]))


def build_sampling_chapter(results: GenerationResults) -> Chapter:
    """Build the chapter of the sweeps, headed by the recommended settings."""
    choices = {
        name: choice
        for name, runs in results.sweeps.items()
        if (choice := choose_best_and_cheapest(runs, results.default_labels[name])) is not None
    }
    blocks: list[Block] = []
    if choices:
        blocks.append(build_choice_table(choices, results.default_labels))
    for name, runs in results.sweeps.items():
        title, across = SWEEP_TITLES[name]
        if name in ("guidance", "steps"):
            blocks.append(build_sweep_plot(name, title, across, runs))
            title += ", in figures"
        blocks.append(build_sweep_table(name, title, runs, choices.get(name)))
    return Chapter(
        name="sampling",
        title="How to sample",
        text="Pictures of scenes that no other table uses, sampled with one setting varied "
        "at a time. There are fewer pictures than above, but all settings use the same scenes and "
        "the same noise, so that they are compared scene by scene. The first table names the "
        f"cheapest setting that is not significantly worse than the best by "
        f"{CRITERIA[CHOICE_CRITERION]!r}; its true loss may be as large as the low end of the "
        "interval beside it. Image quality is not judged. "
        "Denoiser passes are the cost of a picture on any machine; seconds are those of one "
        "picture, drawn in batches, on the machine named below.",
        blocks=blocks,
    )


def build_choice_table(choices: Mapping[str, SamplingChoice], own: Mapping[str, str]) -> Table:
    """Build the table of the recommended settings beside the model's defaults."""
    heads = ["the model's own", "the best", CHEAPEST_HEAD, "its passes of the denoiser", LOSS_HEAD]
    rows: list[tuple[str, list[Cell]]] = [
        (
            SWEEP_TITLES[name][1],
            [
                own[name],
                choice.best.label,
                choice.cheapest.label,
                f"{choice.cheapest.passes:g}",
                choice.losses.get(choice.cheapest.label, "it is the best"),
            ],
        )
        for name, choice in choices.items()
    ]
    return Table(
        name="sampling_choice",
        title="The cheapest setting that is not significantly worse than the best",
        heads=heads,
        rows=rows,
        units={LOSS_HEAD: "points"},
        better={},
    )


def build_sweep_plot(name: str, title: str, across: str, runs: Sequence[SamplingRun]) -> Plot:
    """Build the plot of each criterion over the varied value."""
    lines: dict[str, list[tuple[float, Estimate]]] = {}
    for kind in PLOTTED_CRITERIA:
        points = [(run.value, proportion_with_interval(run.list_flags(kind))) for run in runs]
        there = [(value, figure) for value, figure in points if figure is not None]
        if there:
            lines[CRITERIA[kind]] = there
    return Plot(name, title, across, "share of pictures", lines)


def build_sweep_table(
    name: str, title: str, runs: Sequence[SamplingRun], choice: SamplingChoice | None
) -> Table:
    """Build the table of a sweep: criteria, loss against the best, and cost."""
    kinds = [kind for kind in PLOTTED_CRITERIA if any(run.list_flags(kind) for run in runs)]
    lost: Mapping[str, Estimate] = {} if choice is None else choice.losses
    rows: list[tuple[str, list[Cell]]] = [
        (
            run.label,
            [
                *(proportion_with_interval(run.list_flags(kind)) for kind in kinds),
                lost.get(run.label),
                f"{run.passes:g}",
                mean_with_bootstrap_interval(run.seconds),
            ],
        )
        for run in runs
    ]
    heads = [CRITERIA[kind] for kind in kinds]
    return Table(
        name=f"{name}_table",
        title=title,
        heads=[*heads, LOSS_HEAD, "passes", "seconds"],
        rows=rows,
        units=dict.fromkeys(heads, "%") | {LOSS_HEAD: "points", "seconds": "s"},
        better={**dict.fromkeys(heads, "higher"), "seconds": "lower"},
    )


def build_pictures_chapter(results: GenerationResults) -> Chapter:
    """Build the galleries: the worst beside the best, and the first ones unselected."""
    blocks: list[Block] = []
    for split, run in results.drawn.items():
        ranked = sorted(run.pictures, key=lambda p: (-len(p.mistakes), p.number))
        best = sorted(run.pictures, key=lambda p: (len(p.mistakes), p.number))
        count = min(GALLERY_SIZE, len(ranked) // 2)
        flawless = sum(not picture.mistakes for picture in ranked)
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
    """Build a gallery with the caption and the mistakes under each picture."""
    labels = [
        picture.caption
        + (f" [{'; '.join(dict.fromkeys(picture.mistakes))}]" if picture.mistakes else "")
        for picture in pictures
    ]
    files = [picture.file or "" for picture in pictures]
    return Gallery(name, title, list(zip(files, labels, strict=True)))
