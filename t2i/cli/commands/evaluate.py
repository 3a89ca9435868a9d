"""`t2i evaluate`: does a model do what the words say, measured where the truth is known."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2i.cli.evaluation_summary import PRINTED_CHAPTERS, print_headlines
from t2i.cli.output import Format, note, print_json
from t2i.terminal import print_line, print_rich

if TYPE_CHECKING:
    from t2i.evaluate.result_folder import Store
    from t2i.evaluate.suite import SuiteConfig
    from t2i.evaluate.suite_part import Bench

EPILOG = """Examples:

`t2i evaluate embedded --quick`

`t2i evaluate my-model --part generation --out mine`

`t2i evaluate my-model --out mine --against outputs/evaluate-embedded-scenes/evaluation.json`
"""


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A name of `t2i models`, a folder or a file.")
    ],
    suite: Annotated[
        str, typer.Option(metavar="NAME_OR_TOML", help="What is measured, and how much of it.")
    ] = "scenes",
    quick: Annotated[
        bool, typer.Option("--quick", help="A minute of it, to see that nothing is broken.")
    ] = False,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="generation, inspection or editing; may be repeated.", show_default="all"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the result goes.", show_default="outputs/..."),
    ] = None,
    recogniser: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The judge.", show_default="the one of t2i"),
    ] = None,
    compared: Annotated[
        Path | None,
        typer.Option(
            "--against", metavar="FILE", help="Another evaluation.json: say what has changed."
        ),
    ] = None,
    format: Format = "text",
) -> None:
    """Measure how well MODEL does what its prompts say; print the path of a page that shows it.

    Scenes are drawn, looked into and edited, and held against what is known of every pixel. In the
    folder: index.html, the page; evaluation.json and tables.md, its figures; records.jsonl, every
    unit; pictures/. The same command goes on where it was stopped.
    """
    from t2i.denoiser.loading.address import resolve
    from t2i.evaluate.optional_imports import check_extra
    from t2i.evaluate.suite import check_parts, read_suite

    # what is asked for
    config = read_suite(suite, quick=quick)
    wanted = check_parts(part or [])
    check_extra()
    place = resolve(model)
    if out is None:
        out = Path("outputs") / "-".join(
            [
                "evaluate",
                Path(model).stem or place.resolve().name,
                Path(suite).stem,
                *["quick"] * quick,
            ]
        )

    from t2i.accelerate_state import isolated_rng
    from t2i.evaluate.progress import progress
    from t2i.evaluate.report.previous_result import read_earlier
    from t2i.evaluate.run import PAGE, VERSION, measure, whole, write
    from t2i.evaluate.suite import PARTS, part_of
    from t2i.library_messages import quiet_libraries
    from t2i.run_folder import lock_folder

    with ExitStack() as held:
        # what it is measured with
        held.enter_context(lock_folder(out))
        held.enter_context(quiet_libraries())
        held.enter_context(isolated_rng())
        store, bench, facts = _prepare_evaluation(place, model, config, out, recogniser)
        facts["command"] = " ".join(
            ["t2i evaluate", model, *[f"--suite {suite}"] * (suite != "scenes")]
            + ["--quick"] * quick
        )
        earlier = None if compared is None else read_earlier(compared, facts, VERSION)
        for change in store.changed:
            note(f"Warning: since the first units {change}: the others may differ slightly.")
        parts = [part_of(name, config, bench) for name in wanted]

        # unit by unit
        try:
            with progress(parts) as told:
                measure(parts, store, told)
        except KeyboardInterrupt:
            note(f"Interrupted: {len(store.done)} units are finished. The same command goes on.")
            raise typer.Exit(130) from None

        # what they say, with what another start has done
        names = {name for name, _ in store.done}
        others = [part_of(name, config, bench) for name in PARTS if name in names - {*wanted}]
        order = list(PARTS)
        finished = sorted(whole([*parts, *others], store), key=lambda p: order.index(p.name))
        document = write(finished, store, facts, earlier)
    if format == "json":
        print_json(document)
    else:
        print_headlines(document)
        _print_tables({name: document["chapters"].get(name) for name in PRINTED_CHAPTERS})
        print_line(out / PAGE)


def _prepare_evaluation(
    place: Path, name: str, config: "SuiteConfig", out: Path, recogniser: Path | None
) -> "tuple[Store, Bench, dict[str, Any]]":
    """The folder, the loaded model, and what the head of the result says of them."""
    from t2i import __version__
    from t2i.cli.drawing.drawing import load_pipeline, read_pipeline_defaults
    from t2i.cli.metadata.writing import library_versions
    from t2i.cli.request.digests import digest
    from t2i.cli.request.request import Request, read_defaults
    from t2i.evaluate.known_objects import known
    from t2i.evaluate.result_folder import Store
    from t2i.evaluate.suite_part import Bench
    from t2i.hardware import hardware_info
    from t2i.scenes.caption_matcher import Agreement
    from t2i.scenes.recogniser import ASSET, Recogniser

    judging = recogniser or ASSET
    agreement = Agreement.load(judging) if Agreement.is_in(judging) else None
    judge = agreement.recogniser if agreement else Recogniser.load(judging)
    knows = known(place, judge)
    identity = {
        "model": {"name": name, "digest": digest(place)},
        "recogniser": digest(judging),
        "config": config.model_dump(mode="json"),
        "libraries": {"t2i": __version__, **library_versions(("torch", "diffusers"))},
    }
    request = Request(prompt="").with_defaults(read_defaults(place))
    pipe = load_pipeline(place, request.sampler)
    pipe.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]  # diffusers'
    request = request.with_defaults(read_pipeline_defaults(pipe, request))
    assert request.num_inference_steps is not None
    assert request.guidance_scale is not None
    store = Store(out, identity)
    bench = Bench(
        pipe=pipe,
        recogniser=judge.to(pipe.device),
        agreement=agreement and agreement.to(pipe.device),
        objects=knows.objects,
        most_objects=knows.most,
        steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        keep=store.keep,
    )
    asked = {
        "objects": [*bench.objects],
        "most_objects": bench.most_objects,
        "steps": bench.steps,
        "guidance_scale": bench.guidance_scale,
        "sampler": request.sampler,
    }
    return store, bench, identity | {"asked": asked, "machine": hardware_info()}


def _print_tables(chapters: Mapping[str, Any]) -> None:
    """The figures of these chapters without their intervals, a table after the other."""
    from rich.table import Table
    from rich.text import Text

    from t2i.evaluate.report.chapter import Figure
    from t2i.evaluate.report.number_format import with_unit

    for chapter in filter(None, chapters.values()):
        for block in chapter["blocks"].values():
            if block["kind"] != "table":
                continue
            table = Table(box=None, pad_edge=False)
            table.add_column("")
            for head in block["heads"]:
                table.add_column(Text(head), justify="right")
            for row in block["rows"]:
                cells = [
                    with_unit(
                        Figure(cell["value"]) if isinstance(cell, dict) else cell,
                        block["units"].get(head, ""),
                    )
                    for head, cell in row["cells"].items()
                ]
                table.add_row(Text(row["label"]), *map(Text, cells))
            print_rich(Text(block["title"], style="bold"))
            print_rich(table)
            print_rich()
