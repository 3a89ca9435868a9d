"""`t2i convert`: LoRAs, learned words and models from one format into another."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from t2i.cli.output import FormatOption, print_json, print_remark
from t2i.cli.output_files.weights_output import (
    FamilyOption,
    OverwriteOption,
    PrecisionOption,
    WeightsFormat,
    WeightsFormatOption,
    check_output_writable,
    output_path_context,
    write_lora_in_format,
    write_model_folder,
)
from t2i.errors import ArgumentError, ModelError
from t2i.terminal import print_result_line

WeightsKind = Literal["LoRA", "embedding", "model"]
PICKLE_SUFFIXES = (".pt", ".bin")
MODEL_KEY_PREFIXES = (
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.",
    "conditioner.",
)
"""Beginnings of tensor names in a model that is one file, of its UNet, VAE and text encoders."""
LORA_KEY_PARTS = ("lora", "hada_", "lokr_", "dora_scale")
"""Parts of the tensor names of LoRAs, in any format."""
MAX_EMBEDDING_TENSORS = 64
"""Maximum tensors of a file of learned words, each of which is one word."""


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A file, or a folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A file, or a folder.")],
    to: WeightsFormatOption = "diffusers",
    family: FamilyOption = None,
    layers_per_block: Annotated[
        int,
        typer.Option(min=1, max=16, help="Layers of a UNet block, by which kohya names SDXL's."),
    ] = 2,
    token: Annotated[
        str | None, typer.Option(help="What a learned word is called in prompts.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Configs and words for a model that is one file."),
    ] = None,
    precision: PrecisionOption = "fp32",
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read a .pt of A1111: its tensors alone.")
    ] = False,
    overwrite: OverwriteOption = False,
    format: FormatOption = "text",
) -> None:
    """Write the LoRA, learned word or model IN as OUT, and print its path.

    A LoRA of any format becomes a file of diffusers' or kohya's, or a folder of peft's; a learned
    word a file of diffusers' or kohya's; a model in one file a folder of diffusers'. A tensor that
    is not understood is an error that names it: nothing is left out.
    """
    kind = _detect_kind(source)
    if kind == "model":
        _convert_model(source, out, to, config, precision, overwrite)
    elif kind == "embedding":
        _convert_embedding(source, out, to, token, allow_pickle, overwrite)
    else:
        from t2i.adapters import read_lora

        check_output_writable(out, overwrite, folder=to == "peft")
        lora = read_lora(source, layers_per_block=layers_per_block)
        with output_path_context(out, overwrite) as new:
            write_lora_in_format(new, lora, to, family, layers_per_block)
    if format == "json":
        print_json({"path": str(out), "kind": kind, "layout": to})
    else:
        print_remark(f"{kind}, as {to} has it")
        print_result_line(out)


def _detect_kind(source: Path) -> WeightsKind:
    """Return the kind of weights in a file or folder, by its name and its header."""
    from t2i.denoiser.loading.weight_checks import read_tensor_shapes

    if source.is_dir():
        return "model" if (source / "model_index.json").is_file() else "LoRA"
    if source.suffix in PICKLE_SUFFIXES:
        return "embedding"
    if not source.is_file():
        raise ModelError(f"No such file or folder: {source}. Check the path.")
    if source.suffix != ".safetensors":
        raise ModelError(f"{source} is of no known kind: expected .safetensors.")
    shapes = read_tensor_shapes(source)
    if any(name.startswith(MODEL_KEY_PREFIXES) and not _is_lora_tensor(name) for name in shapes):
        return "model"
    small = 0 < len(shapes) <= MAX_EMBEDDING_TENSORS and all(
        len(shape) <= 2 for shape in shapes.values()
    )
    return "embedding" if small and not any(map(_is_lora_tensor, shapes)) else "LoRA"


def _is_lora_tensor(name: str) -> bool:
    """Return whether a tensor belongs to a LoRA, which may name its modules as a model does."""
    return name.endswith(".alpha") or any(mark in name for mark in LORA_KEY_PARTS)


def _convert_embedding(
    source: Path,
    out: Path,
    to: WeightsFormat,
    token: str | None,
    allow_pickle: bool,
    overwrite: bool,
) -> None:
    from t2i.adapters import (
        LearnedWord,
        read_learned_word,
        write_learned_word,
        write_learned_word_kohya,
    )

    if to == "peft":
        raise ArgumentError("peft has no files of learned words: give --to diffusers or kohya.")
    from t2i.cli.request.file_checks import build_pickle_conversion_command

    if source.suffix in PICKLE_SUFFIXES and not allow_pickle:
        raise ModelError(
            f"Refused the pickle {source}: with --allow-pickle its tensors alone are read, and "
            f"nothing in it is run: {build_pickle_conversion_command(source, out)}"
        )
    check_output_writable(out, overwrite)
    found = read_learned_word(source, pickles=allow_pickle)
    named = LearnedWord(found.vectors, token or found.token or source.stem)
    with output_path_context(out, overwrite) as new:
        (write_learned_word if to == "diffusers" else write_learned_word_kohya)(new, named)


def _convert_model(
    source: Path,
    out: Path,
    to: WeightsFormat,
    config: Path | None,
    precision: Literal["fp16", "bf16", "fp32"],
    overwrite: bool,
) -> None:
    if to != "diffusers":
        raise ArgumentError(f"A model cannot be written as {to}: give --to diffusers, a folder.")
    if source.is_dir():
        raise ArgumentError(
            f"{source} is a folder as diffusers has it. It cannot be written as one file: "
            "diffusers reads the format of the original code and has nothing that writes it."
        )
    check_output_writable(out, overwrite, folder=True)

    from pipelines.text_to_image import TextToImagePipeline
    from t2i.library_messages import quieting_libraries

    given = {} if config is None else {"config": config}
    with quieting_libraries(), output_path_context(out, overwrite) as new:
        write_model_folder(new, TextToImagePipeline.from_pretrained(source, **given), precision)
