"""The command `t2i`: parses the command line, runs a command and reports its errors.

Each command imports what it needs when it runs, so that `t2i --help` answers at once.
"""

import errno
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated

import typer

from t2i import __version__
from t2i.cli.commands.convert import convert
from t2i.cli.commands.data.data import data
from t2i.cli.commands.edit import EPILOG as EDIT_EPILOG
from t2i.cli.commands.edit import edit
from t2i.cli.commands.ema import write_post_hoc_ema
from t2i.cli.commands.env import env
from t2i.cli.commands.evaluate import EPILOG as EVALUATE_EPILOG
from t2i.cli.commands.evaluate import evaluate
from t2i.cli.commands.generate import generate
from t2i.cli.commands.hint import EPILOG as HINT_EPILOG
from t2i.cli.commands.hint import hint
from t2i.cli.commands.inspect import EPILOG as INSPECT_EPILOG
from t2i.cli.commands.inspect import inspect_attention
from t2i.cli.commands.invert import EPILOG as INVERT_EPILOG
from t2i.cli.commands.invert import record_photo
from t2i.cli.commands.lora import lora
from t2i.cli.commands.models import list_models
from t2i.cli.commands.show_metadata import show_metadata
from t2i.cli.commands.train import train
from t2i.cli.commands.tune import EPILOG as TUNE_EPILOG
from t2i.cli.commands.tune import tune
from t2i.cli.option_parsing.option_errors import describe_option_error
from t2i.cli.option_parsing.path_arguments import NonEmptyPathCommandGroup
from t2i.cli.option_parsing.unquoted_prompt import suggest_quotes
from t2i.cli.output import asks_for_json, print_error
from t2i.cli.startup.deferred_imports import deferring_imports
from t2i.cli.startup.gc_control import delaying_gc, freeze_gc
from t2i.cli.startup.loading_notice import announcing_slow_imports
from t2i.errors import OutputError, T2IError
from t2i.server.command import EPILOG as SERVES
from t2i.server.command import serve
from t2i.terminal import (
    escaping_log_records,
    flush_or_discard_output,
    flush_stdout,
    print_result_line,
    reopen_closed_streams,
    showing_warnings_on_one_line,
)

EXIT_CODES_HELP = (
    "Exit codes: 0 done, 1 failed, 2 an argument or config key cannot be used, "
    "3 the model is unknown, incomplete or corrupt, 4 data cannot be read, "
    "5 the result cannot be written, 6 training had to stop, "
    "7 attention cannot be read or edited as asked, 8 the picture cannot be drawn, "
    "129 hung up, 130 interrupted, 143 terminated."
)

app = NonEmptyPathCommandGroup(
    help="Make pictures from words, and train the models that do.",
    epilog=EXIT_CODES_HELP,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def print_version_or_help(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Print the version of t2i, or its help where no command is given."""
    if version:
        print_result_line(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command()(generate)
app.command("inspect", epilog=INSPECT_EPILOG)(inspect_attention)
app.command(epilog=EDIT_EPILOG)(edit)
app.command("invert", epilog=INVERT_EPILOG)(record_photo)
app.command(epilog=HINT_EPILOG)(hint)
app.command(epilog=EVALUATE_EPILOG)(evaluate)
app.command(epilog=TUNE_EPILOG)(tune)
app.command("show")(show_metadata)
app.command("models")(list_models)
app.command(epilog=SERVES)(serve)
for command in (env, train, convert):
    app.command()(command)
app.command("ema")(write_post_hoc_ema)
app.add_typer(data, name="data")
app.add_typer(lora, name="lora")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one t2i command line and return its exit code; known errors give no traceback.

    arguments : those after `t2i`, for a call within another program, whose process is left as it
        was; None takes those of this process, which is about to end
    """
    owns_process, excepthook = arguments is None, sys.excepthook
    arguments = sys.argv[1:] if arguments is None else arguments
    if owns_process:
        reopen_closed_streams()
    try:
        with (
            delaying_gc() if owns_process else nullcontext(),
            deferring_imports() if owns_process else nullcontext(),
            announcing_slow_imports(quiet=asks_for_json(arguments)),
            showing_warnings_on_one_line(),
            escaping_log_records(),
        ):
            code = app(arguments, prog_name="t2i", standalone_mode=False) or 0
            flush_stdout()
            return code
    except T2IError as error:
        print_error(str(error), type(error).__name__, as_json=asks_for_json(arguments))
        return error.exit_code
    except typer.TyperException as error:
        # Refused while the words were read: an unknown option, a word where a number belongs.
        message = describe_option_error(error)
        message += suggest_quotes(arguments, message)
        print_error(message, "ArgumentError", as_json=asks_for_json(arguments))
        return error.exit_code
    except OSError as error:
        return report_os_error_as_exit_code(error, arguments)
    finally:
        sys.excepthook = excepthook  # typer sets its own
        if owns_process:
            flush_or_discard_output()
            freeze_gc()


def report_os_error_as_exit_code(error: OSError, arguments: Sequence[str]) -> int:
    """Print a command's OSError of the file system as an output error and return the exit code; for
    a closed output pipe return its exit code alone.

    Any other error is raised again: a fault of the program should show where it is.
    """
    if isinstance(error, BrokenPipeError):  # as with `t2i show x.png | head -1`
        return 128 + signal.SIGPIPE
    reason = OS_ERROR_REASONS.get(error.errno or 0)
    if reason is None or (error.filename is None and error.errno not in WRITE_ERRORS):
        raise error
    if error.filename is None:  # written to a stream: what rich prints, such as --help
        message = f"Cannot write the result: {reason}. Free some space, or send it elsewhere."
    else:
        message = f"Cannot use the path {str(error.filename)[:200]}: {reason}."
    print_error(message, "OutputError", as_json=asks_for_json(arguments))
    return OutputError.exit_code


WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO}

OS_ERROR_REASONS = {
    errno.ENAMETOOLONG: "a name in it is longer than a file system takes",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.ELOOP: "its links lead around in a circle",
    errno.ENOTDIR: "a part of it is a file, not a folder",
    errno.EISDIR: "it is a folder",
    errno.EIO: "the disk failed (input/output error)",
}
"""errno -> reason, for the errors that a user's path can cause."""
