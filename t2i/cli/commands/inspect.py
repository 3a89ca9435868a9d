"""`t2i inspect`: heat maps of the words of a prompt over its image."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t2i.cli.inspected_words import ANIMATION_ENDING, SEGMENT_ENDING, split_words
from t2i.cli.output import FormatOption, print_json, print_remark
from t2i.cli.request import options
from t2i.cli.request.photo_inversion import convert_recording_budget_to_bytes
from t2i.errors import ArgumentError
from t2i.terminal import print_result_line, print_rich, showing_warnings_on_one_line

if TYPE_CHECKING:
    from t2i.attention.probes.heat_maps import HeatMaps
    from t2i.cli.generation.recorded_photo import RecordedPhoto
    from t2i.cli.output_files.multi_file_output_names import MultiFileOutputNames
    from t2i.cli.request.request import Request

EPILOG = """Examples:

`t2i inspect "a red apple to the left of a cat" --words apple,cat --seed 7`

`t2i inspect "a blue car and a tree" --words "blue car,tree" --out car.png`

`t2i inspect --image cat.jpg "a cat on a sofa"`

`t2i inspect "a red apple to the left of a cat" --words apple,cat --segment --animate`
"""

WordsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WORD,...",
        help=(
            "Words or phrases, separated by commas; may be repeated. Those that are not in the "
            "prompt are read beside it."
        ),
        show_default="all but little ones",
    ),
]

SegmentOption = Annotated[
    bool,
    typer.Option(
        "--segment",
        help=(
            "Also write the word of each place: the picture coloured by the word with the highest "
            "heat map there, or by none, with a legend."
        ),
    ),
]
AnimateOption = Annotated[
    bool,
    typer.Option("--animate", help="Also write the heat maps of each step, as an animated PNG."),
]


def inspect_attention(
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What the picture, or PHOTO, shows.")
    ] = None,
    words: WordsOption = None,
    image: options.Photo = None,
    folder: options.SourceFolder = None,
    invert: options.Invert = None,
    fit: options.Fit = None,
    budget: options.RecordingBudget = None,
    out: options.Out = None,
    seed: options.Seed = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    sampler: options.Sampler = None,
    method: options.GuidanceMethod = None,
    size: options.Size = None,
    negative: options.Negative = None,
    model: options.Model = None,
    grammar: options.Grammar = None,
    lora: options.Lora = None,
    lora_dir: options.LoraDir = None,
    embedding: options.Embedding = None,
    control: options.Control = None,
    preset: options.Preset = None,
    fast: options.Fast = False,
    segment: SegmentOption = False,
    animate: AnimateOption = False,
    no_metadata: options.NoMetadata = False,
    format: FormatOption = "text",
) -> None:
    """Generate PROMPT and show which parts of the picture attend to each of its words.

    Printed are a table and the paths of what is written: a strip of the picture and each word's
    heat map over it, and the maps themselves as .safetensors beside it. The picture is the one
    that `t2i generate` draws with the same seed, bit for bit: looking changes nothing. With
    --control, a further row shows where each ControlNet looks for the words, behind its hint; with
    --negative, a row shows where the words of the negative prompt are looked for. With
    --image, PHOTO is looked into instead: it is inverted, with PROMPT as its description; with
    --source, `t2i invert` has done that before, and nothing is computed anew. With --segment and
    --animate the word of each place, and the maps of each step, are drawn too. No file is replaced.
    """
    from t2i.cli.applied_preset import choose_preset_name

    preset = choose_preset_name(preset, fast=fast)
    sampling = options.SamplingOptions(
        negative=negative,
        model=model,
        steps=steps,
        guidance=guidance,
        sampler=sampler,
        method=method,
        size=size,
        grammar=grammar,
        lora=lora,
        embedding=embedding,
        control=control,
    )
    if control and (image or folder):
        raise ArgumentError(
            "Got --control for a photo: t2i inspect looks into ControlNets while it draws "
            "PROMPT. Leave out --control, or --image and --source."
        )
    photo = options.PhotoOptions(image=image, source=folder, invert=invert, fit=fit)
    overrides, budget_bytes = (
        photo.copy_overrides_with_photo(sampling.to_overrides()),
        convert_recording_budget_to_bytes(budget),
    )
    chosen = split_words(words)
    from t2i.cli.request.request import check_text_length_and_encoding

    for word in chosen:
        check_text_length_and_encoding("A word of --words", word)
    recorded = None
    if folder is not None:
        options.check_options_allowed_with_source(
            overrides, {"PROMPT": prompt, "--seed": seed, "--budget": budget, "--preset": preset}
        )
        from t2i.cli.generation.recorded_photo import read_recorded_photo

        recorded = read_recorded_photo(folder, model)
        request, seed = recorded.request, recorded.seed
    elif prompt is None:
        raise ArgumentError(_describe_missing_prompt(image))
    else:
        request = options.build_prompt_request(prompt, overrides, lora_dir, preset)
    options.check_no_composed_prompts(request, [request.prompt])
    from t2i.cli.generation.inspected_image import list_file_endings, list_negative_words
    from t2i.cli.output_files.multi_file_output_names import MultiFileOutputNames
    from t2i.cli.request.file_checks import check_request_files
    from t2i.cli.request.request import choose_seed

    seed = choose_seed(seed)
    if recorded is None:
        check_request_files(request)
    endings = list_file_endings(
        range(len(request.controls)),
        segment=segment,
        animate=animate,
        negative=request.inversion is None and bool(list_negative_words(request)),
    )
    names = MultiFileOutputNames(out or Path("outputs"), request.prompt, "words", endings)
    output = InspectionOutputSettings(
        names=names,
        write_metadata=not no_metadata,
        as_json=format == "json",
        segment=segment,
        animate=animate,
    )
    _inspect_and_save(request, chosen, seed, output, recorded=recorded, budget_bytes=budget_bytes)


def _describe_missing_prompt(image: Path | None) -> str:
    if image is None:
        return 'Missing PROMPT, as in: t2i inspect "a red apple to the left of a cat" --words apple'
    return (
        "Got --image without PROMPT: the photo is inverted with the prompt that describes it, and "
        'its words are looked up in that, as in: t2i inspect --image cat.jpg "a cat on a sofa"'
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectionOutputSettings:
    """Output settings of `t2i inspect`: file names, metadata, report format.

    write_metadata : whether to write into the strip how its picture was made
    segment, animate : whether to write the label picture, and the animation of the steps
    """

    names: "MultiFileOutputNames"
    write_metadata: bool
    as_json: bool
    segment: bool
    animate: bool


def _inspect_and_save(
    request: "Request",
    words: Sequence[str],
    seed: int,
    output: InspectionOutputSettings,
    *,
    recorded: "RecordedPhoto | None",
    budget_bytes: int | None,
) -> None:
    """Look up the words in the picture of a request; save and print what it shows.

    words : all content words of the prompt where it is empty
    """
    from t2i.cli.generation.inspected_image import (
        CONTROL_MAPS_ENDING,
        MAPS_ENDING,
        NEGATIVE_MAPS_ENDING,
        compute_word_stats,
        generate_and_probe,
        probe_photo,
    )
    from t2i.cli.generation.inverted_photo import invert_photo
    from t2i.cli.generation.loaded_request import load_model_for_request
    from t2i.cli.metadata.writing import build_metadata_texts
    from t2i.library_messages import quieting_libraries
    from t2i.pictures import save_picture

    output.names.make_folder()
    with showing_warnings_on_one_line() as warned, quieting_libraries():
        loaded = (
            load_model_for_request(request)
            if recorded is None
            else recorded.load_model([request.prompt])
        )
        start = time.perf_counter()
        try:
            if request.inversion is None:
                inspected = generate_and_probe(
                    loaded.pipe, loaded.request, words, seed, keep_steps=output.animate
                )
            else:
                inspected = probe_photo(
                    loaded.pipe,
                    loaded.request,
                    words,
                    lambda editor: (
                        invert_photo(editor, loaded.request, seed, budget_bytes=budget_bytes)
                        if recorded is None
                        else recorded.source
                    ),
                    keep_steps=output.animate,
                )
        except KeyboardInterrupt:
            print_remark("Interrupted: nothing is written.")
            raise typer.Exit(130) from None
        request, maps = inspected.request, inspected.maps
        texts = (
            build_metadata_texts(request, seed, loaded.model_digest)
            if output.write_metadata
            else None
        )

        writers = inspected.build_writers_by_file_ending(
            segment=output.segment, animate=output.animate
        )

        def write(paths: Sequence[Path]) -> None:
            save_picture(inspected.build_strip(), paths[0], texts)
            for save, path in zip(writers.values(), paths[1:], strict=True):
                save(path)

        output.names.endings = list(writers)
        strip_path, *others = output.names.save_files_all_or_none(seed, write)
        path_by_ending = dict(zip(writers, others, strict=True))
    seconds = round(time.perf_counter() - start, 2)

    if output.as_json:
        made: dict[str, object] = {
            "strip": str(strip_path),
            "maps": str(path_by_ending[MAPS_ENDING]),
            "seed": seed,
            "seconds": seconds,
        }
        if inspected.maps_by_control:
            made["controls"] = [
                {
                    "control": number,
                    "maps": str(path_by_ending[CONTROL_MAPS_ENDING.format(number)]),
                    "words": compute_word_stats(one),
                }
                for number, one in inspected.maps_by_control.items()
            ]
        if inspected.negative_maps is not None:
            made["negative"] = {
                "maps": str(path_by_ending[NEGATIVE_MAPS_ENDING]),
                "words": compute_word_stats(inspected.negative_maps),
            }
        if output.segment:
            labels = inspected.segment()
            shares = {word: round(labels.share(word), 4) for word in labels.words}
            made["segments"] = {
                "picture": str(path_by_ending[SEGMENT_ENDING]),
                "area_of_words": shares,
                "area_of_no_word": round(labels.share(None), 4),
            }
        if output.animate:
            made["animation"] = str(path_by_ending[ANIMATION_ENDING])
        found = {"request": asdict(request), "words": inspected.compute_word_stats()}
        print_json(found | {"warnings": warned} | made)
        return
    _print_table(maps)
    for number, one in inspected.maps_by_control.items():
        print_remark(f"in control {number}:")
        _print_table(one)
    if inspected.negative_maps is not None:
        print_remark("in the negative prompt:")
        _print_table(inspected.negative_maps)
    print_remark(f"seed {seed}, {seconds} s")
    for path in (strip_path, *others):
        print_result_line(path)


def _print_table(maps: "HeatMaps") -> None:
    from rich.table import Table
    from rich.text import Text

    from t2i.cli.generation.inspected_image import find_word_peak_place_and_share

    presences = {word: maps.found(word) for word in maps}
    heads = ["word", "peak", "where", "share"]
    if any(one.probability is not None for one in presences.values()):
        heads.append("found")  # otherwise the model has no fit for it
    table = Table(*heads, box=None, pad_edge=False)
    for word, presence in presences.items():
        (across, down), place, share = find_word_peak_place_and_share(maps, word)
        cells = [f"{across:.2f}, {down:.2f}", place, f"{share:.1%}"]
        if len(heads) > len(cells) + 1:
            probability = presence.probability
            missing = " (missing)" if presence.is_missing else ""
            cells.append("-" if probability is None else f"{probability:.0%}{missing}")
        table.add_row(Text(word), *cells)
    print_rich(table)
