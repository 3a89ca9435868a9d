"""`t2i edit`: an image or a photo, and the image of changed words beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from t2i.cli.output import FormatOption
from t2i.cli.request import options
from t2i.cli.request.edit_options import EditOptions
from t2i.cli.request.photo_inversion import convert_recording_budget_to_bytes
from t2i.errors import ArgumentError
from t2i.terminal import plural

EPILOG = """Examples:

`t2i edit "a cat on a blue background" "a dog on a blue background" --seed 7`

`t2i edit "a red apple and a tree" --weight red=2.5 --weight tree=0.3`

`t2i edit "a cat and a balloon" --region cat:0.5,0.3,1,1`

`t2i edit "a cat and a balloon" "a dog and a balloon" --blend cat,dog --out swap.png`

`t2i edit "a cat on a sofa" "a sofa with a big dog" --align dog=cat,big=new`

`t2i edit --image cat.jpg "a cat on a sofa" "a dog on a sofa" --record dog`

`t2i edit --source dog "a dog on a red sofa"`

`t2i edit "a cat" "a tree" --style 1`
"""

SourceArgument = Annotated[
    str | None, typer.Argument(metavar="SOURCE", help="What the first picture, or PHOTO, shows.")
]
TargetsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TARGET]...",
        help="What the others show instead; left out, SOURCE with weights or boxes.",
    ),
]
TargetOption = Annotated[
    list[str] | None,
    typer.Option("--target", metavar="TARGET", help="A further one; may be repeated."),
]
WeightOption = Annotated[
    list[str] | None,
    typer.Option(metavar="WORD=FACTOR", help="Make a word stronger or weaker; may be repeated."),
]
BlendOption = Annotated[
    str | None,
    typer.Option(
        metavar="WORD[,WORD]",
        help="Change nothing but where these words of SOURCE and TARGET are; auto, or none.",
        show_default="auto: by kind of edit",
    ),
]
AlignOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WORD=WORD",
        help="A word of TARGET, and that of SOURCE it comes from, or new; may be repeated.",
        show_default="by the order of the words",
    ),
]
CrossReplaceOption = Annotated[
    str | None,
    typer.Option(
        metavar="[FROM:]TO",
        help="Part of the steps in which words look as in SOURCE.",
        show_default="by kind of edit",
    ),
]
SelfReplaceOption = Annotated[
    str | None,
    typer.Option(
        metavar="[FROM:]TO",
        help="Part of the steps that keep SOURCE's layout.",
        show_default="by kind of edit",
    ),
]
StyleOption = Annotated[
    float | None,
    typer.Option(
        metavar="WEIGHT",
        help="Draw TARGETs in SOURCE's style: 1 as published, 2 for more of it.",
    ),
]
RecordOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="A new folder for TARGET, of a photo: the --source of a next edit."
    ),
]


def edit(
    source: SourceArgument = None,
    targets: TargetsArgument = None,
    more_targets: TargetOption = None,
    image: options.Photo = None,
    folder: options.SourceFolder = None,
    invert: options.Invert = None,
    fit: options.Fit = None,
    mask: options.PhotoMask = None,
    full_size: options.FullSize = False,
    budget: options.RecordingBudget = None,
    record: RecordOption = None,
    weight: WeightOption = None,
    blend: BlendOption = None,
    align: AlignOption = None,
    region: options.Region = None,
    style: StyleOption = None,
    cross_replace: CrossReplaceOption = None,
    self_replace: SelfReplaceOption = None,
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
    cache: options.Cache = None,
    preset: options.Preset = None,
    fast: options.Fast = False,
    ip_adapter: options.IPAdapter = None,
    no_metadata: options.NoMetadata = False,
    format: FormatOption = "text",
) -> None:
    """Generate SOURCE, and each TARGET as an edit of it by attention control; print the paths.

    All start from the same noise, so that only what the words change changes. With --image, PHOTO
    takes the place of the generated source: it is inverted to the noise that the model makes it
    from, with SOURCE as its description; with --source, `t2i invert` has done that before, and all
    prompts are TARGETs. With --record, TARGET of a photo is recorded, as the --source of edits upon
    this edit. Written are a sheet of all pictures side by side, and each
    picture alone, with all its settings in its metadata: `t2i generate --from` draws it again. The
    sheet has those of its last picture. No file is replaced.
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
        cache=cache,
        ip_adapter=ip_adapter,
    )
    photo = options.PhotoOptions(
        image=image, source=folder, invert=invert, fit=fit, mask=mask, full_size=full_size
    )
    edit_options = EditOptions.parse(
        weight or [],
        blend or "auto",
        cross_replace,
        self_replace,
        align or [],
        region or [],
        style,
    )
    if full_size and image is None and folder is None:
        raise ArgumentError(
            "Got --full-size without --image or --source: a generated picture has its full size."
        )
    if record is not None and image is None and folder is None:
        raise ArgumentError(
            "Got --record without --image or --source: edits of photos are recorded. Give a saved "
            "picture of the model as --image to edit it further."
        )
    overrides, budget_bytes = (
        photo.copy_overrides_with_photo(sampling.to_overrides()),
        convert_recording_budget_to_bytes(budget),
    )
    recorded = None
    if folder is not None:
        of_recording = None if record is not None else budget
        options.check_options_allowed_with_source(
            overrides, {"--seed": seed, "--budget": of_recording, "--preset": preset}
        )
        from t2i.cli.generation.recorded_photo import read_recorded_photo

        recorded = read_recorded_photo(folder, model, full_size=full_size)
        request, seed = recorded.request, recorded.seed
        targets = [*([] if source is None else [source]), *(targets or [])]
        source = request.prompt
    prompts = _list_prompts(source, targets or [], more_targets or [], edit_options, photo=image)
    if record is not None and len(prompts) > 2:
        raise ArgumentError(
            f"Got --record with {plural(len(prompts) - 1, 'target')}: one TARGET is recorded in a "
            "folder. Give the others in edits of their own."
        )
    if recorded is None:
        request = options.build_prompt_request(prompts[0], overrides, lora_dir, preset)
        prompts[0] = request.prompt
    from t2i.cli.output_files.multi_file_output_names import MultiFileOutputNames
    from t2i.cli.request.file_checks import check_file_combinations, check_request_files
    from t2i.cli.request.prompt_loras import check_no_lora_tags
    from t2i.cli.request.request import choose_seed

    seed = choose_seed(seed)
    check_no_lora_tags("a TARGET", prompts[1:], request)
    options.check_no_composed_prompts(request, prompts)
    if recorded is None:
        check_file_combinations(request)
        check_request_files(request)
    endings = _file_endings(len(prompts))
    names = MultiFileOutputNames(out or Path("outputs"), request.prompt, "edit", endings)

    from t2i.cli.generation.edit_request import EditOutputSettings, generate_and_save_edits

    output = EditOutputSettings(
        names=names, write_metadata=not no_metadata, as_json=format == "json"
    )
    generate_and_save_edits(
        request,
        prompts,
        edit_options,
        seed,
        output,
        recorded=recorded,
        budget_bytes=budget_bytes,
        record=record,
    )


