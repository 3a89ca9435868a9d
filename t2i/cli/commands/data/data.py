"""`t2i data`: contact sheets and checks of data sets; `t2i data pairs` in a file of its own."""

import sys
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from t2i.cli.commands.data.data_pairs import generate_preference_pairs
from t2i.cli.commands.data.data_summary import print_data_summary
from t2i.cli.option_parsing.path_arguments import NonEmptyPathCommandGroup
from t2i.cli.output import FormatOption, print_json
from t2i.errors import ArgumentError, DataError, suggest_choice
from t2i.terminal import plural, print_result_line

if TYPE_CHECKING:
    from t2i.data.training_dataset import TrainingDataset
    from train.data.discovery import FoundPictures
    from train.data.pictures_config import PictureDatasetConfig

Split = Literal["train", "held_out"]
SceneHint = Literal["segments", "outlines", "colours", "boxes", "layouts"]
OutOption = Annotated[
    Path, typer.Option(help="A folder, or one file ending in .png, .jpg or .webp.")
]

data = NonEmptyPathCommandGroup(help="Show, check and draw data sets.")


data.command("pairs")(generate_preference_pairs)


@data.callback(invoke_without_command=True)
def print_help_without_command(context: typer.Context) -> None:
    """Print the help of `t2i data` where no command of it is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@data.command("show")
def save_contact_sheet(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The data set: scenes.")],
    out: OutOption = Path("outputs"),
    num: Annotated[int, typer.Option(min=1, max=1000, help="How many samples.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the data set.")] = 0,
    split: Annotated[Split, typer.Option(help="held_out is never trained on.")] = "train",
    masks: Annotated[
        bool, typer.Option(help="Draw the mask of each named thing beside it.")
    ] = True,
    hint: Annotated[
        SceneHint | None, typer.Option(help="Draw this hint of each scene beside it.")
    ] = None,
    format: FormatOption = "text",
) -> None:
    """Save a contact sheet of the data set NAME, with captions, and print its path."""
    if name not in DATA_SETS:
        more = f" Pictures of your own: t2i data check {quote(name)}" if Path(name).exists() else ""
        raise ArgumentError(f"Unknown data set {name!r}. {suggest_choice(name, DATA_SETS)}{more}")

    from t2i.cli.output_files.file_names import OutputFileNames
    from t2i.pictures import save_picture
    from train.data.sheets.mask_sheet import draw_training_example_sheet

    names = OutputFileNames(out, f"{name} {split}", num=1)
    names.make_folder()
    sheet = draw_training_example_sheet(DATA_SETS[name](seed, split, hint), range(num), masks)
    path = names.save_image(0, seed, partial(save_picture, sheet))
    if format == "json":
        print_json({"path": str(path), "num": num, "seed": seed, "split": split})
    else:
        print_result_line(path)


DataPathArgument = Annotated[
    Path,
    typer.Argument(
        metavar="PLACE",
        help="A folder, a .jsonl of pairs, a .tar, the TOML of a run or one of kohya's.",
    ),
]
SheetNumOption = Annotated[int, typer.Option(min=0, max=1000, help="Pictures on the sheet.")]
SizeOption = Annotated[
    int | None,
    typer.Option(
        min=8,
        max=4096,
        help="Side of the square they are to fill.",
        show_default="the model's, or what a TOML says",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(help="Model to be trained on them.", show_default="embedded"),
]
BucketStepOption = Annotated[
    int | None, typer.Option(min=8, help="Their sides are multiples of it.")
]


@data.command("check")
def check_data_set(
    place: DataPathArgument,
    out: OutOption = Path("outputs"),
    num: SheetNumOption = 48,
    size: SizeOption = None,
    model: ModelOption = None,
    bucket_step: BucketStepOption = None,
    format: FormatOption = "text",
) -> None:
    """Read every picture of PLACE, list what it holds and what is broken, save a contact sheet.

    Ends with 4 where a training run would not begin: more is broken than data.bad_share allows.
    """
    from t2i.cli.output_files.file_names import OutputFileNames
    from t2i.pictures import save_picture
    from train.data.config_from_path import (
        infer_data_config_from_path,
        read_batch_size_from_run_toml,
    )
    from train.data.discovery import check_broken_fraction
    from train.data.pictures import Pictures
    from train.data.sheets.contact_sheet import (
        draw_contact_sheet,
        select_evenly_spaced_picture_indices,
    )

    if size is None and (model is not None or place.suffix != ".toml"):
        size = _image_size_of_model(model or "embedded")
    config = infer_data_config_from_path(place, size, bucket_step)
    names = OutputFileNames(out, f"{place.resolve().name} pictures", num=1)
    found = _find_with_progress(config)
    if not found.pictures:
        check_broken_fraction(found.broken, found.total, 0.0)
    pictures = Pictures(config.model_copy(update={"bad_share": 1.0}), found=found)
    summary = pictures.build_summary()
    path = None
    if num:
        names.make_folder()
        page = draw_contact_sheet(pictures, select_evenly_spaced_picture_indices(pictures, num))
        path = names.save_image(0, config.seed, partial(save_picture, page))
    usable = len(found.broken) <= config.bad_share * found.total
    if format == "json":
        sheet = None if path is None else str(path)
        print_json({"usable": usable, "sheet": sheet, **summary.to_json_dict()})
    else:
        print_data_summary(summary, config, read_batch_size_from_run_toml(place))
        if path is not None:
            print_result_line(f"\n{path}")
    if not usable and format == "json":
        raise typer.Exit(DataError.exit_code)
    if not usable:
        raise DataError(
            f"{len(found.broken)} of {plural(found.total, 'picture')} cannot be used, more than "
            f"data.bad_share = {config.bad_share:g} allows: mend or remove them, or raise it."
        )


def _image_size_of_model(name: str) -> int:
    """Return the side of a model's images in pixels, as `t2i train --init` takes it."""
    from t2i.denoiser.loading.model_location import EMBEDDED_MODELS, locate_model
    from train.starter_config.template_values import detect_image_size, detect_model_family

    base = name if name in EMBEDDED_MODELS else str(locate_model(name))
    return detect_image_size(base, detect_model_family(base))


def _find_with_progress(config: "PictureDatasetConfig") -> "FoundPictures":
    from train.data.discovery import list_and_check_pictures

    if not sys.stderr.isatty():
        return list_and_check_pictures(config)

    from train.reporting.training_logger import build_rich_progress_bar

    with build_rich_progress_bar() as shown:
        task = shown.add_task("reading pictures", total=None, facts="")
        return list_and_check_pictures(
            config, lambda done, of: shown.update(task, completed=done, total=of)
        )


def _build_scenes(seed: int, split: Split, hint: SceneHint | None) -> "TrainingDataset":
    from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig

    return SceneDataset(SceneDatasetConfig(seed=seed, split=split, hint=hint))


DATA_SETS = {"scenes": _build_scenes}
"""Name -> function that builds the data set of a seed, split and kind of hint."""
