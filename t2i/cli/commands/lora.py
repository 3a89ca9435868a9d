"""`t2i lora`: inspect, merge, extract and resize LoRAs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2i.cli.option_parsing.path_arguments import NonEmptyPathCommandGroup
from t2i.cli.output import FormatOption, print_json, print_remark
from t2i.cli.output_files.weights_output import (
    FamilyOption,
    OverwriteOption,
    PrecisionOption,
    WeightsFormatOption,
    check_output_writable,
    output_path_context,
    write_lora_in_format,
    write_model_folder,
)
from t2i.errors import ArgumentError
from t2i.terminal import escape_controls, plural, print_result_line, print_rich

if TYPE_CHECKING:
    from t2i.adapters import LoraApproximation, PartSummary

lora = NonEmptyPathCommandGroup(help="Inspect, merge, extract and resize LoRAs.")

LoraFileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA of any format.")]
OutOption = Annotated[Path, typer.Option(help="The file to write.")]
RankOption = Annotated[int | None, typer.Option(min=1, help="Maximum rank of each layer.")]
EnergyShareOption = Annotated[
    float | None, typer.Option(help="Share of each layer's energy to keep: above 0, up to 1.")
]
LayersPerBlockOption = Annotated[
    int, typer.Option(min=1, max=16, help="Layers of a UNet block, by which kohya names SDXL's.")
]
MAX_VALUES_PER_CELL = 6
"""Maximum number of values in a line of the table."""


@lora.callback(invoke_without_command=True)
def print_help_without_command(context: typer.Context) -> None:
    """Print the help of `t2i lora` where no command of it is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@lora.command("info")
def print_lora_info(
    file: LoraFileArgument,
    layers_per_block: LayersPerBlockOption = 2,
    format: FormatOption = "text",
) -> None:
    """Print what the LoRA FILE changes and how strongly: layers, ranks, alphas, and header."""
    from dataclasses import asdict

    from t2i.adapters import read_lora, summarize_lora

    found = read_lora(file, layers_per_block=layers_per_block)
    parts = summarize_lora(found)
    if format == "json":
        print_json(
            {
                "path": str(file),
                "parts": [asdict(part) for part in parts],
                "header": dict(found.header),
            }
        )
        return
    _print_parts(parts)
    for name, text in sorted(found.header.items()):
        shown = text if len(text) <= 100 else f"{text[:97]}..."
        print_result_line(f"{escape_controls(name)[:60]}  {escape_controls(shown)}")


@lora.command("merge")
def merge_loras_into_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name, folder, file or hub id.")],
    loras: Annotated[
        list[str], typer.Argument(metavar="FILE[:SCALE]...", help="LoRAs, and their strengths.")
    ],
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    precision: PrecisionOption = "fp32",
    overwrite: OverwriteOption = False,
    format: FormatOption = "text",
) -> None:
    """Add LoRAs to the weights of MODEL, write it as a diffusers folder, and print its path.

    It draws what MODEL draws with these LoRAs, but for rounding.
    """
    from t2i.cli.request.input_files import parse_file_with_scale

    check_output_writable(out, overwrite, folder=True)
    scaled = [parse_file_with_scale(text) for text in loras]

    from t2i.adapters import merge_into_weights, read_lora
    from t2i.cli.request.file_checks import find_usable_file_path

    paths = [find_usable_file_path("loras", file) for file in scaled]
    pipe = _load_pipeline(model)
    models = _lora_models(pipe)
    for path, file in zip(paths, scaled, strict=True):
        merge_into_weights(
            models, read_lora(path, layers_per_block=_layers_per_block(pipe)), file.scale
        )
    with output_path_context(out, overwrite) as new:
        write_model_folder(new, pipe, precision)
    _print_result(out, format, {"loras": [file.option_value for file in scaled]})


@lora.command("extract")
def extract_lora_file(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="The model it began as.")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="The model it has become.")],
    out: OutOption,
    rank: RankOption = None,
    share: EnergyShareOption = None,
    to: WeightsFormatOption = "diffusers",
    family: FamilyOption = None,
    overwrite: OverwriteOption = False,
    format: FormatOption = "text",
) -> None:
    """Find the LoRA that turns BEFORE into AFTER, as nearly as its rank allows, and print its path.

    Says which share of the difference it holds, and what differs that no LoRA can hold.
    """
    _check_rank_and_share(rank, share)
    check_output_writable(out, overwrite, folder=to == "peft")

    from t2i.adapters import extract_lora

    first, second = _load_pipeline(before), _load_pipeline(after)
    fit = extract_lora(_lora_models(first), _lora_models(second), rank=rank, share=share)
    if not fit.lora.parts:
        raise ArgumentError(f"{before} and {after} differ in no layer that a LoRA changes.")
    with output_path_context(out, overwrite) as new:
        write_lora_in_format(new, fit.lora, to, family, _layers_per_block(second))
    if fit.unrepresented:
        more = f" and {len(fit.unrepresented) - 3:,} more" if len(fit.unrepresented) > 3 else ""
        print_remark(
            f"Warning: no LoRA holds what differs in {plural(len(fit.unrepresented), 'tensor')}: "
            f"{', '.join(fit.unrepresented[:3])}{more}."
        )
    _print_result(out, format, _report_fit(fit, format) | {"left": list(fit.unrepresented)})


