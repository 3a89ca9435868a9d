"""The command `t2i`: it reads what was typed and prints what came of it; others do the work.

Each command imports what it needs when it runs, so that `t2i --help` answers at once.
"""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated

import typer

from t2i import __version__
from t2i.cli.answer import asks_for_json, print_error
from t2i.cli.convert import convert
from t2i.cli.data import data
from t2i.cli.edit import EPILOG as EDITS
from t2i.cli.edit import edit
from t2i.cli.ema import ema
from t2i.cli.env import env
from t2i.cli.evaluate import EPILOG as EVALUATES
from t2i.cli.evaluate import evaluate
from t2i.cli.garbage import search_no_more, searched_seldom
from t2i.cli.generate import generate
from t2i.cli.inspect import EPILOG as INSPECTS
from t2i.cli.inspect import inspect
from t2i.cli.loading import loading_said
from t2i.cli.lora import lora
from t2i.cli.models import models
from t2i.cli.show import show
from t2i.cli.train import train
from t2i.errors import T2IError

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 an argument or config key cannot be used, "
    "3 the model is unknown, incomplete or corrupt, 4 data cannot be read, "
    "5 the result cannot be written, 6 training had to stop, "
    "7 attention cannot be read or edited as asked, 8 the picture cannot be drawn, "
    "130 interrupted, 143 terminated."
)

app = typer.Typer(
    help="Make pictures from words, and train the models that do.",
    epilog=EXIT_CODES,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command()(generate)
app.command(epilog=INSPECTS)(inspect)
app.command(epilog=EDITS)(edit)
app.command(epilog=EVALUATES)(evaluate)
for command in (show, models, env, train, convert, ema):
    app.command()(command)
app.add_typer(data, name="data")
app.add_typer(lora, name="lora")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; a known error is one line, no traceback.

    With `arguments` it leaves the process as it was.
    """
    ends, excepthook = arguments is None, sys.excepthook
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with (
            searched_seldom() if ends else nullcontext(),
            loading_said(quiet=asks_for_json(arguments)),
        ):
            return app(arguments, prog_name="t2i", standalone_mode=False) or 0
    except T2IError as error:
        print_error(str(error), type(error).__name__, as_json=asks_for_json(arguments))
        return error.exit_code
    except typer.TyperException as error:
        # Refused while the words were read: an unknown option, a word where a number belongs.
        print_error(error.format_message(), "ArgumentError", as_json=asks_for_json(arguments))
        return error.exit_code
    finally:
        sys.excepthook = excepthook  # typer sets its own
        if ends:
            search_no_more()
