"""`t2i edit`: an image, and the image of changed words drawn from the same noise."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t2i.cli.output import Format, print_json, print_remark
from t2i.cli.request import options
from t2i.cli.request.edit_options import EditOptions
from t2i.errors import ArgumentError
from t2i.terminal import print_line, show_warnings_on_one_line

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.prompt_to_prompt.automatic_edits import TargetSettings, WordEditOptions
    from t2i.cli.generation.loaded_request import LoadedRequest
    from t2i.cli.grouped_file_names import GroupedFileNames
    from t2i.cli.request.request import Request

EPILOG = """Examples:

`t2i edit "a cat on a blue background" "a dog on a blue background" --seed 7`

`t2i edit "a red apple and a tree" --weight red=2.5 --weight tree=0.3`

`t2i edit "a cat and a balloon" "a dog and a balloon" --blend cat,dog --out swap.png`
"""

MIN_CELL_WIDTH = 256
"""Pixels; smaller images are enlarged in the sheet."""


Source = Annotated[str, typer.Argument(metavar="SOURCE", help="What the first picture shows.")]
Target = Annotated[
    str | None,
    typer.Argument(
        metavar="[TARGET]", help="What the second shows instead; left out, SOURCE with weights."
    ),
]
MoreTargets = Annotated[
    list[str] | None,
    typer.Option("--target", metavar="TARGET", help="A further one; may be repeated."),
]
Weights = Annotated[
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
CrossReplace = Annotated[
    str | None,
    typer.Option(
        metavar="[FROM:]TO",
        help="Part of the steps in which words look as in SOURCE.",
        show_default="by kind of edit",
    ),
]
SelfReplace = Annotated[
    str | None,
    typer.Option(
        metavar="[FROM:]TO",
        help="Part of the steps that keep SOURCE's layout.",
        show_default="by kind of edit",
    ),
]


def edit(
    source: Source,
    target: Target = None,
    more: MoreTargets = None,
    weight: Weights = None,
    blend: BlendOption = None,
    cross_replace: CrossReplace = None,
    self_replace: SelfReplace = None,
    out: options.Out = None,
    seed: options.Seed = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    sampler: options.Sampler = None,
    method: options.Method = None,
    size: options.Size = None,
    negative: options.Negative = None,
    model: options.Model = None,
    grammar: options.Grammar = None,
    lora: options.Lora = None,
    lora_dir: options.LoraDir = None,
    embedding: options.Embedding = None,
    no_metadata: options.NoMetadata = False,
    format: Format = "text",
) -> None:
    """Generate SOURCE, and TARGET as an edit of it by attention control; print the paths.

    Both start from the same noise, so that only what the words change changes. Written are a sheet
    of all pictures side by side, and each picture alone, with all its settings in its metadata:
    `t2i generate --from` draws it again. The sheet has those of its last picture. No file is
    replaced.
    """
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
    )
    request = options.build_prompt_request(source, sampling.to_overrides(), lora_dir)
    edit_options = EditOptions.parse(weight or [], blend or "auto", cross_replace, self_replace)
    prompts = _list_prompts(request.prompt, target, more or [], edit_options.weights)
    metadata, as_json = not no_metadata, format == "json"
    _draw_edit(request, prompts, edit_options, seed, out, metadata=metadata, as_json=as_json)


def _draw_edit(
    request: "Request",
    prompts: list[str],
    edit_options: EditOptions,
    seed: int | None,
    out: Path | None,
    *,
    metadata: bool,
    as_json: bool,
) -> None:
    """Draw the prompts from one noise under the edits; save the images and print their paths."""
    from t2i.cli.grouped_file_names import GroupedFileNames
    from t2i.cli.request.prompt_loras import check_no_lora_tags
    from t2i.cli.request.request import choose_seed

    seed = choose_seed(seed)
    check_no_lora_tags("a TARGET", prompts[1:], request)
    options.check_no_composed_prompts(request, prompts)
    endings = _file_endings(len(prompts))
    names = GroupedFileNames(out or Path("outputs"), request.prompt, "edit", endings)

    from t2i.cli.generation.image_generation import generate_edited_images
    from t2i.cli.generation.loaded_request import load_model_for_request
    from t2i.library_messages import quiet_libraries

    names.make_folder()
    with show_warnings_on_one_line() as warned, quiet_libraries():
        loaded = load_model_for_request(request, prompts)
        start = time.perf_counter()
        request, chosen = _choose_edits(loaded, prompts, edit_options.to_word_edit_options())
        try:
            images = generate_edited_images(loaded.pipe, request, seed)
        except KeyboardInterrupt:
            print_remark("Interrupted: nothing is written.")
            raise typer.Exit(130) from None
        request = replace(request, width=images[0].width, height=images[0].height)
        texts: list[dict[str, str] | None] = [None for _ in prompts]
        if metadata:
            texts = _build_texts(request, seed, loaded.weights)
        sheet_path, *paths = _save_images(names, seed, prompts, images, texts)
    seconds = round(time.perf_counter() - start, 2)

    if as_json:
        made = {"sheet": str(sheet_path), "pictures": [str(path) for path in paths]}
        facts = {"request": asdict(request), "seed": seed, "seconds": seconds, "warnings": warned}
        print_json(facts | {"chosen": [asdict(choice) for choice in chosen]} | made)
        return
    for prompt, choice in zip(prompts[1:], chosen, strict=True):
        line = _describe_edit(choice)
        print_remark(line if len(chosen) == 1 else f"{prompt!r}: {line}")
    print_remark(f"seed {seed}, {seconds} s")
    for path in (sheet_path, *paths):
        print_line(path)


def _choose_edits(
    loaded: "LoadedRequest", prompts: Sequence[str], edit_options: "WordEditOptions"
) -> "tuple[Request, list[TargetSettings]]":
    """Choose the edits that the prompts call for, on this model at this size.

    Returns the request of the source with all that is drawn together with it, and the choice for
    each target.
    """
    from pipelines.prompt_to_prompt.automatic_edits import choose_target_settings
    from t2i.attention.edits.registry import to_dict
    from t2i.cli.generation.image_generation import build_prompt_to_prompt_pipeline
    from t2i.cli.request.prompt_edits import EditedPrompts

    request = loaded.request
    assert request.num_inference_steps is not None
    parsed = [request.parse_with_grammar(prompt) for prompt in prompts]
    edits = build_prompt_to_prompt_pipeline(loaded.pipe).choose_automatic_edits(
        parsed, edit_options, request.num_inference_steps, request.height, request.width
    )
    edited = EditedPrompts(prompts=tuple(prompts), picture=0, edits=tuple(map(to_dict, edits)))
    chosen = choose_target_settings(parsed, request.num_inference_steps, edit_options)
    return replace(request, edited=edited), chosen


def _build_texts(request: "Request", seed: int, model_digest: str) -> list[dict[str, str] | None]:
    """Return the metadata of each image that is drawn together, the source's first."""
    from t2i.cli.metadata.writing import build_metadata_texts

    assert request.edited is not None
    together = [
        replace(request.edited, picture=number) for number in range(len(request.edited.prompts))
    ]
    requests = [
        replace(request, prompt=edited.prompts[edited.picture], edited=edited)
        for edited in together
    ]
    return [build_metadata_texts(own, seed, model_digest) for own in requests]