@lora.command("resize")
def resize_lora_file(
    file: LoraFileArgument,
    out: OutOption,
    rank: RankOption = None,
    share: EnergyShareOption = None,
    to: WeightsFormatOption = "diffusers",
    family: FamilyOption = None,
    layers_per_block: LayersPerBlockOption = 2,
    overwrite: OverwriteOption = False,
    format: FormatOption = "text",
) -> None:
    """Write the LoRA FILE at another rank, as near to it as that allows, and print its path.

    A LoHa or LoKr becomes the LoRA that is nearest to it.
    """
    _check_rank_and_share(rank, share)
    check_output_writable(out, overwrite, folder=to == "peft")

    from t2i.adapters import read_lora, resize_lora

    fit = resize_lora(read_lora(file, layers_per_block=layers_per_block), rank=rank, share=share)
    with output_path_context(out, overwrite) as new:
        write_lora_in_format(new, fit.lora, to, family, layers_per_block)
    _print_result(out, format, _report_fit(fit, format))


def _check_rank_and_share(rank: int | None, share: float | None) -> None:
    if rank is None and share is None:
        raise ArgumentError("Missing how much to keep: give --rank, --share, or both.")
    if share is not None and not 0 < share <= 1:
        raise ArgumentError(f"Got --share {share}: expected a number above 0, up to 1.")


def _load_pipeline(model: str) -> Any:
    from t2i.library_messages import quieting_libraries

    with quieting_libraries():
        from pipelines.text_to_image import TextToImagePipeline

        return TextToImagePipeline.from_pretrained(model)


def _lora_models(pipe: Any) -> dict[str, Any]:
    """Return the parts of a pipeline that a LoRA may change, by name."""
    from t2i.adapters import MODEL_PARTS

    found = {part: getattr(pipe, part, None) for part in MODEL_PARTS}
    return {part: model for part, model in found.items() if model is not None}


def _layers_per_block(pipe: Any) -> int:
    layers = pipe.unet.config.layers_per_block
    return layers if isinstance(layers, int) else 2


def _report_fit(fit: "LoraApproximation", format: str) -> dict[str, object]:
    """Return how much of the weights the LoRA holds; with the format "text" also print it."""
    ranks = [layer.rank for _, _, layer in fit.lora.iter_layers()]
    low, high = min(ranks), max(ranks)
    if format == "text":
        named = f"rank {low}" if low == high else f"ranks {low} to {high}"
        print_remark(
            f"{fit.kept_energy:.2%} of the energy kept, {plural(len(ranks), 'layer')}, {named}"
        )
    return {"kept": round(fit.kept_energy, 6), "layers": len(ranks), "ranks": [low, high]}


def _print_result(out: Path, format: str, facts: dict[str, object]) -> None:
    if format == "json":
        print_json({"path": str(out)} | facts)
    else:
        print_result_line(out)


def _print_parts(parts: "list[PartSummary]") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("", *(part.part for part in parts), box=None, pad_edge=False)
    rows = {
        "layers": [f"{part.layers}" for part in parts],
        "parameters": [f"{part.parameters:,}" for part in parts],
        "kinds": [_format_counts(part.kinds) for part in parts],
        "ranks": [_format_counts(part.ranks) for part in parts],
        "alphas": [_format_counts(part.alphas) for part in parts],
        "modules": [_format_counts(part.modules) for part in parts],
        "length": [f"{part.length:.4g}" for part in parts],
        "largest": [f"{part.largest[0]} ({part.largest[1]:.3g})" for part in parts],
    }
    for name, cells in rows.items():
        table.add_row(name, *(Text(cell) for cell in cells))
    print_rich(table)


def _format_counts(values: Any) -> str:
    """Return each value with its count, the most frequent first."""
    known = [f"{value} x{number}" for value, number in values.items()]
    more = f", {len(known) - MAX_VALUES_PER_CELL} more" if len(known) > MAX_VALUES_PER_CELL else ""
    return ", ".join(known[:MAX_VALUES_PER_CELL]) + more
