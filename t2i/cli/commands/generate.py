"""`t2i generate`: images of a prompt, of a file of prompts, or of another image's metadata."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t2i.cli.inspected_words import Retry, parse_retry
from t2i.cli.output import Format, FormatOption
from t2i.cli.processes import read_launcher_process_count, read_launcher_rank
from t2i.cli.request import options
from t2i.cli.request.edit_options import parse_region
from t2i.errors import ArgumentError

if TYPE_CHECKING:
    from t2i.cli.bulk.prompt_line import PromptLine
    from t2i.cli.request.request import RequestOverrides

PromptArgument = Annotated[
    str | None, typer.Argument(metavar="[PROMPT]", help="What the picture shows.")
]
PromptsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Many prompts: .txt, .jsonl or .csv; the same command continues."
    ),
]
FromOption = Annotated[
    Path | None,
    typer.Option("--from", metavar="IMAGE", help="A picture to make again from its own metadata."),
]
FirstSeedOption = Annotated[
    int | None, typer.Option(help="Seed of the first picture; the next ones count up.")
]
NumOption = Annotated[int, typer.Option(help="How many pictures, of each prompt.")]
GridOption = Annotated[
    bool, typer.Option("--grid", help="Lay the pictures of --num out on a sheet beside them.")
]
ImageOption = Annotated[
    Path | None,
    typer.Option(metavar="PICTURE", help="Change this picture, towards what PROMPT says."),
]
MaskOption = Annotated[
    Path | None,
    typer.Option(metavar="PICTURE", help="White where --image is drawn anew, black elsewhere."),
]
ImagePromptOption = Annotated[
    str | None,
    typer.Option(metavar="PICTURE[:SCALE]", help="A picture as a part of the prompt."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputImageOptions:
    """Options of `t2i generate` about input images, as they were typed; None where not given."""

    ip_adapter: list[str] | None
    image_prompt: str | None
    image: Path | None
    mask: Path | None
    strength: float | None

    def copy_overrides_with_images(self, overrides: "RequestOverrides") -> "RequestOverrides":
        """Return the overrides with the input images parsed and added. Raises ArgumentError."""
        from t2i.cli.request.image_prompt_files import parse_ip_adapters
        from t2i.cli.request.input_files import InputFile, parse_file_with_scale

        ip_adapter, image_prompts = parse_ip_adapters(self.ip_adapter or [])
        return replace(
            overrides,
            ip_adapter=ip_adapter,
            image_prompts=image_prompts,
            image_prompt=None
            if self.image_prompt is None
            else parse_file_with_scale(self.image_prompt),
            image=None if self.image is None else InputFile(path=str(self.image)),
            mask=None if self.mask is None else InputFile(path=str(self.mask)),
            strength=self.strength,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """Options of `t2i generate` about the files it writes and how it reports them.

    num : images of each prompt
    write_metadata : whether to write into an image how it was made
    retry : draws an image again while a thing that its prompt names is missing
    """

    out: Path | None
    num: int
    grid: bool
    write_metadata: bool
    format: Format
    retry: Retry | None = None


def generate(
    prompt: PromptArgument = None,
    prompts: PromptsOption = None,
    from_image: FromOption = None,
    out: options.Out = None,
    seed: FirstSeedOption = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    sampler: options.Sampler = None,
    num: NumOption = 1,
    retry: options.Retries = None,
    grid: GridOption = False,
    method: options.GuidanceMethod = None,
    size: options.Size = None,
    negative: options.Negative = None,
    model: options.Model = None,
    grammar: options.Grammar = None,
    image: ImageOption = None,
    upscale: options.UpscaleFactor = None,
    strength: options.Strength = None,
    mask: MaskOption = None,
    lora: options.Lora = None,
    lora_dir: options.LoraDir = None,
    embedding: options.Embedding = None,
    control: options.Control = None,
    reference: options.Reference = None,
    cache: options.Cache = None,
    preset: options.Preset = None,
    fast: options.Fast = False,
    region: options.Region = None,
    ip_adapter: options.IPAdapter = None,
    image_prompt: ImagePromptOption = None,
    no_metadata: options.NoMetadata = False,
    format: FormatOption = "text",
) -> None:
    """Generate pictures of PROMPT, of each prompt of FILE, or IMAGE again; print their paths.

    A seed that is not given is drawn, printed and recorded. Steps, guidance, sampler and size come
    from the model where they are not given. No file is replaced: in a folder a number is added to
    a name in use; a file named by --out is refused if it exists. Ctrl-C keeps finished pictures.
    """
    _check_one_subject(prompt, prompts, from_image)
    sampling = options.SamplingOptions(
        negative=negative,
        model=model,
        steps=steps,
        guidance=guidance,
        sampler=sampler,
        method=method,
        size=size,
        grammar=grammar,
        lora=lora,
        embedding=embedding,
        control=control,
        cache=cache,
        upscale=upscale,
        reference=reference,
    )
    inputs = InputImageOptions(
        ip_adapter=ip_adapter, image_prompt=image_prompt, image=image, mask=mask, strength=strength
    )
    asked = None if retry is None else parse_retry(retry)
    output = OutputOptions(
        out=out, num=num, grid=grid, write_metadata=not no_metadata, format=format, retry=asked
    )
    overrides = inputs.copy_overrides_with_images(sampling.to_overrides())
    if region:
        overrides = replace(overrides, regions=tuple(map(parse_region, region)))
    from t2i.cli.applied_preset import choose_preset_name

    preset = choose_preset_name(preset, fast=fast)
    if prompts is not None:
        _generate_bulk(prompts, overrides, preset, seed, lora_dir, output)
        return
    _generate_request(prompt, from_image, overrides, preset, seed, lora_dir, output)


def _generate_request(
    prompt: str | None,
    image: Path | None,
    overrides: "RequestOverrides",
    preset: str | None,
    seed: int | None,
    lora_dir: Path | None,
    output: OutputOptions,
) -> None:
    """Generate the images of one request: of `prompt`, or of the metadata of `image`."""
    from t2i.cli.image_grid import ImageGrid, check_not_contact_sheet
    from t2i.cli.request.file_checks import check_file_combinations, check_request_files
    from t2i.cli.request.request import choose_seeds

    if (count := read_launcher_process_count()) > 1:
        raise ArgumentError(
            f"{count} processes were started for one prompt: only the prompts of a "
            "file are shared among them. Give --prompts FILE, or start one process."
        )
    original = None
    if image is None:
        request = options.build_prompt_request(prompt or "", overrides, lora_dir, preset)
    else:
        from t2i.cli.metadata.repeated_request import read_metadata_request_and_seed
        from t2i.cli.request.prompt_loras import DEFAULT_LORA_FOLDER

        original, request, recorded_seed = read_metadata_request_and_seed(
            image, overrides, lora_dir or DEFAULT_LORA_FOLDER, preset
        )
        if seed is None:
            check_not_contact_sheet(image, original)
            seed = recorded_seed
    seeds = choose_seeds(seed, output.num)
    grid = ImageGrid(output.num) if output.grid else None
    check_file_combinations(request)
    check_request_files(request)

    from t2i.cli.generation.single_request import GenerationOutputSettings, generate_and_save_images
    from t2i.cli.output_files.file_names import OutputFileNames

    names = OutputFileNames(
        output.out or Path("outputs"), request.prompt, output.num, grid=output.grid
    )
    as_json = output.format == "json"
    images = GenerationOutputSettings(
        names=names,
        write_metadata=output.write_metadata,
        as_json=as_json,
        grid=grid,
        retry=output.retry,
    )
    generate_and_save_images(request, seeds, images, original)


def _check_one_subject(prompt: str | None, prompts: Path | None, from_image: Path | None) -> None:
    subjects = {"PROMPT": prompt, "--prompts": prompts, "--from": from_image}
    given = [name for name, value in subjects.items() if value is not None]
    if not given:
        raise ArgumentError(
            "Missing what to draw: give a PROMPT, a file of them with --prompts FILE, or a picture "
            'to make again with --from IMAGE, as in: t2i generate "a red apple"'
        )
    if len(given) > 1:
        raise ArgumentError(f"Got {' and '.join(given)}: give one of them.")


def _generate_bulk(
    prompts: Path,
    overrides: "RequestOverrides",
    preset: str | None,
    seed: int | None,
    lora_dir: Path | None,
    output: OutputOptions,
) -> None:
    """Generate the images of a prompts file, or continue where an earlier run stopped."""
    from t2i.cli.applied_preset import AppliedPreset
    from t2i.cli.bulk.bulk_folder import BulkRunArguments
    from t2i.cli.bulk.line_presets import PromptLinePresets
    from t2i.cli.bulk.prompts_file import read_prompts_file
    from t2i.cli.request.file_checks import check_request_files
    from t2i.cli.request.prompt_loras import DEFAULT_LORA_FOLDER
    from t2i.cli.request.request import Request, check_num_images, choose_seed
    from t2i.pictures import FORMAT_BY_SUFFIX

    if output.grid:
        raise ArgumentError(
            "Got --grid with --prompts: a sheet shows the pictures of one prompt. Give PROMPT."
        )
    check_num_images(output.num)
    choose_seed(seed)
    out = Path("outputs") / prompts.stem if output.out is None else output.out
    if out.suffix.lower() in FORMAT_BY_SUFFIX and not out.is_dir():
        raise ArgumentError(f"Got --out {out}: the pictures of a file need a folder.")
    label = None if preset is None else AppliedPreset(name=preset)  # its settings are the lines'
    bulk = BulkRunArguments(
        prompts=prompts,
        out=out,
        options=overrides.apply_to(Request(prompt="", grammar="a1111", preset=label)),
        seed=seed,
        num=output.num,
        write_metadata=output.write_metadata,
        retry=output.retry,
    )
    # Before anything slow is imported: a mistake in the file is reported at once.
    check_request_files(bulk.options)
    lines: list[PromptLine] = []
    if read_launcher_rank() == 0:
        fill = PromptLinePresets(overrides, preset)
        lines = read_prompts_file(prompts, bulk.options, lora_dir or DEFAULT_LORA_FOLDER, fill)

    from t2i.cli.bulk.bulk import run_bulk

    run_bulk(bulk, lines, as_json=output.format == "json")
