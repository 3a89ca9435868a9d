"""What the records of generation say: tables, plots and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2i.evaluate.generation.feature_distance import scenes_distance
from t2i.evaluate.generation.judge import KINDS
from t2i.evaluate.generation.records import Picture, Run
from t2i.evaluate.generation.sampling_choice import JUDGED_BY, Choice, choose
from t2i.evaluate.report.chapter import Block, Cell, Chapter, Figure, Gallery, Plot, Table
from t2i.evaluate.report.statistics import difference, mean, share

SPLITS = {"seen": "seen", "held_out": "held out"}
"""Splits of the tables -> their heads."""
PLOTTED = ("one", "both", "relation", "background", "recolour", "everything")
LOST = f"{KINDS[JUDGED_BY]}, less the best"
CHEAPEST = "the cheapest not surely worse"
SHOWN = 12
"""Pictures of a gallery."""
SWEPT = {
    "guidance": ("Against the guidance scale", "guidance scale"),
    "steps": ("Against the number of steps", "steps"),
    "samplers": ("Other samplers", "sampler"),
    "methods": ("Other methods of guidance", "method"),
}


@dataclass(frozen=True, slots=True)
class Results:
    """All pictures of a part that is done.

    real, drawn : by split
    sweeps : what was varied -> a run for each value
    own : what was varied -> the label of the run that is sampled as the model likes it
    way : how `drawn` was sampled, in words
    """

    real: Mapping[str, Run]
    drawn: Mapping[str, Run]
    sweeps: Mapping[str, Sequence[Run]]
    own: Mapping[str, str]
    way: str


def chapters_of(results: Results) -> list[Chapter]:
    chapters = [ceiling(results), main(results), sampling(results), gallery(results)]
    return [chapter for chapter in chapters if chapter.blocks]


def ceiling(results: Results) -> Chapter:
    table = Table(
        name="recogniser",
        title="Real scenes, judged as if the model had drawn them",
        heads=[SPLITS[split] for split in results.real],
        rows=rows_of(results.real),
        units=dict.fromkeys(SPLITS.values(), "%"),
        better=dict.fromkeys(SPLITS.values(), "higher"),
    )
    return Chapter(
        name="recogniser",
        title="The judge",
        text="All pictures are judged by the recogniser that comes with t2i. Here it judges real "
        "scenes by their own captions, which are true: what is missing to 100 % is its own error, "
        "and no model can be said to do better than this.",
        blocks=[table],
    )


def main(results: Results) -> Chapter:
    heads = [SPLITS[split] for split in results.drawn]
    blocks: list[Block] = [
        Table(
            name="generation",
            title=f"What was asked for is there ({results.way})",
            heads=[*heads, *["held out - seen"] * (len(heads) > 1)],
            rows=rows_of(results.drawn, compared=len(heads) > 1),
            units=dict.fromkeys(heads, "%") | {"held out - seen": "points"},
            better=dict.fromkeys([*heads, "held out - seen"], "higher"),
        ),
        control(results),
        distances(results),
        *agreements(results),
    ]
    return Chapter(
        name="generation",
        title="Generation",
        text="The model draws captions of scenes; the recogniser says what is in the pictures. "
        "Seen: combinations of objects and colours as training shows them, in scenes of other "
        "seeds. Held out: each caption has a pair of objects, or an object in a colour, that "
        "training never shows. Only what a caption says is asked, and every picture counts: a "
        "relation is wrong where one of its objects is missing, and a new colour where it is on "
        "another object.",
        blocks=blocks,
    )


def rows_of(runs: Mapping[str, Run], compared: bool = False) -> list[tuple[str, list[Cell]]]:
    rows: list[tuple[str, list[Cell]]] = []
    for kind, title in KINDS.items():
        figures = [share(run.flags(kind)) for run in runs.values()]
        if not any(figures):
            continue
        change = [difference(figures[1], figures[0])] if compared else []
        rows.append((title, [*figures, *change]))
    return rows


def control(results: Results) -> Table:
    """Held against the same of real scenes: that is what chance means for these captions."""
    heads = ["drawn", "drawn, another's caption", "real, another's caption"]
    rows: list[tuple[str, list[Cell]]] = []
    for kind, title in KINDS.items():
        own = [flag for run in results.drawn.values() for flag in run.flags(kind)]
        drawn = [flag for run in results.drawn.values() for flag in run.flags_by_another(kind)]
        real = [flag for run in results.real.values() for flag in run.flags_by_another(kind)]
        if own:
            rows.append((title, [share(own), share(drawn), share(real)]))
    return Table(
        name="control",
        title="The control: judged by the caption of the next picture that says such a thing",
        heads=heads,
        rows=rows,
        units=dict.fromkeys(heads, "%"),
        better={"drawn": "higher"},
    )


def distances(results: Results) -> Table:
    heads = ["real scenes to drawn pictures", "real scenes to real scenes"]
    rows: list[tuple[str, list[Cell]]] = []
    for split, drawn in results.drawn.items():
        real = results.real[split].pictures
        rows.append(
            (SPLITS[split], [between(real, drawn.pictures), between(real, real)]),
        )
    return Table(
        name="scenes_distance",
        title="Scenes distance: one half of the real scenes, to the other half drawn or real",
        heads=heads,
        rows=rows,
        units={},
        better={heads[0]: "lower"},
    )


def agreements(results: Results) -> list[Table]:
    """None where the judge has not learned to score captions."""
    heads = ["real", "real, the next caption", "drawn", "drawn, the next caption"]
    rows: list[tuple[str, list[Cell]]] = []
    for split, drawn in results.drawn.items():
        cells: list[Cell] = []
        for run in (results.real[split], drawn):
            for fits in (
                [picture.fit for picture in run.pictures],
                [picture.fit_of_another for picture in run.pictures],
            ):
                cells.append(mean(fits))
        if any(cells):
            rows.append((SPLITS[split], cells))
    table = Table(
        name="text_picture_score",
        title="Text-picture score: how well the caption fits, from -1 to 1",
        heads=heads,
        rows=rows,
        units={},
        better={"drawn": "higher"},
    )
    return [table] if rows else []


def between(real: Sequence[Picture], others: Sequence[Picture]) -> Figure | None:
    """The distance of halves with different captions, each way round; real to real is the floor."""
    halves = [[p.features for p in pictures] for pictures in (real[::2], others[1::2])]
    again = [[p.features for p in pictures] for pictures in (real[1::2], others[::2])]
    if min(len(half) for half in (*halves, *again)) < 2:
        return None
    value = (scenes_distance(*halves) + scenes_distance(*again)) / 2
    return Figure(value, None, None, len(halves[1]) + len(again[1]))


def sampling(results: Results) -> Chapter:
    choices = {
        name: choice
        for name, runs in results.sweeps.items()
        if (choice := choose(runs, results.own[name])) is not None
    }
    blocks: list[Block] = []
    if choices:
        blocks.append(named(choices, results.own))
    for name, runs in results.sweeps.items():
        title, across = SWEPT[name]
        if name in ("guidance", "steps"):
            blocks.append(plot(name, title, across, runs))
            title += ", in figures"
        blocks.append(sweep_table(name, title, runs, choices.get(name)))
    return Chapter(
        name="sampling",
        title="How to sample",
        text="Pictures of scenes that no other table uses, drawn in other ways, one thing varied "
        "at a time. Fewer pictures than above, but the same scenes and noise for every way, so "
        f"that ways are compared scene by scene. By {KINDS[JUDGED_BY]!r} the first table names "
        "the cheapest way that is not surely worse than the best: what it loses in truth may be "
        "as much as the low end of the interval beside it. How a picture looks is not asked. "
        "Passes of the denoiser are what a picture costs on any machine; seconds are of one "
        "picture, drawn in batches, on the machine named below.",
        blocks=blocks,
    )


def named(choices: Mapping[str, Choice], own: Mapping[str, str]) -> Table:
    """What the suite recommends, beside what the model does by itself."""
    heads = ["the model's own", "the best", CHEAPEST, "its passes of the denoiser", LOST]
    rows: list[tuple[str, list[Cell]]] = [
        (
            SWEPT[name][1],
            [
                own[name],
                choice.best.label,
                choice.cheapest.label,
                f"{choice.cheapest.passes:g}",
                choice.lost.get(choice.cheapest.label, "it is the best"),
            ],
        )
        for name, choice in choices.items()
    ]
    return Table(
        name="sampling_choice",
        title="The cheapest that is not surely worse than the best",
        heads=heads,
        rows=rows,
        units={LOST: "points"},
        better={},
    )


def plot(name: str, title: str, across: str, runs: Sequence[Run]) -> Plot:
    lines: dict[str, list[tuple[float, Figure]]] = {}
    for kind in PLOTTED:
        points = [(run.value, share(run.flags(kind))) for run in runs]
        there = [(value, figure) for value, figure in points if figure is not None]
        if there:
            lines[KINDS[kind]] = there
    return Plot(name, title, across, "share of pictures", lines)


def sweep_table(name: str, title: str, runs: Sequence[Run], choice: Choice | None) -> Table:
    kinds = [kind for kind in PLOTTED if any(run.flags(kind) for run in runs)]
    lost: Mapping[str, Figure] = {} if choice is None else choice.lost
    rows: list[tuple[str, list[Cell]]] = [
        (
            run.label,
            [
                *(share(run.flags(kind)) for kind in kinds),
                lost.get(run.label),
                f"{run.passes:g}",
                mean(run.seconds),
            ],
        )
        for run in runs
    ]
    heads = [KINDS[kind] for kind in kinds]
    return Table(
        name=f"{name}_table",
        title=title,
        heads=[*heads, LOST, "passes", "seconds"],
        rows=rows,
        units=dict.fromkeys(heads, "%") | {LOST: "points", "seconds": "s"},
        better={**dict.fromkeys(heads, "higher"), "seconds": "lower"},
    )


def gallery(results: Results) -> Chapter:
    """The worst beside the best, and the first ones as they came."""
    blocks: list[Block] = []
    for split, run in results.drawn.items():
        ranked = sorted(run.pictures, key=lambda p: (-len(p.wrong), p.number))
        best = sorted(run.pictures, key=lambda p: (len(p.wrong), p.number))
        count = min(SHOWN, len(ranked) // 2)
        flawless = sum(not picture.wrong for picture in ranked)
        share_of = f"{flawless} of {len(ranked)} without a mistake"
        blocks += [
            shown(f"worst_{split}", f"The worst, {SPLITS[split]} ({share_of})", ranked[:count]),
            shown(f"best_{split}", f"The best, {SPLITS[split]}", best[:count]),
            shown(
                f"first_{split}", f"The first, {SPLITS[split]}, as they came", run.pictures[:SHOWN]
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


def shown(name: str, title: str, pictures: Sequence[Picture]) -> Gallery:
    labels = [
        picture.caption + (f" [{'; '.join(dict.fromkeys(picture.wrong))}]" if picture.wrong else "")
        for picture in pictures
    ]
    files = [picture.file or "" for picture in pictures]
    return Gallery(name, title, list(zip(files, labels, strict=True)))
