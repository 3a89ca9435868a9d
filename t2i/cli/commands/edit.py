"""`t2i edit`: a picture, and the same picture of other words."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from t2i.cli.output import Format, note, print_json
from t2i.cli.request import options
from t2i.errors import ArgumentError
from t2i.terminal import print_line, warnings_in_one_line

if TYPE_CHECKING:
    from pipelines.prompt_to_prompt.automatic_edits import Blend, TargetSettings, WordEditOptions
    from t2i.attention.edits.base.edit import Edit
    from t2i.cli.drawing.loaded_request import LoadedRequest
    from t2i.cli.request.request import Request

EPILOG = """Examples:

`t2i edit "a cat on a blue background" "a dog on a blue background" --seed 7`

`t2i edit "a red apple and a tree" --weight red=2.5 --weight tree=0.3`

`t2i edit "a cat and a balloon" "a dog and a balloon" --blend cat,dog --out swap.png`
"""

MIN_CELL_WIDTH = 256
"""Smaller pictures are enlarged in the sheet."""


def edit(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What the first picture shows.")],
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]", help="What the second shows instead; left out, SOURCE with weights."
        ),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option("--target", metavar="TARGET", help="A further one; may be repeated."),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD=FACTOR", help="Make a word stronger or weaker; may be repeated."
        ),
    ] = None,
    blend: Annotated[
        str | None,
        typer.Option(
            metavar="WORD[,WORD]",
            help="Change nothing but where these words of SOURCE and TARGET are; auto, or none.",
            show_default="auto: by kind of edit",
        ),
    ] = None,
    cross_replace: Annotated[
        str | None,
        typer.Option(
            metavar="[FROM:]TO",
            help="Part of the steps in which words look as in SOURCE.",
            show_default="by kind of edit",
        ),
    ] = None,
    self_replace: Annotated[
        str | None,
        typer.Option(
            metavar="[FROM:]TO",
            help="Part of the steps that keep SOURCE's layout.",
            show_default="by kind of edit",
        ),
    ] = None,
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
    """Draw SOURCE and TARGET from the same noise, so that only what the words change changes;
    print the paths of what is written.

    That is a sheet of all pictures side by side, and each picture alone, with its whole story in
    its metadata: `t2i generate --from` draws it again. The sheet tells that of its last picture. No
    file is replaced.
    """
    request = options.build_request(source, options.typed(locals()), lora_dir)
    source = request.prompt
    from t2i.cli.output_files import SiblingNames
    from t2i.cli.request.prompt_loras import check_no_lora_tags
    from t2i.cli.request.request import choose_seed

    seed = choose_seed(seed)
    weights = parse_weights(weight or [])
    words = parse_blend(blend or "auto")
    windows: dict[str, Any] = {}
    if cross_replace is not None:
        windows["cross_replace"] = parse_window("--cross-replace", cross_replace)
    if self_replace is not None:
        windows["self_replace"] = parse_window("--self-replace", self_replace)
    prompts = _list_prompts(source, target, more or [], weights)
    check_no_lora_tags("a TARGET", prompts[1:], request)
    options.check_not_composed(request, prompts)
    names = SiblingNames(out or Path("outputs"), source, "edit", _file_endings(len(prompts)))

    from pipelines.prompt_to_prompt.automatic_edits import WordEditOptions, choose_target_settings
    from t2i.cli.drawing.drawing import draw_edited_images
    from t2i.cli.drawing.loaded_request import load_request
    from t2i.cli.metadata.writing import build_image_texts
    from t2i.library_messages import quiet_libraries
    from t2i.pictures import picture_grid, save_picture

    names.make_folder()
    with warnings_in_one_line() as warned, quiet_libraries():
        # what ties them
        prepared = load_request(request, prompts)
        start = time.perf_counter()
        wishes = WordEditOptions(weights=weights, blend=words, **windows)
        request = _with_edits(prepared, prompts, _choose_edits(prepared, prompts, wishes))
        spoken = [request.spoken(prompt) for prompt in prompts]
        assert request.num_inference_steps is not None
        chosen = choose_target_settings(spoken, request.num_inference_steps, wishes)

        # the pictures
        try:
            pictures = draw_edited_images(prepared.pipe, request, seed)
        except KeyboardInterrupt:
            note("Interrupted: nothing is written.")
            raise typer.Exit(130) from None
        request = replace(request, width=pictures[0].width, height=pictures[0].height)
        assert request.edited is not None
        texts: list[dict[str, str] | None] = [None for _ in prompts]
        if not no_metadata:
            edits = [replace(request.edited, picture=number) for number in range(len(prompts))]
            asked = [
                replace(request, prompt=edit.prompts[edit.picture], edited=edit) for edit in edits
            ]
            texts = [build_image_texts(own, seed, prepared.weights) for own in asked]
        cell = max(MIN_CELL_WIDTH, pictures[0].width)
        side_by_side = picture_grid(pictures, prompts, columns=len(pictures), cell=cell)

        def write(files: Sequence[Path]) -> None:
            shown = zip([side_by_side, *pictures], files, [texts[-1], *texts], strict=True)
            for picture, file, text in shown:
                save_picture(picture, file, text)

        sheet_path, *paths = names.save_all(seed, write)
    seconds = round(time.perf_counter() - start, 2)

    if format == "json":
        made = {"sheet": str(sheet_path), "pictures": [str(path) for path in paths]}
        told = {"request": asdict(request), "seed": seed, "seconds": seconds, "warnings": warned}
        print_json(told | {"chosen": [asdict(choice) for choice in chosen]} | made)
        return
    for prompt, choice in zip(prompts[1:], chosen, strict=True):
        note(
            _describe_edit(choice) if len(chosen) == 1 else f"{prompt!r}: {_describe_edit(choice)}"
        )
    note(f"seed {seed}, {seconds} s")
    for path in (sheet_path, *paths):
        print_line(path)


def _describe_edit(choice: "TargetSettings") -> str:
    """What kind of edit it was taken for, and the options that say the same."""
    windows = {"cross-replace": choice.cross_replace, "self-replace": choice.self_replace}
    shares = {name: (0.0, 1.0) if one is None else one for name, one in windows.items()}
    said = [
        f"--{name} {first:g}:{end:g}" if first else f"--{name} {end:g}"
        for name, (first, end) in shares.items()
    ]
    words = "none"
    if choice.blend is not None:
        sides = [side if isinstance(side, str) else "+".join(side) for side in choice.blend]
        words = sides[0] if sides[0] == sides[1] else ",".join(sides)
    return f"{choice.change.kind}: {' '.join(said)} --blend {shlex.quote(words)}"


def _list_prompts(
    source: str, target: str | None, more: list[str], weights: Mapping[str, float]
) -> list[str]:
    """The prompts: the source, then the targets."""
    targets = [*([] if target is None else [target]), *more]
    if not targets and not weights:
        raise ArgumentError(
            "Missing what to change: give a TARGET, the prompt with other words, or --weight "
            'WORD=FACTOR, as in: t2i edit "a cat" "a dog"'
        )
    return [source, *(targets or [source])]


def _file_endings(prompts: int) -> list[str]:
    """What stands at the end of each picture's name."""
    if prompts == 2:
        return ["-source.png", "-target.png"]
    return ["-source.png", *(f"-target-{number}.png" for number in range(1, prompts))]


