"""`t2i tune`: a model's presets, chosen by what faster settings cost on this machine."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from t2i.cli.evaluation_summary import build_candidate_figures, print_candidate_costs
from t2i.cli.output import FormatOption, print_json, print_remark
from t2i.errors import ArgumentError, DataError
from t2i.terminal import plural, print_result_line

if TYPE_CHECKING:
    from t2i.denoiser.presets import Preset, PresetLora
    from t2i.evaluate.result_folder import ResultFolder
    from t2i.evaluate.suite_part import EvaluationContext
    from t2i.evaluate.tuning.choice import CandidateCost

EPILOG = """Examples:

`t2i tune embedded --output presets.json`

`t2i tune my-model --lora my-model/fast.safetensors`

`t2i generate "a cat" --model my-model --fast`
"""
DEFAULT_CAPTIONS = 480
"""Enough that a preset of equal quality is known to lose less than two points."""
MAX_CAPTIONS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningOptions:
    """Parsed options of `t2i tune`.

    path : folder of the model
    output : file that gets the presets: the model's own t2i.json, or another
    lora : distilled LoRA, below the folder of `output`
    judges : whether the recogniser of scenes judges images
    """

    model: str
    path: Path
    output: Path
    records: Path
    captions: int
    lora: "PresetLora | None"
    judges: bool


def tune(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A name of `t2i models`, or a folder.")
    ],
    suite: Annotated[
        Literal["auto", "scenes", "none"],
        typer.Option(
            help="What judges the pictures: scenes, or none but the distance to those of the plain "
            "defaults; auto takes scenes for models trained on them."
        ),
    ] = "auto",
    captions: Annotated[
        int, typer.Option(min=2, max=MAX_CAPTIONS, help="How many captions are drawn.")
    ] = DEFAULT_CAPTIONS,
    lora: Annotated[
        str | None,
        typer.Option(metavar="FILE[:SCALE]", help="A LoRA distilled for few steps, in MODEL."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="Where the presets go.", show_default="the t2i.json of MODEL"
        ),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where the measurements go.", show_default="outputs/tune-..."
        ),
    ] = None,
    format: FormatOption = "text",
) -> None:
    """Measure what settings that draw faster cost on this machine, and choose MODEL's presets.

    Each caption is drawn with every candidate in turn, from the same noise: fewer steps, guidance
    for a part of them, caches, another sampler, a distilled LoRA. Printed is what each costs. The
    presets fast and fastest, for t2i generate --preset, are written into MODEL's t2i.json, or into
    FILE.json. The same command continues where it was stopped.
    """
    from t2i.denoiser.loading.model_location import MODEL_NOTES_FILE, locate_model
    from t2i.evaluate.optional_imports import check_extra_installed

    check_extra_installed()
    path = locate_model(model)
    if path.is_file() and output is None:
        raise ArgumentError(
            f"{path} is a single file, which has no t2i.json: say with --output FILE.json where "
            "the presets go."
        )
    place = path / MODEL_NOTES_FILE if output is None else output
    if place.suffix != ".json":
        raise ArgumentError(f"Got --output {place}: expected the name of a file, as presets.json.")
    _check_output(place, model)
    name = Path(model).name.removesuffix(".safetensors")
    options = TuningOptions(
        model=model,
        path=path,
        output=place,
        records=records or Path("outputs") / f"tune-{name or path.resolve().name}",
        captions=captions,
        lora=None if lora is None else _parse_lora(lora, place.parent),
        judges=suite == "scenes" or (suite == "auto" and _is_trained_on_scenes(path)),
    )
    costs, presets = _measure(options)
    _write(options, presets)
    option = "" if output is None else f"{place}:"
    if format == "json":
        shown = {
            n: one.model_dump(mode="json", exclude_defaults=True) for n, one in presets.items()
        }
        table = [
            {"name": cost.candidate.name, "rows": cost.rows, **build_candidate_figures(cost)}
            for cost in costs
        ]
        print_json(
            {"presets": shown, "costs": table, "output": str(place), "judged": options.judges}
        )
        return
    print_candidate_costs(costs)
    if not options.judges:
        print_remark(
            "Nothing judges what this model draws: presets are chosen by the distance of their "
            "pictures to those of the plain defaults alone."
        )
    for name in ("fast", "fastest"):
        if name not in presets:
            print_remark(f"No candidate is good enough for the preset {name}: it is left out.")
        else:
            cost = next(one for one in costs if _is_of(presets[name], one))
            print_remark(f"--preset {option}{name}: {cost.candidate.name}")
    if presets:
        print_result_line(place)


def _is_of(preset: "Preset", cost: "CandidateCost") -> bool:
    """Return True if a preset was made of a candidate."""
    return preset.model_copy(update={"weights": None, "cost": None}) == cost.candidate.preset


def _check_output(place: Path, model: str) -> None:
    """Raise ArgumentError for a file that cannot be written, ModelError for one with other content
    than presets can be added to, before anything is measured.
    """
    from t2i.denoiser.presets import parse_presets
    from t2i.safe_reading import MODEL_CONFIG_KIND, read_bytes

    if place.exists():
        parse_presets(read_bytes(place, MODEL_CONFIG_KIND), place)
    folder = place.parent
    target = place if place.exists() else folder
    if folder.is_dir() and not is_writable(target):
        raise ArgumentError(
            f"{place} cannot be written: take a file of your own, t2i tune {model} --output "
            "presets.json, and then --preset presets.json:fast."
        )


def is_writable(path: Path) -> bool:
    """Return True for a file or folder that this user may write to."""
    return os.access(path, os.W_OK)


def _parse_lora(text: str, folder: Path) -> "PresetLora":
    """Parse --lora into a LoRA below the folder of the presets. Raises ArgumentError."""
    from pydantic import ValidationError

    from t2i.cli.request.file_checks import find_usable_file_path
    from t2i.cli.request.input_files import parse_file_with_scale
    from t2i.denoiser.presets import PresetLora
    from t2i.validation_errors import describe_first_validation_error

    file = parse_file_with_scale(text)
    path = find_usable_file_path("loras", file)
    try:
        below = path.resolve().relative_to(folder.resolve())
    except ValueError:
        raise ArgumentError(
            f"Got --lora {path}, which is not below {folder}: presets name LoRAs by their place "
            "beside the file that they are in. Copy it there, and name the copy."
        ) from None
    try:
        return PresetLora(path=below.as_posix(), scale=file.scale)
    except ValidationError as error:
        reason = describe_first_validation_error(error)
        raise ArgumentError(f"Got --lora {text:.200}: {reason}.") from error


def _is_trained_on_scenes(path: Path) -> bool:
    """Return True if the notes of a model say that it was trained on scenes."""
    from t2i.cli.prompt_checks.caption_vocabulary import read_caption_vocabulary

    return read_caption_vocabulary(path) is not None


def _measure(options: TuningOptions) -> "tuple[list[CandidateCost], dict[str, Preset]]":
    """Measure the captions that are not measured yet; return the costs and the presets."""
    from pydantic import ValidationError

    from t2i.accelerate_state import isolated_torch_rng
    from t2i.attention.probes.presence import compute_attention_fingerprint
    from t2i.evaluate.progress import showing_suite_progress
    from t2i.evaluate.run import measure_parts
    from t2i.evaluate.tuning.candidates import list_candidates
    from t2i.evaluate.tuning.choice import choose_presets, measure_costs
    from t2i.evaluate.tuning.part import CaptionRecord, TuningPart
    from t2i.library_messages import quieting_libraries
    from t2i.run_folder import locking_folder

    with ExitStack() as held:
        held.enter_context(locking_folder(options.records))
        held.enter_context(quieting_libraries())
        held.enter_context(isolated_torch_rng())
        context = _build_context(options)
        candidates = list_candidates(context.steps, options.lora)
        described = [
            {"name": one.name, **one.preset.model_dump(mode="json", exclude_defaults=True)}
            for one in candidates
        ]
        store = _open_records(options, described)
        part = TuningPart(
            candidates, context, options.captions, options.output.parent, judges=options.judges
        )
        try:
            with showing_suite_progress([part]) as report:
                measure_parts([part], store, report)
        except KeyboardInterrupt:
            finished = plural(len(store.finished_units), "caption")
            print_remark(f"Interrupted: {finished} finished. The same command continues.")
            raise typer.Exit(130) from None
        done = store.get_part_records(part.name)
        try:
            found = [CaptionRecord.model_validate(done[unit]) for unit in part.list_unit_keys()]
        except ValidationError as error:
            raise DataError(
                f"A record in {options.records} has an unexpected format "
                f"({error.errors()[0]['msg']}). Remove the folder, and measure again."
            ) from error
        weights = compute_attention_fingerprint(context.pipe)
    costs = measure_costs(candidates, found)
    return costs, {name: cost.to_preset(weights) for name, cost in choose_presets(costs).items()}


def _build_context(options: TuningOptions) -> "EvaluationContext":
    """Load the model with its own defaults, and the recogniser."""
    from t2i.cli.generation.loaded_request import load_model_with_defaults
    from t2i.evaluate.promptable_objects import find_promptable_objects
    from t2i.evaluate.suite_part import EvaluationContext
    from t2i.scenes.recogniser import DEFAULT_FOLDER, Recogniser

    judge = Recogniser.load(DEFAULT_FOLDER)
    known = find_promptable_objects(options.path, judge)
    model = load_model_with_defaults(options.path)
    return EvaluationContext(
        pipe=model.pipe,
        recogniser=judge.to(model.pipe.device),
        objects=known.objects,
        max_objects=known.max_at_once,
        steps=model.steps,
        guidance_scale=model.guidance_scale,
        save_picture=lambda name, _: name,
    )


def _open_records(options: TuningOptions, candidates: Sequence[dict[str, Any]]) -> "ResultFolder":
    """Open the folder of the measurements. Raises ArgumentError for those of something else."""
    from t2i import __version__
    from t2i.cli.metadata.writing import read_library_versions
    from t2i.cli.request.digests import compute_file_sha256, compute_model_digest
    from t2i.evaluate.result_folder import ResultFolder

    lora = None
    if options.lora is not None:
        lora = compute_file_sha256(options.output.parent / options.lora.path)
    identity = {
        "model": {"name": options.model, "digest": compute_model_digest(options.path)},
        "candidates": {str(one.pop("name")): one for one in map(dict, candidates)},
        "lora": lora,
        "captions": options.captions,
        "judged": options.judges,
        "libraries": {"t2i": __version__, **read_library_versions(("torch", "diffusers"))},
    }
    return ResultFolder(options.records, identity, noun="measurement", option="--records")


def _write(options: TuningOptions, presets: "dict[str, Preset]") -> None:
    """Write the presets into their file, whose other content is kept; nothing where there are none
    and the file has none. Raises OutputError.
    """
    from t2i.atomic_files import write_atomically
    from t2i.denoiser.presets import insert_presets, parse_presets
    from t2i.evaluate.tuning.choice import MAX_LOSS_BY_PRESET
    from t2i.safe_reading import MODEL_CONFIG_KIND, read_bytes

    place = options.output
    notes = read_bytes(place, MODEL_CONFIG_KIND) if place.exists() else None
    before = parse_presets(notes, place)
    others = {name: one for name, one in before.items() if name not in MAX_LOSS_BY_PRESET}
    if not presets and others == before:
        return
    text = insert_presets(notes, {**others, **presets})
    write_atomically(place, lambda part: part.write_text(text, "utf-8"))
