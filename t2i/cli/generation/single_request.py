"""Generation of the images of one request, one for each seed."""

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from t2i.cli.generation.image_generation import (
    generate_image_and_fill_request,
    upscale_if_requested,
)
from t2i.cli.generation.loaded_request import LoadedRequest, load_model_for_request
from t2i.cli.generation.retried_image import (
    RetriedImage,
    check_can_retry,
    generate_with_retries,
    list_seeds_to_try,
    require_presence_fit,
)
from t2i.cli.image_grid import ImageGrid
from t2i.cli.inspected_words import Retry
from t2i.cli.metadata.writing import (
    build_metadata_texts,
    format_a1111,
    save_image_with_metadata,
)
from t2i.cli.output import print_json, print_remark
from t2i.cli.output_files.file_names import OutputFileNames
from t2i.cli.request.request import Request
from t2i.library_messages import quieting_libraries
from t2i.pictures import save_picture
from t2i.terminal import plural, print_result_line, showing_warnings_on_one_line

if TYPE_CHECKING:
    from t2i.cli.metadata.reading import ImageMetadata


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOutputSettings:
    """Output settings of `t2i generate`: file names, metadata, report format, contact sheet.

    write_metadata : whether to write into an image how it was made
    as_json : print one JSON document at the end instead of a line for each image
    grid : collects the images for a sheet beside them
    retry : draws an image again while a thing that its prompt names is missing
    """

    names: OutputFileNames
    write_metadata: bool
    as_json: bool
    grid: ImageGrid | None = None
    retry: Retry | None = None


def generate_and_save_images(
    request: Request,
    seeds: range,
    output: GenerationOutputSettings,
    original: "ImageMetadata | None" = None,
) -> None:
    """Generate and save the image of a request for each seed, and print their paths.

    original : metadata of the image that is reproduced; differences from it are reported
    """
    output.names.make_folder()
    made: list[dict[str, object]] = []
    with showing_warnings_on_one_line() as warned, quieting_libraries():
        loaded = load_model_for_request(request)
        if output.retry is not None:
            check_can_retry(request)
            require_presence_fit(loaded.pipe)
        differences = _report_differences(original, loaded)
        request, interrupted = _draw_images(loaded, seeds, output, made)
        grid_path = _save_grid(loaded, request, seeds, output)
    if output.as_json:
        document = {"request": asdict(request), "pictures": made, "interrupted": interrupted}
        document["warnings"] = warned
        if output.grid is not None:
            document["grid"] = None if grid_path is None else str(grid_path)
        print_json(document if original is None else document | {"differences": differences})
    if interrupted:
        raise typer.Exit(130)


def _report_differences(original: "ImageMetadata | None", loaded: LoadedRequest) -> list[str]:
    """Print and return what differs from the run that made the original image."""
    if original is None:
        return []
    from t2i.cli.metadata.reading import (
        list_reproduction_differences,  # most requests have no original
    )

    differences = (
        list_reproduction_differences(original, loaded.model_digest) + loaded.file_differences
    )
    for difference in differences:
        print_remark(f"Not the same here: {difference}")
    return differences


def _draw_images(
    loaded: LoadedRequest,
    seeds: range,
    output: GenerationOutputSettings,
    made: list[dict[str, object]],
) -> tuple[Request, bool]:
    """Draw and save the images, adding a record of each to `made`.

    Returns the request with the size that was drawn, and whether Ctrl-C ended the work early.
    """
    request = loaded.request
    try:
        for index, seed in enumerate(seeds):
            start = time.perf_counter()
            drawn = _draw_image(loaded, request, seed, len(seeds), output)
            request, seed, draws = drawn.request, drawn.seed, drawn.to_json()
            image = upscale_if_requested(loaded.pipe, request, seed, drawn.image)
            texts = (
                build_metadata_texts(request, seed, loaded.model_digest, draws=draws)
                if output.write_metadata
                else None
            )
            path = output.names.save_image(
                index, seed, partial(save_image_with_metadata, image, texts)
            )
            seconds = round(time.perf_counter() - start, 2)
            record: dict[str, object] = {"path": str(path), "seed": seed, "seconds": seconds}
            made.append(record if draws is None else record | {"draws": draws})
            if not output.as_json:
                print_remark(f"seed {seed}, {seconds} s")
                print_result_line(path)
            if output.grid is not None:
                output.grid.add_image(image, seed)
    except KeyboardInterrupt:
        print_remark(
            f"Interrupted: {len(made)} of {plural(len(seeds), 'picture')} finished and kept."
        )
        return request, True
    return request, False


def _draw_image(
    loaded: LoadedRequest,
    request: Request,
    seed: int,
    num_images: int,
    output: GenerationOutputSettings,
) -> RetriedImage:
    """Draw the image of a seed, and of further ones if --retry asks for it.

    num_images : number of images of the request, by which the seeds of retries are apart
    """
    if output.retry is None:
        request, image = generate_image_and_fill_request(loaded.pipe, request, seed)
        return RetriedImage(request, image, seed)
    drawn = generate_with_retries(
        loaded.pipe, request, list_seeds_to_try(seed, output.retry, num_images), output.retry
    )
    if not output.as_json and (text := drawn.describe()):
        print_remark(text)
    return drawn


def _save_grid(
    loaded: LoadedRequest, request: Request, seeds: range, output: GenerationOutputSettings
) -> Path | None:
    """Save the sheet of the finished images; None where there is none."""
    grid = output.grid
    if grid is None or not grid.cells:
        return None
    texts = None
    if output.write_metadata:
        retry, num_pictures = None, len(grid.cells)
        if output.retry is not None:  # the seeds of retries are as far apart as the command has
            retry, num_pictures = output.retry.option_value, len(seeds)
        texts = build_metadata_texts(
            request, seeds[0], loaded.model_digest, num_pictures, retry=retry
        )
        texts["parameters"] = format_a1111(request, grid.seeds[0], loaded.model_digest)
    path = output.names.save_grid(seeds[0], partial(save_picture, grid.render_sheet(), text=texts))
    if not output.as_json:
        print_result_line(path)
    return path
