"""Generation of a source and its edits, saved as a sheet and as single images."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from t2i.cli.generation.edited_images import (
    EditedImages,
    build_prompt_to_prompt_pipeline,
    choose_edits_and_add_to_request,
    generate_edited_images,
)
from t2i.cli.generation.inverted_photo import invert_photo, replace_auto_inversion_method
from t2i.cli.generation.loaded_request import load_model_for_request
from t2i.cli.generation.recorded_photo import RecordedPhoto, check_folder_new_or_empty
from t2i.cli.generation.recorded_target import record_or_read_edit_target
from t2i.cli.metadata.writing import build_metadata_texts, save_image_with_metadata
from t2i.cli.output import print_json, print_remark
from t2i.cli.output_files.multi_file_output_names import MultiFileOutputNames
from t2i.cli.request.edit_options import EditOptions
from t2i.cli.request.request import Request
from t2i.library_messages import quieting_libraries
from t2i.pictures import build_picture_grid
from t2i.terminal import print_result_line, showing_warnings_on_one_line

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.prompt_to_prompt.automatic_edits import TargetEditSettings

MIN_CELL_WIDTH = 256
"""Pixels; smaller images are enlarged in the sheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditOutputSettings:
    """Output settings of `t2i edit`: file names, metadata, report format.

    write_metadata : whether to write into an image how it was made
    """

    names: MultiFileOutputNames
    write_metadata: bool
    as_json: bool


def generate_and_save_edits(
    request: Request,
    prompts: Sequence[str],
    edit_options: EditOptions,
    seed: int,
    output: EditOutputSettings,
    *,
    recorded: RecordedPhoto | None = None,
    budget_bytes: int | None = None,
    record: Path | None = None,
) -> None:
    """Generate a source image and its edits, save them with a sheet, and print the paths.

    prompts : the source's, then those of the targets
    recorded : the request's photo, if it was inverted before
    budget_bytes : most bytes of a photo's recording; None for the default
    record : new folder in which the only target of a photo is recorded as the next source
    """
    if record is not None:
        check_folder_new_or_empty(record)
    output.names.make_folder()
    with showing_warnings_on_one_line() as warned, quieting_libraries():
        loaded = (
            load_model_for_request(request, prompts)
            if recorded is None
            else recorded.load_model(prompts)
        )
        start = time.perf_counter()
        source = None if recorded is None else recorded.source
        options = edit_options.to_word_edit_options()
        try:
            if source is None and request.inversion is not None:
                pairs = [(prompts[0], target) for target in prompts[1:]]
                request = replace_auto_inversion_method(
                    loaded.pipe, loaded.request, pairs, options.weights
                )
                editor = build_prompt_to_prompt_pipeline(loaded.pipe)
                source = invert_photo(
                    *(editor, request, seed),
                    budget_bytes=budget_bytes,
                    for_edits=options.list_edits_to_record_for(),
                )
            request, chosen = choose_edits_and_add_to_request(
                loaded.pipe, loaded.request, prompts, options, source
            )
            if record is None:
                generated = generate_edited_images(loaded.pipe, request, seed, source=source)
            else:
                assert source is not None
                generated = record_or_read_edit_target(
                    *(loaded.pipe, request, seed, source, record),
                    model_digest=loaded.model_digest,
                    budget_bytes=budget_bytes,
                )
        except KeyboardInterrupt:
            print_remark("Interrupted: nothing is written.")
            raise typer.Exit(130) from None
        texts: list[dict[str, str] | None] = [None for _ in prompts]
        if output.write_metadata:
            texts = [
                build_metadata_texts(generated.get_request(number), seed, loaded.model_digest)
                for number in range(len(prompts))
            ]
        sheet_path, *paths = _save_images(output.names, seed, prompts, generated, texts)
    seconds = round(time.perf_counter() - start, 2)

    if output.as_json:
        made: dict[str, object] = {"sheet": str(sheet_path), "pictures": [*map(str, paths)]}
        if record is not None:
            made["recorded"] = str(record)
        facts = {"request": asdict(generated.request), "seed": seed, "seconds": seconds}
        print_json(
            facts | {"warnings": warned, "chosen": [asdict(choice) for choice in chosen]} | made
        )
        return
    for prompt, choice in zip(prompts[1:], chosen, strict=True):
        line = format_target_edit_settings(choice)
        print_remark(line if len(chosen) == 1 else f"{prompt!r}: {line}")
    print_remark(f"seed {seed}, {seconds} s")
    for path in (sheet_path, *paths, *([] if record is None else [record])):
        print_result_line(path)


def _save_images(
    names: MultiFileOutputNames,
    seed: int,
    prompts: Sequence[str],
    generated: EditedImages,
    texts: Sequence[dict[str, str] | None],
) -> Sequence[Path]:
    """Save a sheet of all images, with the metadata of the last, and each image alone.

    The sheet of a photo begins with the photo. Returns the paths, the sheet's first.
    """
    images, labels = list(generated.images), list(prompts)
    if generated.source is not None and generated.source.photo is not None:
        assert generated.request.image is not None
        images = [generated.source.photo.image, *images]
        labels = [Path(generated.request.image.path).name, *labels]
    cell = max(MIN_CELL_WIDTH, images[-1].width)
    side_by_side = build_picture_grid(images, labels, columns=len(images), cell=cell)

    def write(files: Sequence[Path]) -> None:
        single: list[Image] = [
            generated.build_image_to_save(number) for number in range(len(prompts))
        ]
        saved = zip([side_by_side, *single], files, [texts[-1], *texts], strict=True)
        for image, file, text in saved:
            save_image_with_metadata(image, text, file)

    return names.save_files_all_or_none(seed, write)


def format_target_edit_settings(choice: "TargetEditSettings") -> str:
    """Return as printable text the kind of edit that was chosen for one target prompt, and the
    command-line options that reproduce it.
    """
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
