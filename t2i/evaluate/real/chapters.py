"""Report of the part "real": tables and galleries."""

from collections.abc import Callable, Iterator, Sequence

from t2i.evaluate.editing.pairs import CHANGE_TITLES, ChangeKind
from t2i.evaluate.real.baselines import BASELINES, REGENERATED
from t2i.evaluate.real.comparison import (
    SUCCESS_MARGIN,
    choose_most_preserving_and_most_successful_methods,
    compute_difference_on_common_samples,
    compute_paired_proportion_ratio,
)
from t2i.evaluate.real.picture_pairs import Split
from t2i.evaluate.real.records import (
    InversionAndEditCostRecord,
    PictureEditScores,
    PicturePairRecord,
)
from t2i.evaluate.report.chapter import Block, Cell, Chapter, Gallery, Table
from t2i.evaluate.report.statistics import mean_with_bootstrap_interval, proportion_with_interval
from t2i.terminal import plural

SPLIT_TITLES: dict[Split, str] = {
    "seen": "seen combinations",
    "held_out": "held-out combinations",
}
COMBINED_KINDS = ("swap", "recolour", "background")
"""Kinds of change that share a table; a stronger word is measured otherwise."""
MEASURE_GETTERS: dict[str, Callable[[PictureEditScores], float | None]] = {
    "kept SSIM x1e2": lambda one: None if one.kept is None else one.kept.ssim * 1e2,
    "kept structure x1e3": lambda one: (
        None if one.kept_structure is None else one.kept_structure * 1e3
    ),
    "PSNR to composed target": lambda one: one.target.psnr,
    "text-picture score": lambda one: one.fit,
}
"""Column head -> function that reads its value from the scores of a picture."""
COST_GETTERS: dict[str, Callable[[InversionAndEditCostRecord], float]] = {
    "rows, inversion": lambda one: one.inversion.rows,
    "rows, each edit": lambda one: one.edit.rows,
    "time, inversion": lambda one: one.inversion.seconds,
    "time, each edit": lambda one: one.edit.seconds,
}
"""Column head -> function that reads a cost, rows or seconds, from the record of an edit."""
SUCCESS_HEAD, RELATIVE_SUCCESS_HEAD, KEPT_HEAD = "success", "of drawn anew", "kept PSNR"
COLUMN_HEADS = (
    SUCCESS_HEAD,
    KEPT_HEAD,
    RELATIVE_SUCCESS_HEAD,
    "whole caption",
    *MEASURE_GETTERS,
    *COST_GETTERS,
)
UNITS_BY_HEAD = {
    **dict.fromkeys((SUCCESS_HEAD, RELATIVE_SUCCESS_HEAD, "whole caption"), "%"),
    **dict.fromkeys((KEPT_HEAD, "PSNR to composed target"), "dB"),
    **dict.fromkeys(("time, inversion", "time, each edit"), "s"),
}
LOWER_IS_BETTER = ("kept structure x1e3", *COST_GETTERS)
GALLERY_SIZE = 4

PairRecords = Sequence[PicturePairRecord]


def build_chapters(
    pairs: PairRecords, labels: Sequence[str], steps: int, guidance_scale: float
) -> list[Chapter]:
    """Build the report chapter of the part "real" from the records of all picture pairs.

    labels : of the methods, in the order of the rows; the others are compared with the first
    """
    blocks: list[Block] = []
    for split, split_title in SPLIT_TITLES.items():
        of_split = [one for one in pairs if one.split == split]
        several_kinds = [one for one in of_split if one.kind in COMBINED_KINDS]
        if several_kinds:
            title = f"Another object, colour or background, {split_title}"
            blocks.append(build_method_table(f"real_{split}", title, several_kinds, labels))
            title = f"The same, minus {labels[0]}"
            blocks.append(
                build_difference_table(f"real_{split}_less", title, several_kinds, labels)
            )
        for kind, of_kind in iter_pairs_by_change_kind(of_split):
            title = f"Only {CHANGE_TITLES[kind]}, {split_title}"
            blocks.append(build_method_table(f"real_{split}_{kind}", title, of_kind, labels))
    blocks.append(build_recommended_methods_table(pairs, labels))
    blocks.append(build_source_reconstruction_table(pairs, labels))
    blocks += build_galleries(pairs, labels[0])
    text = describe_tables(pairs, steps, guidance_scale)
    return [Chapter("real", "Editing pictures that the model did not draw", text, blocks)]


