"""`t2i evaluate`: measure how well a model follows its prompts, where the truth is known."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2i.cli.evaluation_summary import PRINTED_CHAPTERS, print_headline_figures
from t2i.cli.output import FormatOption, print_json, print_remark
from t2i.denoiser.loading.model_location import EMBEDDED_CONTROLS, locate_control_network
from t2i.errors import ArgumentError, suggest_choice
from t2i.terminal import print_result_line, print_rich

if TYPE_CHECKING:
    from t2i.evaluate.result_folder import ResultFolder
    from t2i.evaluate.suite import SuiteConfig
    from t2i.evaluate.suite_part import EvaluationContext

EPILOG = """Examples:

`t2i evaluate embedded --quick`

`t2i evaluate my-model --part generation --out mine`

`t2i evaluate embedded --suite hints --control segments`

`t2i evaluate my-model --out mine --against outputs/evaluate-embedded-scenes/evaluation.json`
"""


ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A name of `t2i models`, a folder or a file.")
]
SuiteOption = Annotated[
    str, typer.Option(metavar="NAME_OR_TOML", help="What is measured, and how much of it.")
]
QuickOption = Annotated[
    bool, typer.Option("--quick", help="A minute of it, to see that nothing is broken.")
]
PartOption = Annotated[
    list[str] | None,
    typer.Option(help="generation, inspection, editing ...; may be repeated.", show_default="all"),
]
OutOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Where the result goes.", show_default="outputs/..."),
]
RecogniserOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="The judge.", show_default="the one of t2i"),
]
ControlOption = Annotated[
    str | None,
    typer.Option(metavar="NETWORK", help="The ControlNet or T2I-Adapter that hints measures."),
]
AgainstOption = Annotated[
    Path | None,
    typer.Option(
        "--against", metavar="FILE", help="Another evaluation.json: say what has changed."
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """Parsed options of the command `t2i evaluate`: model, suite, parts, output folder, recogniser,
    earlier result.

    model : as it was typed
    model_path : folder or file of the model on this machine
    suite : name or path of the suite, as it was typed; config : its content
    parts : names of the parts of the suite to measure
    out : folder of the result
    recogniser : folder of the judge; None for the one of t2i
    control : network that the part "hints" measures, as it was typed: a name, a folder or a file
    earlier_result : evaluation.json of another result to compare with
    """

    model: str
    model_path: Path
    suite: str
    quick: bool
    config: "SuiteConfig"
    parts: Sequence[str]
    out: Path
    recogniser: Path | None
    control: str | None
    earlier_result: Path | None

    @property
    def reproduction_command(self) -> str:
        """Command line that repeats this evaluation, recorded in its result."""
        suite = [f"--suite {self.suite}"] * (self.suite != "scenes")
        control = [f"--control {self.control}"] if self.control is not None else []
        return " ".join(["t2i evaluate", self.model, *suite, *["--quick"] * self.quick, *control])


def evaluate(
    model: ModelArgument,
    suite: SuiteOption = "scenes",
    quick: QuickOption = False,
    part: PartOption = None,
    out: OutOption = None,
    recogniser: RecogniserOption = None,
    control: ControlOption = None,
    against: AgainstOption = None,
    format: FormatOption = "text",
) -> None:
    """Measure how well MODEL follows its prompts; print the path of a page with the results.

    Scenes are drawn, inspected and edited, and compared with the known content of every pixel. In
    the folder: index.html, the page; evaluation.json and tables.md, its figures; records.jsonl,
    every unit; pictures/. The same command continues where it was stopped.
    """
    from t2i.denoiser.loading.model_location import locate_model
    from t2i.evaluate.optional_imports import check_extra_installed
    from t2i.evaluate.suite import read_suite_config, select_part_names

    config = read_suite_config(suite, quick=quick)
    parts = select_part_names(part or [], config)
    check_control_option(control, parts)
    check_extra_installed()
    model_path = locate_model(model)
    if out is None:
        names = [
            Path(model).stem or model_path.resolve().name,
            Path(suite).stem,
            *["quick"] * quick,
        ]
        out = Path("outputs") / "-".join(["evaluate", *names])
    options = EvaluationOptions(
        model=model,
        model_path=model_path,
        suite=suite,
        quick=quick,
        config=config,
        parts=parts,
        out=out,
        recogniser=recogniser,
        control=control,
        earlier_result=against,
    )
    from t2i.evaluate.run import PAGE_FILE

    document = _measure_suite(options)
    if format == "json":
        print_json(document)
    else:
        print_headline_figures(document)
        _print_tables({name: document["chapters"].get(name) for name in PRINTED_CHAPTERS})
        print_result_line(out / PAGE_FILE)


def check_control_option(control: str | None, parts: Sequence[str]) -> None:
    """Raise ArgumentError if `t2i evaluate` measures the part "hints" without a --control network,
    or is given --control without measuring that part.
    """
    if control is None and "hints" in parts:
        raise ArgumentError(
            "The part hints measures a control: name its network, --control segments, or a "
            "folder as `t2i train` writes it."
        )
    if control is not None and "hints" not in parts:
        raise ArgumentError(
            f"Got --control {control}, which the parts {', '.join(parts)} do not use: leave it "
            "out, or measure it with --suite hints."
        )
    if control is not None and not locate_control_network(control).exists():
        raise ArgumentError(
            f"--control {control}: there is no such folder or file. "
            f"Those of t2i: {suggest_choice(control, EMBEDDED_CONTROLS)}"
        )


def _measure_suite(options: EvaluationOptions) -> dict[str, Any]:
    """Measure what is not measured yet, write the result and return its document."""
    from t2i.accelerate_state import isolated_torch_rng
    from t2i.evaluate.progress import showing_suite_progress
    from t2i.evaluate.report.earlier_result import read_earlier_result
    from t2i.evaluate.run import (
        RESULT_VERSION,
        measure_parts,
        select_finished_parts,
        write_result_files,
    )
    from t2i.evaluate.suite import PART_CLASSES, build_part
    from t2i.library_messages import quieting_libraries
    from t2i.run_folder import locking_folder

    with ExitStack() as held:
        # the folder, the model and what it is compared with
        held.enter_context(locking_folder(options.out))
        held.enter_context(quieting_libraries())
        held.enter_context(isolated_torch_rng())
        store, context, facts = _prepare_evaluation(options)
        facts["command"] = options.reproduction_command
        earlier = None
        if options.earlier_result is not None:
            earlier = read_earlier_result(options.earlier_result, facts, RESULT_VERSION)
        for change in store.library_changes:
            print_remark(
                f"Warning: since the first units {change}: the others may differ slightly."
            )
        parts = [build_part(name, options.config, context) for name in options.parts]

        # unit by unit
        try:
            with showing_suite_progress(parts) as report:
                measure_parts(parts, store, report)
        except KeyboardInterrupt:
            count = len(store.finished_units)
            print_remark(f"Interrupted: {count} units are finished. The same command continues.")
            raise typer.Exit(130) from None

        # the result, with parts that earlier commands have finished
        names = {name for name, _ in store.finished_units} - set(options.parts)
        others = [
            build_part(name, options.config, context) for name in PART_CLASSES if name in names
        ]
        order = list(PART_CLASSES)
        finished = sorted(
            select_finished_parts([*parts, *others], store), key=lambda p: order.index(p.name)
        )
        return write_result_files(finished, store, facts, earlier)


def _prepare_evaluation(
    options: EvaluationOptions,
) -> "tuple[ResultFolder, EvaluationContext, dict[str, Any]]":
    """Return the result folder, the loaded model, and the head of the result."""
    from t2i import __version__
    from t2i.cli.generation.loaded_request import load_model_with_defaults
    from t2i.cli.metadata.writing import read_library_versions
    from t2i.cli.request.digests import compute_model_digest
    from t2i.controls.loading import load_control_network
    from t2i.environment_info import collect_environment_info
    from t2i.evaluate.promptable_objects import find_promptable_objects
    from t2i.evaluate.result_folder import ResultFolder
    from t2i.evaluate.suite_part import EvaluationContext
    from t2i.scenes.caption_matcher import CaptionMatcher
    from t2i.scenes.recogniser import DEFAULT_FOLDER, Recogniser

    judging = options.recogniser or DEFAULT_FOLDER
    caption_matcher = None
    if CaptionMatcher.is_stored_in(judging):
        caption_matcher = CaptionMatcher.load(judging)
    judge = caption_matcher.recogniser if caption_matcher else Recogniser.load(judging)
    known = find_promptable_objects(options.model_path, judge)
    identity = {
        "model": {"name": options.model, "digest": compute_model_digest(options.model_path)},
        "recogniser": compute_model_digest(judging),
        "config": options.config.to_json(),
        "libraries": {"t2i": __version__, **read_library_versions(("torch", "diffusers"))},
    }
    if options.control is not None:
        identity["control"] = compute_model_digest(locate_control_network(options.control))
    model = load_model_with_defaults(options.model_path)
    network = None
    if options.control is not None:
        network = load_control_network(options.control, model.pipe.unet).to(model.pipe.device)
    store = ResultFolder(options.out, identity)
    context = EvaluationContext(
        pipe=model.pipe,
        recogniser=judge.to(model.pipe.device),
        caption_matcher=caption_matcher and caption_matcher.to(model.pipe.device),
        objects=known.objects,
        max_objects=known.max_at_once,
        steps=model.steps,
        guidance_scale=model.guidance_scale,
        save_picture=store.save_picture,
        control_network=network,
    )
    asked = {
        "objects": [*context.objects],
        "most_objects": context.max_objects,
        "steps": context.steps,
        "guidance_scale": context.guidance_scale,
        "sampler": model.sampler,
    }
    return store, context, identity | {"asked": asked, "machine": collect_environment_info()}


def _print_tables(chapters: Mapping[str, Any]) -> None:
    """Print the tables of these chapters, without confidence intervals."""
    from rich.table import Table
    from rich.text import Text

    from t2i.evaluate.report.chapter import Estimate
    from t2i.evaluate.report.number_format import format_cell_with_unit

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
                    format_cell_with_unit(
                        Estimate(cell["value"]) if isinstance(cell, dict) else cell,
                        block["units"].get(head, ""),
                    )
                    for head, cell in row["cells"].items()
                ]
                table.add_row(Text(row["label"]), *map(Text, cells))
            print_rich(Text(block["title"], style="bold"))
            print_rich(table)
            print_rich()
