"""Report chapter on the sampling settings that were compared: recommendation, plots, tables."""

from collections.abc import Mapping, Sequence

from t2i.evaluate.generation.best_and_cheapest import (
    CHOICE_CRITERION,
    SweepRecommendation,
    choose_best_and_cheapest,
)
from t2i.evaluate.generation.judge import CRITERION_TITLES
from t2i.evaluate.generation.records import SweepPoint
from t2i.evaluate.report.chapter import Block, Cell, Chapter, Estimate, Plot, Table
from t2i.evaluate.report.statistics import mean_with_bootstrap_interval, proportion_with_interval

PLOTTED_CRITERIA = ("one", "both", "relation", "background", "recolour", "everything")
LOSS_HEAD = f"{CRITERION_TITLES[CHOICE_CRITERION]}, less the best"
CHEAPEST_HEAD = "the cheapest not significantly worse"
SWEEP_TITLES = {
    "guidance": ("Against the guidance scale", "guidance scale"),
    "steps": ("Against the number of steps", "steps"),
    "samplers": ("Other samplers", "sampler"),
    "methods": ("Other methods of guidance", "method"),
}


def build_sampling_chapter(
    sweeps: Mapping[str, Sequence[SweepPoint]], default_labels: Mapping[str, str]
) -> Chapter:
    """Build the report chapter on sampling settings: the recommended ones, then each sweep.

    sweeps : name of what is varied -> a run for each value
    default_labels : name of what is varied -> label of the run with the model's default
    """
    choices = {
        name: choice
        for name, runs in sweeps.items()
        if (choice := choose_best_and_cheapest(runs, default_labels[name])) is not None
    }
    blocks: list[Block] = []
    if choices:
        blocks.append(build_recommended_settings_table(choices, default_labels))
    for name, runs in sweeps.items():
        title, x_label = SWEEP_TITLES[name]
        if name in ("guidance", "steps"):
            blocks.append(build_sweep_plot(name, title, x_label, runs))
            title += ", in figures"
        blocks.append(build_sweep_table(name, title, runs, choices.get(name)))
    return Chapter(
        name="sampling",
        title="How to sample",
        text="Pictures of scenes that no other table uses, sampled with one setting varied "
        "at a time. There are fewer pictures than above, but all settings use the same scenes and "
        "the same noise, so that they are compared scene by scene. The first table names the "
        f"cheapest setting that is not significantly worse than the best by "
        f"{CRITERION_TITLES[CHOICE_CRITERION]!r}; its true loss may be as large as the low end of "
        "the interval beside it. Image quality is not judged. "
        "Denoiser passes are the cost of a picture on any machine; seconds are those of one "
        "picture, drawn in batches, on the machine named below.",
        blocks=blocks,
    )


def build_recommended_settings_table(
    choices: Mapping[str, SweepRecommendation], own: Mapping[str, str]
) -> Table:
    """Build the table of the recommended sampling settings beside the model's defaults."""
    heads = ["the model's own", "the best", CHEAPEST_HEAD, "its passes of the denoiser", LOSS_HEAD]
    rows: list[tuple[str, list[Cell]]] = [
        (
            SWEEP_TITLES[name][1],
            [
                own[name],
                choice.best.label,
                choice.cheapest.label,
                f"{choice.cheapest.denoiser_rows_per_picture:g}",
                choice.differences_to_best.get(choice.cheapest.label, "it is the best"),
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


def build_sweep_plot(name: str, title: str, x_label: str, runs: Sequence[SweepPoint]) -> Plot:
    """Build the plot of each criterion over the sampling setting that a sweep varies."""
    lines: dict[str, list[tuple[float, Estimate]]] = {}
    for kind in PLOTTED_CRITERIA:
        points = [
            (run.value, proportion_with_interval(run.list_criterion_results(kind))) for run in runs
        ]
        there = [(value, figure) for value, figure in points if figure is not None]
        if there:
            lines[CRITERION_TITLES[kind]] = there
    return Plot(name, title, x_label, "share of pictures", lines)


def build_sweep_table(
    name: str, title: str, runs: Sequence[SweepPoint], choice: SweepRecommendation | None
) -> Table:
    """Build the table of a sweep of a sampling setting: criteria, loss to the best, and cost."""
    kinds = [
        kind for kind in PLOTTED_CRITERIA if any(run.list_criterion_results(kind) for run in runs)
    ]
    lost: Mapping[str, Estimate] = {} if choice is None else choice.differences_to_best
    rows: list[tuple[str, list[Cell]]] = [
        (
            run.label,
            [
                *(proportion_with_interval(run.list_criterion_results(kind)) for kind in kinds),
                lost.get(run.label),
                f"{run.denoiser_rows_per_picture:g}",
                mean_with_bootstrap_interval(run.seconds_per_picture_by_batch),
            ],
        )
        for run in runs
    ]
    heads = [CRITERION_TITLES[kind] for kind in kinds]
    return Table(
        name=f"{name}_table",
        title=title,
        heads=[*heads, LOSS_HEAD, "passes", "seconds"],
        rows=rows,
        units=dict.fromkeys(heads, "%") | {LOSS_HEAD: "points", "seconds": "s"},
        better={**dict.fromkeys(heads, "higher"), "seconds": "lower"},
    )
