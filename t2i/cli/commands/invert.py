"""`t2i invert`: a photo as a recorded source, which `t2i edit --source` edits cheaply."""

from pathlib import Path
from typing import Annotated

import typer

from t2i.cli.output import FormatOption
from t2i.cli.request import options
from t2i.cli.request.photo_inversion import convert_recording_budget_to_bytes
from t2i.errors import ArgumentError

EPILOG = """Examples:

`t2i invert cat.jpg "a cat on a sofa" --out cat`

`t2i edit --source cat "a dog on a sofa"`
"""


def record_photo(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="Your own picture.")],
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What the photo shows.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A new folder for the recording.")
    ] = None,
    invert: options.Invert = None,
    fit: options.Fit = None,
    mask: options.PhotoMask = None,
    budget: options.RecordingBudget = None,
    for_style: Annotated[
        bool,
        typer.Option("--for-style", help="Record what edit --style reads of PHOTO, too."),
    ] = False,
    seed: options.Seed = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    sampler: options.Sampler = None,
    method: options.GuidanceMethod = None,
    size: options.Size = None,
    negative: options.Negative = None,
    model: options.Model = None,
    grammar: options.Grammar = None,
    lora: options.Lora = None,
    lora_dir: options.LoraDir = None,
    embedding: options.Embedding = None,
    control: options.Control = None,
    format: FormatOption = "text",
) -> None:
    """Invert PHOTO and record it in FOLDER, so that each edit of it computes its targets alone.

    An inversion finds the noise from which the model makes PHOTO, with PROMPT as its description.
    Printed are the method, how well the photo is reproduced, and the folder. No file is replaced.
    """
    if prompt is None:
        raise ArgumentError(
            "Missing PROMPT: the photo is inverted with the prompt that describes it, and edits "
            'hold on to its words, as in: t2i invert cat.jpg "a cat on a sofa" --out cat. An empty '
            'one, "", does without, and then more may change than is wanted.'
        )
    if out is None:
        raise ArgumentError("Missing --out FOLDER: name a new folder for the recording.")
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
    )
    options_of_photo = options.PhotoOptions(image=photo, invert=invert, fit=fit, mask=mask)
    overrides = options_of_photo.copy_overrides_with_photo(sampling.to_overrides())
    request = options.build_prompt_request(prompt, overrides, lora_dir)
    options.check_no_composed_prompts(request, [request.prompt])
    budget_bytes = convert_recording_budget_to_bytes(budget)
    from t2i.cli.request.file_checks import check_request_files
    from t2i.cli.request.request import choose_seed

    seed = choose_seed(seed)
    check_request_files(request)

    from t2i.cli.generation.recorded_photo import invert_photo_to_folder

    invert_photo_to_folder(
        *(request, seed, out),
        budget_bytes=budget_bytes,
        as_json=format == "json",
        for_style=for_style,
    )