def _save_images(
    names: "GroupedFileNames",
    seed: int,
    prompts: Sequence[str],
    images: "Sequence[Image]",
    texts: Sequence[dict[str, str] | None],
) -> Sequence[Path]:
    """Save a sheet of all images, with the metadata of the last, and each image alone.

    Returns the paths, the sheet's first.
    """
    from t2i.pictures import build_picture_grid, save_picture

    cell = max(MIN_CELL_WIDTH, images[0].width)
    side_by_side = build_picture_grid(images, prompts, columns=len(images), cell=cell)

    def write(files: Sequence[Path]) -> None:
        saved = zip([side_by_side, *images], files, [texts[-1], *texts], strict=True)
        for image, file, text in saved:
            save_picture(image, file, text)

    return names.save_all(seed, write)


def _describe_edit(choice: "TargetSettings") -> str:
    """Return the kind of edit that was detected, and the options that reproduce it."""
    windows = {"cross-replace": choice.cross_replace, "self-replace": choice.self_replace}
    shares = {name: (0.0, 1.0) if one is None else one for name, one in windows.items()}
    settings = [
        f"--{name} {first:g}:{end:g}" if first else f"--{name} {end:g}"
        for name, (first, end) in shares.items()
    ]
    words = "none"
    if choice.blend is not None:
        sides = [side if isinstance(side, str) else "+".join(side) for side in choice.blend]
        words = sides[0] if sides[0] == sides[1] else ",".join(sides)
    return f"{choice.change.kind}: {' '.join(settings)} --blend {shlex.quote(words)}"


def _list_prompts(
    source: str, target: str | None, more: list[str], weights: Mapping[str, float]
) -> list[str]:
    """Return the source prompt, then the targets. Raises ArgumentError where nothing changes."""
    targets = [*([] if target is None else [target]), *more]
    if not targets and not weights:
        raise ArgumentError(
            "Missing what to change: give a TARGET, the prompt with other words, or --weight "
            'WORD=FACTOR, as in: t2i edit "a cat" "a dog"'
        )
    return [source, *(targets or [source])]


def _file_endings(prompts: int) -> list[str]:
    """Return the end of the file name of each image, the source's first."""
    if prompts == 2:
        return ["-source.png", "-target.png"]
    return ["-source.png", *(f"-target-{number}.png" for number in range(1, prompts))]
