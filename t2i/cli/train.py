"""`t2i train`: the same run as `accelerate launch -m train`, in this process."""

from pathlib import Path
from typing import Annotated

import typer

from t2i.cli.garbage import search_as_usual


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file.")],
    set: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Override one key, as in train.steps=100."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where checkpoints, log and samples go; made if missing.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved config and stop.")
    ] = False,
) -> None:
    """Train what CONFIG describes; the same command again goes on where it stopped.

    Ctrl-C writes a checkpoint first. On several processes: accelerate launch -m train CONFIG.
    """
    from train.__main__ import main

    arguments = [str(config), *(f"--set={override}" for override in set or ())]
    if out is not None:
        arguments.append(f"--out={out}")
    if dry_run:
        arguments.append("--dry-run")
    search_as_usual()
    main(arguments)
