"""`t2i hint`: edges, lines, colour blocks or segments of a picture, for --control."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from t2i.cli.output import FormatOption, print_json, print_remark
from t2i.cli.output_files.weights_output import OverwriteOption, output_path_context
from t2i.errors import ArgumentError, OutputError
from t2i.terminal import print_result_line

if TYPE_CHECKING:
    from PIL.Image import Image

EPILOG = """Examples:

`t2i hint canny cat.jpg --out edges.png`

`t2i hint soft-edge cat.jpg --resolution 1024`

`t2i generate "a cat made of glass" --model MODEL --control NETWORK:edges.png`

`t2i hint segments cat-and-tree.png --out layout.png`

`t2i generate "a cat and a tree, teal background" --control segments:layout.png`
"""
HintKind = Literal["canny", "soft-edge", "lines", "colours", "segments"]


def hint(
    kind: Annotated[
        HintKind,
        typer.Argument(
            help="Thin edges, edges in grades, strokes of a drawing, colour blocks, or the objects "
            "of the embedded model's pictures."
        ),
    ],
    picture: Annotated[Path, typer.Argument(metavar="PHOTO", help="A PNG, JPEG or WebP.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="A file ending in .png, .jpg or .webp.", show_default="PHOTO's name-KIND.png"
        ),
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(help="Pixels of the shorter side, to which a larger PHOTO is scaled down."),
    ] = 512,
    low: Annotated[
        float | None,
        typer.Option(help="canny: gradient that an edge has all along.", show_default="100"),
    ] = None,
    high: Annotated[
        float | None,
        typer.Option(help="canny: gradient that it has somewhere.", show_default="200"),
    ] = None,
    blur: Annotated[
        float | None,
        typer.Option(help="soft-edge: pixels of blur before.", show_default="1.5"),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(help="lines: pixels of the widest stroke.", show_default="7"),
    ] = None,
    blocks: Annotated[
        int | None,
        typer.Option(help="colours: squares along the shorter side.", show_default="8"),
    ] = None,
    overwrite: OverwriteOption = False,
    format: FormatOption = "text",
) -> None:
    """Make the hint KIND of PHOTO, the picture that a control reads, and print its path.

    Edges and lines are white on black. Give the result to `t2i generate --control NETWORK:HINT`,
    with a network that was trained on such pictures; for segments it comes with the package.
    """
    from t2i.pictures import save_picture

    out = Path(f"{picture.stem}-{kind}.png") if out is None else out
    check_hint_path(out, overwrite)
    given = {"low": low, "high": high, "blur": blur, "width": width, "blocks": blocks}
    settings = {name: value for name, value in given.items() if value is not None}
    made = _make_hint(kind, picture, resolution, settings)
    is_empty = made.getbbox() is None
    with output_path_context(out, overwrite) as new:
        save_picture(made, new)
    size = {"width": made.width, "height": made.height}
    if format == "json":
        print_json({"path": str(out), "kind": kind, **size, "empty": is_empty})
        return
    print_remark(f"{made.width}x{made.height} pixels")
    if is_empty:
        print_remark("Nothing was found in the picture: the hint is black all over.")
    print_result_line(out)


def _make_hint(
    kind: HintKind, picture: Path, resolution: int | None, settings: dict[str, float]
) -> "Image":
    from t2i.controls.hints import make_hint, read_downscaled_pixels

    if kind != "segments":
        return make_hint(kind, picture, resolution=resolution, **settings)
    if settings:
        raise ArgumentError(
            f"Got --{next(iter(settings))} for the hint segments, which has no settings: leave it "
            "out."
        )
    from PIL.Image import fromarray

    from t2i.denoiser.loading.model_location import locate_model
    from t2i.evaluate.promptable_objects import find_promptable_objects
    from t2i.scenes.recognised_segments import segment_recognised_objects
    from t2i.scenes.recogniser import Recogniser

    recogniser = Recogniser.load()
    names = find_promptable_objects(locate_model("embedded"), recogniser).objects
    pixels_HWC = read_downscaled_pixels(picture, resolution)
    return fromarray(segment_recognised_objects(recogniser, pixels_HWC, names))


def check_hint_path(out: Path, overwrite: bool) -> None:
    """Raise ArgumentError or OutputError unless `t2i hint` may write its control hint image to a
    path.
    """
    from t2i.atomic_files import check_name_lengths
    from t2i.pictures import FORMAT_BY_SUFFIX

    check_name_lengths([out])
    if out.suffix.lower() not in FORMAT_BY_SUFFIX:
        raise ArgumentError(
            f"Got --out {str(out)!r:.80}: expected a file name that ends in "
            f"{', '.join(FORMAT_BY_SUFFIX)}."
        )
    if out.is_dir():
        raise OutputError(f"{out} is a folder, and what is written is a file.")
    if out.exists() and not overwrite:
        raise OutputError(
            f"{out} exists and is not replaced: choose another name, or give --overwrite."
        )
