"""Options of the commands that draw one prompt, and the request that they make."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from t2i.cli.processes import read_launcher_process_count
from t2i.errors import ArgumentError

if TYPE_CHECKING:
    from t2i.cli.request.request import Request, RequestOverrides

Out = Annotated[
    Path | None,
    typer.Option(
        help="A folder, or one file ending in .png, .jpg or .webp.", show_default="outputs"
    ),
]
Seed = Annotated[int | None, typer.Option(help="Seed of the initial noise.")]
Steps = Annotated[int | None, typer.Option(help="Steps of the sampler.")]
Guidance = Annotated[
    float | None, typer.Option(help="How strongly the prompt is followed; 1 is unguided.")
]
Sampler = Annotated[str | None, typer.Option(help="ddim, euler, dpm++ 2m, ...")]
GuidanceMethod = Annotated[
    str | None,
    typer.Option(metavar="METHOD", help="Guidance method: apg, cfg-zero, pag, cfg:stop=0.5, ..."),
]
Size = Annotated[str | None, typer.Option(help="512x384, or 512 for a square.")]
Negative = Annotated[str | None, typer.Option(help="What the picture must not show.")]
Model = Annotated[
    str | None, typer.Option(help="A name of `t2i models`, or a folder.", show_default="embedded")
]
Grammar = Annotated[
    Literal["a1111", "comfy", "plain"] | None,
    typer.Option(help="What (), [] and : mean in a prompt.", show_default="a1111"),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE[:SCALE]", help="A LoRA and its strength; may be repeated."),
]
Embedding = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE[:WORD]", help="A learned word (textual inversion); may be repeated."
    ),
]
Control = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL:PICTURE[:NAME=VALUE,...]",
        help="A ControlNet and the picture it reads, with scale=0.8, steps=0-0.6, mode=prompt, "
        "mask=PICTURE, blocks=down.2+mid; may be repeated.",
    ),
]
Reference = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PICTURE[:NAME=VALUE,...]",
        help="A picture whose look is taken over, with scale=1, steps=0-0.6, prompt=WORDS under "
        "which it is read; none, with --from, takes the recorded one away.",
    ),
]
Cache = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[:NAME=VALUE,...]",
        help="Leave out a part of some passes, as in deep:every=3; may be repeated. none, with "
        "--from, takes the recorded ones away.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The model's settings for speed, measured by t2i tune: exact, fast, fastest. What is "
        "named beside it wins. FILE.json:NAME takes one of a file.",
    ),
]
Fast = Annotated[bool, typer.Option("--fast", help="The same as --preset fast.")]
IPAdapter = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADAPTER[:PICTURE[:scale=..,mask=..]]",
        help="An IP-Adapter and its picture; may be repeated. Alone it reads --image-prompt; "
        "none, with --from, takes the recorded ones away.",
    ),
]
Region = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WORDS:BOX",
        help="Bind words to a box of the picture, as in cat:0,0,0.5,1; may be repeated.",
    ),
]
LoraDir = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Where <lora:NAME:0.8> of a prompt is found.", show_default="loras"
    ),
]
Photo = Annotated[
    Path | None, typer.Option("--image", metavar="PHOTO", help="Your own picture, of SOURCE.")
]
SourceFolder = Annotated[
    Path | None,
    typer.Option(
        "--source",
        metavar="FOLDER",
        help="A photo that `t2i invert` has recorded, or `t2i edit --record`.",
    ),
]
Invert = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD",
        help="How the photo is inverted: direct, edit-friendly:skip=0.2, null-text, ...",
        show_default="by model",
    ),
]
Fit = Annotated[
    Literal["crop", "pad", "stretch"] | None,
    typer.Option(help="How the photo becomes the model's size.", show_default="crop"),
]
Retries = Annotated[
    str | None,
    typer.Option(
        metavar="NUM[:WORD,...]",
        help=(
            "Draw a picture again with the next seeds, at most so often, while a thing that PROMPT "
            "names is missing: as in 3, or 3:cat,apple."
        ),
    ),
]
UpscaleFactor = Annotated[
    str | None,
    typer.Option(
        metavar="FACTOR[:STRENGTH]",
        help="Draw at the model's size, enlarge, and draw anew a little, as in 2 or 2:0.3.",
    ),
]
Strength = Annotated[
    float | None,
    typer.Option(
        help="How much of --image is drawn anew: 0 to 1.", show_default="0.8; 1 with --mask"
    ),
]
PhotoMask = Annotated[
    Path | None,
    typer.Option(
        "--mask", metavar="PICTURE", help="White where the photo may change, black elsewhere."
    ),
]
FullSize = Annotated[
    bool, typer.Option("--full-size", help="Put each edit back into the photo at its own size.")
]
RecordingBudget = Annotated[
    float | None,
    typer.Option(metavar="GIB", help="Most GiB that a recording may take.", show_default="4"),
]
NoMetadata = Annotated[
    bool, typer.Option("--no-metadata", help="Do not write into a picture how it was made.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """Options of a command about sampling, as they were typed; None for those not given."""

    negative: str | None
    model: str | None
    steps: int | None
    guidance: float | None
    sampler: str | None
    method: str | None
    size: str | None
    grammar: Literal["a1111", "comfy", "plain"] | None
    lora: Sequence[str] | None
    embedding: Sequence[str] | None
    control: Sequence[str] | None = None
    cache: Sequence[str] | None = None
    upscale: str | None = None
    """Of `t2i generate` alone."""
    ip_adapter: Sequence[str] | None = None
    """Of `t2i edit`; `t2i generate` has more options of image prompts."""
    reference: Sequence[str] | None = None
    """Of `t2i generate` alone."""

    def to_overrides(self) -> "RequestOverrides":
        """Parse the sampling options of a command into overrides of a request.

        Raises ArgumentError for a value that cannot be used.
        """
        from t2i.cli.request.control_files import parse_controls
        from t2i.cli.request.image_prompt_files import parse_ip_adapters
        from t2i.cli.request.input_files import parse_caches, parse_embeddings, parse_loras
        from t2i.cli.request.reference_files import parse_references
        from t2i.cli.request.request import RequestOverrides, parse_size
        from t2i.cli.request.upscaling import parse_upscale
        from t2i.denoiser.sampler_names import sampler_name_from_class

        ip_adapter, image_prompts = parse_ip_adapters(self.ip_adapter or [])
        width, height = (None, None) if self.size is None else parse_size(self.size)
        return RequestOverrides(
            negative_prompt=self.negative,
            model=self.model,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            sampler=None if self.sampler is None else sampler_name_from_class(self.sampler),
            width=width,
            height=height,
            grammar=self.grammar,
            guidance_method=self.method,
            loras=parse_loras(self.lora) if self.lora else None,
            embeddings=parse_embeddings(self.embedding) if self.embedding else None,
            upscale=None if self.upscale is None else parse_upscale(self.upscale),
            controls=parse_controls(self.control) if self.control else None,
            ip_adapter=ip_adapter,
            image_prompts=image_prompts,
            cache=parse_caches(self.cache) if self.cache else None,
            references=parse_references(self.reference) if self.reference else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoOptions:
    """Options of a command about the photo that it edits or inspects, as they were typed.

    source : folder of a recording that is given instead of the photo
    """

    image: Path | None
    source: Path | None = None
    invert: str | None = None
    fit: Literal["crop", "pad", "stretch"] | None = None
    mask: Path | None = None
    full_size: bool = False

    def copy_overrides_with_photo(self, overrides: "RequestOverrides") -> "RequestOverrides":
        """Return the overrides with the photo, its mask and its inversion added, if it is given.

        Raises ArgumentError for options about a photo without one.
        """
        from t2i.cli.request.input_files import InputFile
        from t2i.cli.request.photo_inversion import AUTO_METHOD, PhotoInversion

        if self.image is None:
            alone = {"--invert": self.invert, "--fit": self.fit, "--mask": self.mask}
            given = [name for name, value in alone.items() if value is not None]
            if given and self.source is not None:
                raise build_option_with_source_error(given)
            if given:
                raise ArgumentError(
                    f"Got {' and '.join(given)} without --image: it is about a photo. Give both."
                )
            return overrides
        return replace(
            overrides,
            image=InputFile(path=str(self.image)),
            mask=None if self.mask is None else InputFile(path=str(self.mask)),
            inversion=PhotoInversion(
                method=AUTO_METHOD if self.invert is None else self.invert,
                fit=self.fit or "crop",
                full_size=self.full_size,
            ),
        )


def check_options_allowed_with_source(
    overrides: "RequestOverrides", others: Mapping[str, object]
) -> None:
    """Raise ArgumentError for command-line options given together with --source, the folder of a
    recorded photo, which fixes their values already.

    others : further options and their values, None for those not given
    """
    given = {
        field.name for field in fields(overrides) if getattr(overrides, field.name) is not None
    } - {"model"}
    names = {"num_inference_steps": "--steps", "guidance_scale": "--guidance", "width": "--size"}
    names |= {"height": "--size", "guidance_method": "--method", "negative_prompt": "--negative"}
    names |= {"loras": "--lora", "embeddings": "--embedding", "inversion": "--image"}
    names |= {
        "controls": "--control",
        "ip_adapter": "--ip-adapter",
        "image_prompts": "--ip-adapter",
    }
    found = {names.get(name, f"--{name}") for name in given}
    found |= {name for name, value in others.items() if value is not None}
    if found:
        raise build_option_with_source_error(found)


def build_option_with_source_error(names: Collection[str]) -> ArgumentError:
    """Return the ArgumentError for command-line options that must not be given with --source, as
    the recorded photo fixes them already.

    names : of the options, such as "--steps"
    """
    return ArgumentError(
        f"Got {' and '.join(sorted(names))} with --source: a recording has its own. Leave it out, "
        "or record the photo anew with t2i invert."
    )


def build_prompt_request(
    prompt: str,
    overrides: "RequestOverrides",
    lora_dir: Path | None,
    preset: str | None = None,
) -> "Request":
    """Build the request of one prompt from a command's options, with what a preset fills.

    Raises ArgumentError if several processes run the command.
    """
    from t2i.cli.request.prompt_loras import (
        DEFAULT_LORA_FOLDER,
        build_lora_finder,
        set_prompt_and_extract_loras,
    )
    from t2i.cli.request.request import DEFAULT_MODEL, Request

    if read_launcher_process_count() > 1:
        raise ArgumentError(
            f"{read_launcher_process_count()} processes were started for one prompt: start one."
        )
    if preset is not None:
        from t2i.cli.request.presets import fill_from_preset

        overrides = fill_from_preset(overrides, preset, overrides.model or DEFAULT_MODEL)
    request = overrides.apply_to(Request(prompt="", grammar="a1111"))
    find = build_lora_finder(lora_dir or DEFAULT_LORA_FOLDER)
    return set_prompt_and_extract_loras(request, prompt, find)


def check_no_composed_prompts(request: "Request", prompts: Sequence[str]) -> None:
    """Raise ArgumentError if a prompt is composed of several prompts joined by AND."""
    for prompt in prompts:
        parsed = request.parse_prompt_in_grammar(prompt)
        if not isinstance(parsed, str) and len(parsed.texts_at_step(0, 1)) > 1:
            raise ArgumentError(
                f"{prompt!r} has parts joined by AND, each of which is encoded alone: words are "
                "looked up in one text. Give one of the parts, or --grammar plain."
            )
