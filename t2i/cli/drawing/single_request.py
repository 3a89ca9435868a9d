"""The pictures of one request, one for each seed."""

import time
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

import typer

from t2i.cli.drawing.drawing import draw_image, enlarge_image
from t2i.cli.drawing.grid import ImageGrid
from t2i.cli.drawing.loaded_request import load_request
from t2i.cli.file_names import OutputNames
from t2i.cli.metadata.writing import build_image_texts
from t2i.cli.output import Format, note, print_json
from t2i.cli.request.request import Request
from t2i.library_messages import quiet_libraries
from t2i.pictures import save_picture
from t2i.terminal import print_line, several, warnings_in_one_line

if TYPE_CHECKING:
    from t2i.cli.metadata.reading import ImageMetadata


def generate_images(
    request: Request,
    seeds: range,
    names: OutputNames,
    story: "ImageMetadata | None",
    metadata: bool,
    format: Format,
    grid: ImageGrid | None = None,
) -> None:
    """One picture for each seed; of one that is made again, say what differs.

    grid : takes the pictures, and becomes a sheet beside them
    """
    # what makes it
    names.make_folder()
    made: list[dict[str, object]] = []
    interrupted = False
    with warnings_in_one_line() as warned, quiet_libraries():
        prepared = load_request(request)
        request = prepared.request
        told = []
        if story is not None:
            from t2i.cli.metadata.reading import list_differences  # most pictures have none

            told = list_differences(story, prepared.weights) + prepared.changed
        for difference in told:
            note(f"Not the same here: {difference}")

        # one picture after the other
        try:
            for index, seed in enumerate(seeds):
                start = time.perf_counter()
                picture = draw_image(prepared.pipe, request, seed)
                request = replace(request, width=picture.width, height=picture.height)
                picture = enlarge_image(prepared.pipe, request, seed, picture)
                text = build_image_texts(request, seed, prepared.weights) if metadata else None
                path = names.save(index, seed, partial(save_picture, picture, text=text))
                seconds = round(time.perf_counter() - start, 2)
                made.append({"path": str(path), "seed": seed, "seconds": seconds})
                if format == "text":
                    note(f"seed {seed}, {seconds} s")
                    print_line(path)
                if grid is not None:
                    grid.add(picture, seed)
        except KeyboardInterrupt:
            interrupted = True
            note(f"Interrupted: {len(made)} of {several(len(seeds), 'picture')} finished and kept.")

        # and a sheet of those that are finished
        laid_out = None
        if grid is not None and grid.cells:
            text = None
            if metadata:
                text = build_image_texts(request, seeds[0], prepared.weights, len(grid.cells))
            write = partial(save_picture, grid.page(), text=text)
            laid_out = names.save_grid(seeds[0], write)
            if format == "text":
                print_line(laid_out)

    if format == "json":
        answer = {"request": asdict(request), "pictures": made, "interrupted": interrupted}
        answer["warnings"] = warned
        if grid is not None:
            answer["grid"] = None if laid_out is None else str(laid_out)
        print_json(answer if story is None else answer | {"differences": told})
    if interrupted:
        raise typer.Exit(130)
