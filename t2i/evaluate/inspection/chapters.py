"""Report of the inspection part: tables, a plot and galleries."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from t2i.evaluate.inspection.daam_package import DAAM_LABEL
from t2i.evaluate.inspection.records import (
    ALL_LEVELS,
    HeatMapCalibration,
    HeatMapScoresRecord,
    ObjectHeatMapScores,
    SceneHeatMapRecord,
)
from t2i.evaluate.inspection.scene_heat_maps import BEST_SITES_METHOD, METHODS, PLOTTED_METHODS
from t2i.evaluate.report.chapter import Block, Cell, Chapter, Estimate, Gallery, Plot, Table
from t2i.evaluate.report.statistics import mean_with_bootstrap_interval
from t2i.terminal import plural

MEASURE_GETTERS: dict[str, Callable[[HeatMapScoresRecord], float | None]] = {
    "mIoU": lambda scores: scores.iou,
    "mIoU, best threshold": lambda scores: scores.best_iou,
    "pointing game": lambda scores: float(scores.pointing),
    "average precision": lambda scores: scores.precision,
    "leakage": lambda scores: scores.leakage,
}
"""Column head -> function that reads its value from a heat map's scores; all are shares of 1."""
BETTER_DIRECTION = dict.fromkeys(MEASURE_GETTERS, "higher") | {"leakage": "lower"}
METHOD_TITLES = {
    "default": "our default",
    "refined": "refined by self-attention",
    "daam": "DAAM's convention",
    "mean": "mean of the probabilities",
    BEST_SITES_METHOD: "our default at the best sites",
    "wrong word": "control: our default, of another word",
    "centred blob": "control: a blob in the middle",
}
SPLIT_TITLES = {"seen": "seen combinations", "held_out": "held-out combinations"}
GALLERY_SIZE = 6
ScoreSelector = Callable[[ObjectHeatMapScores], HeatMapScoresRecord | None]
"""Function that picks the scores of one heat map from those of an object, or None."""


def build_chapters(
    choice: HeatMapCalibration,
    shown: Mapping[str, Sequence[SceneHeatMapRecord]],
    levels: Sequence[str],
) -> list[Chapter]:
    """Build the report chapter on heat maps from the calibration and the scenes' records.

    shown : split -> the records of its scenes, in their order
    """
    real = {split: scenes for split, scenes in shown.items() if split in SPLIT_TITLES}
    blocks: list[Block] = [
        build_heat_map_method_table(
            choice, scenes, f"inspection_{split}", f"Real pictures, {SPLIT_TITLES[split]}"
        )
        for split, scenes in real.items()
    ]
    if "seen" in real:
        blocks += [
            build_noise_level_plot(real["seen"], levels),
            build_site_table(choice, real["seen"]),
        ]
    if drawn := shown.get("drawn"):
        found = sum(len(scene.objects) for scene in drawn)
        absent = sum(len(scene.missing) for scene in drawn)
        title = (
            f"Drawn pictures, against the recogniser's masks ({plural(found, 'object')}; "
            f"{absent} more that it did not find have no mask)"
        )
        blocks.append(build_heat_map_method_table(choice, drawn, "inspection_drawn", title))
    for split, scenes in real.items():
        blocks += build_galleries(split, scenes)
    text = (
        "Pictures of which every pixel's word is known are noised, and the denoiser is shown them "
        "with their captions, once at each level of noise and without guidance. Each word's heat "
        "map is enlarged to the picture and held against the pixels that the word drew. mIoU: "
        "intersection over union of the mask and where the map, stretched from 0 to 1, reaches a "
        f"threshold that was chosen for each row on {choice.scenes} other scenes; a mean over "
        "scenes. Best threshold: each map at the one that suits it, an upper bound. Pointing game: "
        "the map's peak lies in the mask. Average precision: over pixels, without a threshold. "
        "Leakage: the share of a map that lies on the other objects. Sites were chosen on those "
        f"other scenes too: {', '.join(choice.sites)}."
    )
    return [Chapter("inspection", "Inspection", text, blocks)]


def build_heat_map_method_table(
    choice: HeatMapCalibration, scenes: Sequence[SceneHeatMapRecord], name: str, title: str
) -> Table:
    """Build the table that compares the heat-map methods on the scenes of a split."""
    rows: list[tuple[str, Sequence[Cell]]] = []
    for method in METHODS:
        rows.append(
            build_heat_map_score_row(
                METHOD_TITLES[method],
                scenes,
                build_method_score_selector(method),
                choice.thresholds[method],
            )
        )
        if method == BEST_SITES_METHOD and not name.endswith("drawn"):
            rows.append(build_daam_row(choice, scenes))
    for other in ("refined", "daam", "mean"):
        differences = [
            mean_with_bootstrap_interval(
                compute_score_difference_per_scene(
                    scenes,
                    reading,
                    build_method_score_selector("default"),
                    build_method_score_selector(other),
                )
            )
            for reading in MEASURE_GETTERS.values()
        ]
        rows.append((f"our default, minus {METHOD_TITLES[other]}", [*differences, None]))
    return Table(
        name=name,
        title=title,
        heads=[*MEASURE_GETTERS, "threshold"],
        rows=rows,
        units=dict.fromkeys(MEASURE_GETTERS, "%"),
        better=BETTER_DIRECTION,  # type: ignore[arg-type]  # both words are literals
    )


