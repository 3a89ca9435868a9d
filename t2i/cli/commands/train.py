"""`t2i train`: the run of `accelerate launch -m train`, in this process."""

from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

import typer

from t2i.cli.startup.gc_control import end_gc_delay_and_freeze
from t2i.errors import ArgumentError
from t2i.terminal import plural, print_result_line

METHODS_HELP = (
    "full, cross-attention, lora, dora, dreambooth, dreambooth-lora, textual-inversion, pivotal, "
    "controlnet or t2i-adapter"
)
"""Methods that --init takes, as its help names them."""


ConfigArgument = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="A TOML file; with --init a folder.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Override one key, as in train.steps=100."),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        help="Where checkpoints, log and samples go; made if missing. With --init the TOML."
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what would be trained, and what it takes, and stop."),
]
InitOption = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD", help=f"Write a config for a folder of pictures instead: {METHODS_HELP}."
    ),
]
InitBaseOption = Annotated[
    str | None,
    typer.Option(help="With --init: the model, by name, folder, file or hub id."),
]
InitWordOption = Annotated[
    str | None,
    typer.Option(help="With --init: what the thing is to be called, as in \\<mug\\>."),
]
InitClassWordOption = Annotated[
    str | None, typer.Option("--class", help="With --init: what it is one of, as in mug.")
]
DryRunFormatOption = Annotated[
    Literal["text", "json"],
    typer.Option(help="With --dry-run: json prints the resolved config, errors too."),
]


def train(
    config: ConfigArgument,
    set: SetOption = None,
    out: OutOption = None,
    dry_run: DryRunOption = False,
    init: InitOption = None,
    base: InitBaseOption = None,
    word: InitWordOption = None,
    class_word: InitClassWordOption = None,
    format: DryRunFormatOption = "text",
) -> None:
    """Run the training that CONFIG describes; the same command continues a stopped run.

    Ctrl-C writes a checkpoint first. On several processes: accelerate launch -m train CONFIG.
    With --init METHOD a config is written for the pictures in a folder, every choice explained.
    """
    if init is not None:
        if set or dry_run or format == "json":
            raise ArgumentError("--init writes a file; give --set and --dry-run with that file.")
        _write_config(init, config, base or "embedded", word, class_word, out)
        return
    given = {"--base": base, "--word": word, "--class": class_word}
    if alone := [name for name, value in given.items() if value is not None]:
        raise ArgumentError(
            f"Got {alone[0]} without --init: it is for writing a config. In a run use "
            "--set, as in --set target.base=embedded."
        )

    from train.__main__ import main

    arguments = [str(config), *(f"--set={override}" for override in set or ())]
    if out is not None:
        arguments.append(f"--out={out}")
    if dry_run:
        arguments.append("--dry-run")
    arguments.append(f"--format={format}")
    end_gc_delay_and_freeze()
    main(arguments)


def _write_config(
    method: str, folder: Path, base: str, word: str | None, class_word: str | None, out: Path | None
) -> None:
    """Write a config for a folder of images; print its path, and the next command."""
    from t2i.cli.output import print_remark
    from train.starter_config.options import StarterConfigOptions, needs_download
    from train.starter_config.picture_folder import is_broken_fraction_allowed
    from train.starter_config.starter_config import write_starter_config
    from train.starter_config.subject_words import (
        build_default_trigger_comment,
        explain_omitted_trigger,
    )

    out = out or Path(f"{folder.resolve().name}-{method}.toml")
    if out.suffix != ".toml":
        raise ArgumentError(f"Got --out {out}; with --init expected the name of a .toml file.")
    wish = StarterConfigOptions(method, folder, base, word, class_word)
    seen = write_starter_config(wish, out)
    print_result_line(out)
    if remarks := build_default_trigger_comment(wish):
        print_remark(" ".join(remarks))
    if reason := explain_omitted_trigger(wish, seen):
        print_remark(f"Captions are learned as they are: {reason}. See [data] in the file.")
    if seen.broken:
        mend = (
            ""
            if is_broken_fraction_allowed(seen)
            else "the run will not start before they are mended; "
        )
        print_remark(
            f"{plural(seen.broken, 'picture')} cannot be used: {mend}see with: "
            f"t2i data check {quote(str(folder))}"
        )
    if needs_download(base):
        print_remark(
            f"{base} is not on this machine and was not looked up: check that the hub has it. Its "
            "kind was inferred from its name."
        )
    print_remark(f"Next: t2i train {quote(str(out))}")