def describe_tables(pairs: PairRecords, steps: int, guidance_scale: float) -> str:
    """Return the text that explains the report tables and the settings of the evaluation of edits
    of scenes' pictures.
    """
    refused = dict.fromkeys(
        f"{label} cannot be used here: {reason}"
        for one in pairs
        for label, reason in one.refused.items()
    )
    return " ".join(
        [
            "A scene is composed, inverted with its caption, and edited to the same caption "
            "changed in one thing. As the target scene can be composed, too, the right result is "
            "known. Success: by the recogniser the change has happened. Of drawn anew: success as "
            "a share of that of the target's prompt drawn without the source, which is what the "
            "model can draw and the recogniser can see. Kept: the pixels outside of the changed "
            "object in the source and in the composed target, and a little around it; where the "
            "background changes, inside the objects, without their edges. They are compared with "
            "the source's own pixels, so that the autoencoder alone is the best that latents "
            "allow; a blend by words or a mask puts own pixels back. Rows: what the denoiser "
            "computes, a row a picture and branch of guidance, to invert and record the source, "
            "and for each edit of it afterwards. Time: processor time on a CPU.",
            f"{plural(steps, 'step')}, guidance scale {guidance_scale:g}.",
            *refused,
        ]
    )


def iter_pairs_by_change_kind(pairs: PairRecords) -> Iterator[tuple[ChangeKind, PairRecords]]:
    """Yield each kind of change with the records of those picture pairs whose edit is of this kind,
    except for kinds without any.
    """
    for kind in CHANGE_TITLES:
        of_kind = [one for one in pairs if one.kind == kind]
        if of_kind:
            yield kind, of_kind


def build_method_table(name: str, title: str, pairs: PairRecords, labels: Sequence[str]) -> Table:
    """Return the table that compares baselines and editing methods on some picture pairs, a row
    each.
    """
    anew = collect_successes(pairs, REGENERATED)
    rows = [
        (
            label,
            [
                *build_score_cells(pairs, label, anew),
                *build_cost_cells([one.methods.get(label) for one in pairs]),
            ],
        )
        for label in (*BASELINES, *labels)
        if any(get_picture_scores(one, label) for one in pairs)
    ]
    return Table(
        name=name,
        title=f"{title}: {plural(len(pairs), 'pair')}",
        heads=COLUMN_HEADS,
        rows=rows,
        units=UNITS_BY_HEAD,
        better={head: "lower" if head in LOWER_IS_BETTER else "higher" for head in COLUMN_HEADS},
    )


def build_score_cells(pairs: PairRecords, label: str, anew: Sequence[bool | None]) -> list[Cell]:
    """Return the cells of a method's or baseline's table row that score its edited pictures, in the
    order of COLUMN_HEADS.

    anew : successes of the pictures drawn anew
    """
    scores = [get_picture_scores(one, label) for one in pairs]
    successes = collect_successes(pairs, label)
    return [
        proportion_with_interval(successes),
        mean_with_bootstrap_interval(collect_kept_psnrs(pairs, label)),
        compute_paired_proportion_ratio(successes, anew),
        proportion_with_interval([None if one is None else one.everything for one in scores]),
        *(
            mean_with_bootstrap_interval([None if one is None else read(one) for one in scores])
            for read in MEASURE_GETTERS.values()
        ),
    ]


def build_cost_cells(edited: Sequence[InversionAndEditCostRecord | None]) -> list[Cell]:
    """Build the cells of a row with its method's mean costs; empty for a baseline."""
    return [
        mean_with_bootstrap_interval([None if one is None else read(one) for one in edited])
        for read in COST_GETTERS.values()
    ]


def build_difference_table(
    name: str, title: str, pairs: PairRecords, labels: Sequence[str]
) -> Table:
    """Return the table of the differences of each editing method to the first one, on the picture
    pairs that both have edited.
    """

    def subtract(label: str, samples: Callable[[PairRecords, str], Sequence[float | None]]) -> Cell:
        return compute_difference_on_common_samples(
            samples(pairs, label), samples(pairs, labels[0])
        )

    rows: list[tuple[str, Sequence[Cell]]] = [
        (label, [subtract(label, collect_successes), subtract(label, collect_kept_psnrs)])
        for label in labels[1:]
        if any(label in one.methods for one in pairs)
    ]
    return Table(
        name=name,
        title=title,
        heads=(SUCCESS_HEAD, KEPT_HEAD),
        rows=rows,
        units={SUCCESS_HEAD: "points", KEPT_HEAD: "dB"},
        better={SUCCESS_HEAD: "higher", KEPT_HEAD: "higher"},
    )