def _list_prompts(
    source: str | None,
    targets: Sequence[str],
    more_targets: Sequence[str],
    edit: EditOptions,
    *,
    photo: Path | None,
) -> list[str]:
    """Return the source prompt, then the targets.

    Raises ArgumentError where nothing changes, and for prompts that seem to lack their quotes.
    """
    if len(targets) > 1 and any(len(prompt.split()) == 1 for prompt in (source or "", *targets)):
        raise ArgumentError(
            f"Got {plural(len(targets) + 1, 'prompt')}, some of a single word: are they one "
            "prompt without quotes? Further targets of one word are given with --target. Put each "
            'prompt into quotes: t2i edit "a cat" "a dog"'
        )
    every = [*targets, *more_targets]
    if source is not None and (every or edit.weights or edit.regions):
        return [source, *(every or [source])]
    if photo is not None:
        raise ArgumentError(
            "Got --image without SOURCE and TARGET: the photo is inverted with the prompt that "
            "describes it, SOURCE, and edits hold on to its words; TARGET is what it is to show, "
            'as in: t2i edit --image cat.jpg "a cat on a sofa" "a dog on a sofa". An empty SOURCE, '
            '"", does without a description, and then more may change than is wanted.'
        )
    raise ArgumentError(
        "Missing what to change: give a TARGET, the prompt with other words, --weight "
        'WORD=FACTOR, or --region WORDS:BOX, as in: t2i edit "a cat" "a dog"'
    )


def _file_endings(prompts: int) -> list[str]:
    """Return the end of the file name of each image, the source's first."""
    if prompts == 2:
        return ["-source.png", "-target.png"]
    return ["-source.png", *(f"-target-{number}.png" for number in range(1, prompts))]
