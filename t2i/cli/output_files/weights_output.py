"""Options and checks of the commands that write weights, and the writing itself."""

import json
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from t2i.atomic_files import check_name_lengths
from t2i.atomic_folders import atomic_folder, atomic_new_path
from t2i.errors import ArgumentError, OutputError
from t2i.safe_reading import MODEL_CONFIG_KIND, read_json

if TYPE_CHECKING:
    from pipelines.base.pipeline import Pipeline
    from t2i.adapters import Lora

WeightsFormat = Literal["diffusers", "kohya", "peft"]
"""Program whose names and file structure the written weights have."""
Precision = Literal["fp16", "bf16", "fp32"]

OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace a file or folder of that name.")
]
WeightsFormatOption = Annotated[
    WeightsFormat, typer.Option("--to", help="The format of what is written.")
]
FamilyOption = Annotated[
    Literal["sd1", "sd2", "sdxl"] | None,
    typer.Option(
        help="Family of the models that a kohya file is for.", show_default="read off its layers"
    ),
]
PrecisionOption = Annotated[Precision, typer.Option(help="Precision of the weights in the files.")]


def check_output_writable(out: Path, overwrite: bool, *, folder: bool = False) -> None:
    """Raise an error unless a command may write weights to the path `out`.

    folder : whether a folder is to be written; else a .safetensors file
    Raises ArgumentError for another suffix, OutputError for an existing path without `overwrite`,
    or a folder that holds no weights.
    """
    check_name_lengths([out])
    if folder and out.is_file():
        raise OutputError(f"{out} is a file, and what is written is a folder: choose another name.")
    if not folder:
        if out.suffix != ".safetensors":
            raise ArgumentError(f"Got {out}: expected a file name that ends in .safetensors.")
        if out.is_dir():
            raise OutputError(f"{out} is a folder, and what is written is a file.")
    if out.is_dir() and any(out.iterdir()) and not _holds_weights(out):
        raise OutputError(
            f"{out} holds other things than a model or a LoRA, and is not replaced: choose another "
            "name."
        )
    if os.path.lexists(out) and not overwrite:
        raise OutputError(
            f"{out} exists and is not replaced: choose another name, or give --overwrite."
        )


def output_path_context(out: Path, overwrite: bool) -> AbstractContextManager[Path]:
    """Return a context that yields a path to write to, which is moved to `out` at its end.

    Another command may have created `out` since check_output_writable: that raises OutputError.
    """
    return nullcontext(out) if overwrite else atomic_new_path(out)


def _holds_weights(folder: Path) -> bool:
    marks = ("model_index.json", "adapter_config.json", "*/adapter_config.json")
    return any(next(folder.glob(mark), None) for mark in marks)


def write_lora_in_format(
    out: Path, lora: "Lora", to: WeightsFormat, family: str | None, layers: int = 2
) -> None:
    """Write a LoRA file or folder in the format of diffusers, kohya or peft.

    family : of models, for the names in a kohya file
    layers : layers per block of the UNet, by which kohya names SDXL's layers
    """
    from t2i.adapters import (
        KohyaMetadata,
        write_diffusers_lora,
        write_kohya_lora,
        write_peft_folders,
    )

    if to == "diffusers":
        write_diffusers_lora(out, lora)
    elif to == "peft":
        write_peft_folders(out, lora)
    else:
        facts = KohyaMetadata(
            family=family,  # type: ignore[arg-type]  # typer has checked it
            title=out.stem,
            layers_per_block=layers,
        )
        write_kohya_lora(out, lora, facts)


def write_model_folder(out: Path, pipe: "Pipeline", precision: Precision) -> None:
    """Write a pipeline as a model folder in diffusers' format, which appears whole or not at all.

    precision : of the weights; the pipeline itself is converted to it
    """
    import torch

    from t2i.library_messages import muting_diffusers_warnings

    kinds = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
    with muting_diffusers_warnings(), atomic_folder(out) as new:
        pipe.to(kinds[precision])
        pipe.save_pretrained(new)
        # Left alone transformers takes the precision of the file, and diffusers float32.
        for path in new.glob("text_encoder*/config.json"):
            config = read_json(path, MODEL_CONFIG_KIND) | {"dtype": "float32"}
            path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