def build_recommended_methods_table(pairs: PairRecords, labels: Sequence[str]) -> Table:
    """Return the table of the recommended editing method for each kind of change: the one that
    keeps most of the picture among the most successful ones.
    """
    rows: list[tuple[str, Sequence[Cell]]] = []
    for kind, of_kind in iter_pairs_by_change_kind([one for one in pairs if one.split == "seen"]):
        complete = [label for label in labels if all(label in one.methods for one in of_kind)]
        successes = {label: collect_successes(of_kind, label) for label in complete}
        kept = {label: collect_kept_psnrs(of_kind, label) for label in complete}
        chosen = choose_most_preserving_and_most_successful_methods(successes, kept)
        if chosen is None:
            continue
        label, best = chosen
        less = compute_difference_on_common_samples(successes[label], successes[best])
        rows.append(
            (
                CHANGE_TITLES[kind],
                [
                    label,
                    proportion_with_interval(successes[label]),
                    mean_with_bootstrap_interval(kept[label]),
                    best,
                    None if label == best else less,
                ],
            )
        )
    heads = ("method", SUCCESS_HEAD, KEPT_HEAD, "most successful", "success, less that")
    return Table(
        name="real_choice",
        title="What keeps most of the picture, of the methods whose success is at most "
        f"{SUCCESS_MARGIN * 100:g} points below the best (seen combinations)",
        heads=heads,
        rows=rows,
        units={SUCCESS_HEAD: "%", KEPT_HEAD: "dB", heads[-1]: "points"},
        better={SUCCESS_HEAD: "higher", KEPT_HEAD: "higher"},
    )


def build_source_reconstruction_table(pairs: PairRecords, labels: Sequence[str]) -> Table:
    """Return the table of how exactly each editing method reproduces the inverted source picture
    without an edit, as PSNR.
    """
    rows: list[tuple[str, Sequence[Cell]]] = [
        ("autoencoder alone", [mean_with_bootstrap_interval([one.autoencoder for one in pairs])])
    ]
    for label in labels:
        edited = [one.methods[label] for one in pairs if label in one.methods]
        figure = mean_with_bootstrap_interval([one.replay for one in edited])
        if edited:
            rows.append((label, [figure or "exact"]))
    head = "whole PSNR"
    return Table(
        name="real_replay",
        title="The source drawn again from its noise, with its own prompt and guidance",
        heads=(head,),
        rows=rows,
        units={head: "dB"},
        better={head: "higher"},
    )


def build_galleries(pairs: PairRecords, label: str) -> list[Gallery]:
    """Return galleries of edited pictures: the worst and best by one editing method, and the first
    of each kind of change.
    """
    ranked = sorted(
        (one for one in pairs if label in one.methods),
        key=lambda one: success_and_kept_psnr_sort_key(one.methods[label].scores),
    )
    count = min(GALLERY_SIZE, len(ranked) // 2)
    return [
        build_pairs_gallery("worst", f"The worst, by {label}", ranked[:count]),
        build_pairs_gallery("best", f"The best, by {label}", ranked[::-1][:count]),
        *(
            build_pairs_gallery(
                f"first_{split}_{kind}",
                f"The first, {CHANGE_TITLES[kind]}, {title}",
                of_kind[:GALLERY_SIZE],
            )
            for split, title in SPLIT_TITLES.items()
            for kind, of_kind in iter_pairs_by_change_kind(
                [one for one in pairs if one.split == split]
            )
        ),
    ]


def success_and_kept_psnr_sort_key(scores: PictureEditScores) -> tuple[bool, float]:
    """Return a sort key (success, PSNR of the kept pixels) for the scores of an edited picture."""
    return scores.success, 0.0 if scores.kept is None else scores.kept.psnr


def build_pairs_gallery(name: str, title: str, pairs: PairRecords) -> Gallery:
    """Return a gallery of edited picture pairs, each labelled with its prompts and the editing
    methods that succeeded.
    """
    pictures = []
    for one in pairs:
        worked = [label for label, edited in one.methods.items() if edited.scores.success]
        text = f"{one.source} -> {one.target} [worked: {'; '.join(worked) or 'none'}]"
        pictures.append((one.file, text))
    return Gallery(f"real_{name}", title, pictures, columns=1)


def get_picture_scores(pair: PicturePairRecord, label: str) -> PictureEditScores | None:
    """Return the scores of the picture that a baseline or an editing method made of a pair; None
    where it made none.
    """
    if label in pair.controls:
        return pair.controls[label]
    return pair.methods[label].scores if label in pair.methods else None


def collect_successes(pairs: PairRecords, label: str) -> list[bool | None]:
    """Return for each picture pair whether the picture that a method or baseline made shows the
    change; None where it made none.
    """
    scores = [get_picture_scores(one, label) for one in pairs]
    return [None if one is None else one.success for one in scores]


def collect_kept_psnrs(pairs: PairRecords, label: str) -> list[float | None]:
    """Return for each picture pair the PSNR (dB) over the kept pixels of the picture that a method
    or baseline made; None where it has none.
    """
    scores = [get_picture_scores(one, label) for one in pairs]
    return [None if one is None or one.kept is None else one.kept.psnr for one in scores]