def parse_weights(texts: list[str]) -> dict[str, float]:
    """Word -> factor, of "red=2"."""
    weights: dict[str, float] = {}
    for text in texts:
        word, _, factor = (part.strip() for part in text.rpartition("="))
        try:
            weights[word] = float(factor)
        except ValueError:
            word = ""
        if not word:
            raise ArgumentError(
                f"Got --weight {text!r:.80}: expected a word of the target and its factor, as in "
                "--weight red=2: 1 leaves it, 2 doubles it, 0 takes it away."
            )
    return weights


def parse_blend(text: str) -> "Blend | Literal['auto'] | None":
    """The source's word and the target's, of "cat,dog"; several of a side are joined by "+". One
    word alone is that of both."""
    if text.strip() == "auto":
        return "auto"
    if text.strip() == "none":
        return None
    parts = [part.strip() for part in text.split(",")]
    words = [tuple(word.strip() for word in part.split("+")) for part in parts]
    if len(words) == 1:
        words *= 2
    if len(words) != 2 or not all(word for side in words for word in side):
        raise ArgumentError(
            f"Got --blend {text!r:.80}: expected a word of SOURCE and one of TARGET, as in "
            "--blend cat,dog, or --blend cat+bowl,dog for several, one word for both, auto or none."
        )
    return (words[0], words[1])


def parse_window(name: str, text: str) -> tuple[float, float]:
    """Shares of the run: "0.8" is from its beginning, "0.2:0.8" from a fifth on."""
    first, _, end = text.rpartition(":")
    try:
        window = (float(first or 0), float(end))
    except ValueError:
        window = (1.0, 0.0)
    if not 0 <= window[0] <= window[1] <= 1:
        raise ArgumentError(
            f"Got {name} {text!r:.80}: expected a share of the run from 0 to 1, as in {name} 0.8, "
            f"or two, as in {name} 0.2:0.8."
        )
    return window


def _choose_edits(
    prepared: "LoadedRequest", prompts: list[str], wishes: "WordEditOptions"
) -> "list[Edit]":
    """The edits that these prompts call for, on this model at this size."""
    from t2i.cli.drawing.drawing import build_editor

    request = prepared.request
    assert request.num_inference_steps is not None
    spoken = [request.spoken(prompt) for prompt in prompts]
    return build_editor(prepared.pipe).automatic_edits(
        spoken, wishes, request.num_inference_steps, request.height, request.width
    )


def _with_edits(prepared: "LoadedRequest", prompts: list[str], edits: "list[Edit]") -> "Request":
    """The request of the source, with all that is drawn together with it."""
    from t2i.attention.edits.registry import to_dict
    from t2i.cli.request.prompt_edits import EditedPrompts

    edited = EditedPrompts(prompts=tuple(prompts), picture=0, edits=tuple(map(to_dict, edits)))
    return replace(prepared.request, edited=edited)