def build_heat_map_score_row(
    title: str, scenes: Sequence[SceneHeatMapRecord], select: ScoreSelector, threshold: float
) -> tuple[str, Sequence[Cell]]:
    """Build a table row from the scores that `select` picks: title, mean scores, threshold."""
    figures = [
        mean_with_bootstrap_interval(compute_mean_score_per_scene(scenes, reading, select))
        for reading in MEASURE_GETTERS.values()
    ]
    return title, [*figures, f"{threshold:g}"]


def build_daam_row(
    choice: HeatMapCalibration, scenes: Sequence[SceneHeatMapRecord]
) -> tuple[str, Sequence[Cell]]:
    """Build the table row of the package `daam`, or of the reason why it was not measured."""
    if choice.daam:
        return DAAM_LABEL, [choice.daam, *[None] * len(MEASURE_GETTERS)]
    return build_heat_map_score_row(
        DAAM_LABEL, scenes, build_method_score_selector(DAAM_LABEL), choice.thresholds[DAAM_LABEL]
    )


def build_method_score_selector(method: str, level: str = ALL_LEVELS) -> ScoreSelector:
    """Return a function that picks a heat-map method's scores at a noise level."""
    return lambda looked: looked.methods.get(method, {}).get(level)


def build_site_score_selector(name: str) -> ScoreSelector:
    """Return a function that picks the heat-map scores of one attention site."""
    return lambda looked: looked.sites.get(name)


def compute_mean_score_per_scene(
    scenes: Sequence[SceneHeatMapRecord],
    reading: Callable[[HeatMapScoresRecord], float | None],
    select: ScoreSelector,
) -> list[float | None]:
    """Return each scene's mean, over its words, of one score of their heat maps; None for a scene
    without a value.
    """
    values: list[float | None] = []
    for scene in scenes:
        scores = [select(looked) for looked in scene.objects]
        read = [value for one in scores if one is not None and (value := reading(one)) is not None]
        values.append(fmean(read) if read else None)
    return values


def compute_score_difference_per_scene(
    scenes: Sequence[SceneHeatMapRecord],
    reading: Callable[[HeatMapScoresRecord], float | None],
    one: ScoreSelector,
    other: ScoreSelector,
) -> list[float | None]:
    """Return for each scene the difference of two methods' mean heat-map scores, None where one is
    missing.

    The interval of paired differences is narrower than that of two independent means.
    """
    ours, theirs = (
        compute_mean_score_per_scene(scenes, reading, one),
        compute_mean_score_per_scene(scenes, reading, other),
    )
    return [None if a is None or b is None else a - b for a, b in zip(ours, theirs, strict=True)]


def build_noise_level_plot(scenes: Sequence[SceneHeatMapRecord], levels: Sequence[str]) -> Plot:
    """Build the plot of the heat maps' mIoU at each single noise level."""
    lines: dict[str, list[tuple[float, Estimate]]] = {}
    for method in (*PLOTTED_METHODS, BEST_SITES_METHOD):
        for level in levels:
            figure = mean_with_bootstrap_interval(
                compute_mean_score_per_scene(
                    scenes, MEASURE_GETTERS["mIoU"], build_method_score_selector(method, level)
                )
            )
            if figure is not None:
                lines.setdefault(METHOD_TITLES[method], []).append((float(level), figure))
    return Plot(
        name="inspection_levels",
        title="One level of noise alone, at the threshold of all levels together",
        x_label="share of the noise schedule",
        y_label="mIoU",
        lines=lines,
    )


def build_site_table(choice: HeatMapCalibration, scenes: Sequence[SceneHeatMapRecord]) -> Table:
    """Build the table of heat-map scores of each attention site alone."""
    rows: list[tuple[str, Sequence[Cell]]] = []
    for name in choice.site_ious:
        title, cells = build_heat_map_score_row(
            name, scenes, build_site_score_selector(name), choice.thresholds[name]
        )
        rows.append((title, [choice.site_sizes[name], *cells]))
    return Table(
        name="inspection_sites",
        title="Each site of the denoiser alone, seen combinations",
        heads=["size", *MEASURE_GETTERS, "threshold"],
        rows=rows,
        units=dict.fromkeys(MEASURE_GETTERS, "%"),
        better=BETTER_DIRECTION,  # type: ignore[arg-type]  # both words are literals
    )


def build_galleries(split: str, scenes: Sequence[SceneHeatMapRecord]) -> list[Gallery]:
    """Build the galleries of the scenes with the worst and the best heat maps."""
    ious = [
        fmean(one.methods["default"][ALL_LEVELS].iou for one in scene.objects) for scene in scenes
    ]
    ranked = sorted(range(len(scenes)), key=lambda number: ious[number])
    count = min(GALLERY_SIZE, len(ranked) // 2)
    return [
        Gallery(
            name=f"inspection_{which}_{split}",
            title=f"The {which} by mIoU, {SPLIT_TITLES[split]}: the picture, and each word's maps",
            pictures=[
                (scenes[number].file, f"{scenes[number].caption}: {ious[number]:.2f}")
                for number in numbers
            ],
            columns=2,
        )
        for which, numbers in (("worst", ranked[:count]), ("best", ranked[::-1][:count]))
    ]
