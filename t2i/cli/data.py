"""`t2i data`: look at what a model is trained on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from t2i.cli.answer import Format, print_json
from t2i.errors import ArgumentError, nearest

if TYPE_CHECKING:
    from train.data.sample import Samples

Split = Literal["train", "held_out"]

data = typer.Typer(help="Look at data sets.")


@data.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@data.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The data set: scenes.")],
    out: Annotated[
        Path, typer.Option(help="A folder, or one file ending in .png, .jpg or .webp.")
    ] = Path("outputs"),
    num: Annotated[int, typer.Option(min=1, max=1000, help="How many samples.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of the data set.")] = 0,
    split: Annotated[Split, typer.Option(help="held_out is never trained on.")] = "train",
    masks: Annotated[
        bool, typer.Option(help="Draw the mask of each named thing beside it.")
    ] = True,
    format: Format = "text",
) -> None:
    """Draw a contact sheet of the data set NAME, with captions, and print its path."""
    if name not in DATA_SETS:
        raise ArgumentError(f"Unknown data set {name!r}. {nearest(name, DATA_SETS)}")

    from t2i.cli.naming import Names
    from t2i.pictures import save_picture
    from train.data.show import show as draw

    names = Names(out, f"{name} {split}", num=1)
    names.make_folder()
    sheet = draw(DATA_SETS[name](seed, split), range(num), masks)
    path = names.path(0, seed)
    save_picture(sheet, path)
    if format == "json":
        print_json({"path": str(path), "num": num, "seed": seed, "split": split})
    else:
        typer.echo(path)


def scenes(seed: int, split: Split) -> "Samples":
    from train.data.scenes import Scenes, ScenesConfig

    return Scenes(ScenesConfig(seed=seed, split=split))


DATA_SETS = {"scenes": scenes}
