"""`python -m train CONFIG`, also under `accelerate launch -m train CONFIG`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from t2i.errors import ArgumentError, T2IError
from t2i.terminal import (
    escaping_log_records,
    flush_or_discard_output,
    print_note_to_stderr,
    print_result_line,
    showing_warnings_on_one_line,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and train as its TOML file says. Raises T2IError."""
    parser = argparse.ArgumentParser(
        prog="train", description="Train as a TOML file says; resumes by itself."
    )
    parser.add_argument("config", type=Path, help="a TOML such as configs/train/embedded.toml")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="override one key"
    )
    parser.add_argument(
        "--out", type=Path, help="folder of the run (default: runs/<name of the config>)"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what the run would do and how much memory it needs, and stop",
    )
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="format of --dry-run: json prints the resolved config and the numbers of the table",
    )
    given = parser.parse_args(arguments)

    if given.format == "json" and not given.dry_run:
        raise ArgumentError("--format json is for --dry-run: a run writes its log as log.jsonl.")

    from t2i.library_messages import quieting_libraries

    with quieting_libraries():
        from train.config.load_config import load_run_config

        config = load_run_config(given.config, given.set)
        if given.dry_run:
            from train.dry_run.dry_run import print_dry_run

            print_dry_run(config, as_json=given.format == "json")
            return

        from train.loop import run_training

        out = given.out or Path("runs") / given.config.stem
        if run_training(config, out):
            print_result_line(out / "model")


if __name__ == "__main__":
    try:
        with showing_warnings_on_one_line(), escaping_log_records():
            main()
    except T2IError as error:
        print_note_to_stderr(f"{type(error).__name__}: {error}")
        sys.exit(error.exit_code)
    finally:
        flush_or_discard_output()
