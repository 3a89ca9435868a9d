"""Drawing DreamBooth's class pictures, those that are missing, before the first step."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image

from t2i.atomic_files import write_atomically
from t2i.errors import ArgumentError
from t2i.pictures import save_picture
from t2i.run_folder import StopRequest
from t2i.safe_reading import RUN, read_json
from t2i.terminal import print_note
from train.config.run_config import RunConfig
from train.data.class_picture_config import PriorConfig, class_picture_folder
from train.data.sources.folder import list_folder
from train.data.sources.listing import Listing
from train.parallel.processes import on_main
from train.reporting.progress import progress
from train.setup.assembly import STORED

if TYPE_CHECKING:
    from pipelines.text_to_image import TextToImagePipeline

NOTES = ".drawn.json"
"""In their folder: what they were drawn by."""


def draw_prior(config: RunConfig, out: Path, accelerator: Accelerator, stop: StopRequest) -> bool:
    """Draw the class pictures that are missing, on the main process; False where that was stopped.

    Each is written as it is finished, so that the next run goes on behind it. Raises ArgumentError
    for a folder whose pictures were drawn otherwise.
    """
    if config.prior is not None:
        on_main(accelerator, lambda: draw_missing(config, out, accelerator.device, stop))
    stopped = gather_object([stop.wanted]) if accelerator.num_processes > 1 else [stop.wanted]
    return config.prior is None or not any(stopped)


def draw_missing(config: RunConfig, out: Path, device: torch.device, stop: StopRequest) -> None:
    prior = config.prior
    assert prior is not None
    folder = class_picture_folder(prior, out)
    numbers = missing(folder, prior.count)
    check_made_alike(folder, facts_of(config), beside_new=bool(numbers))
    if not numbers:
        return

    # Here, for the sake of the start-up of a run that has its pictures.
    from pipelines.text_to_image import TextToImagePipeline

    assert config.target.kind == "finetune"
    kind = STORED[config.train.precision]
    pipe = TextToImagePipeline.from_pretrained(config.target.base, torch_dtype=kind).to(device)
    pipe.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]
    facts = json.dumps(facts_of(config), indent=1) + "\n"
    write_atomically(folder / NOTES, lambda part: part.write_text(facts, "utf-8"))
    with progress("class pictures", prior.count, prior.count - len(numbers)) as advance:
        for batch in batches_of(numbers, prior):
            if stop.wanted:
                print_note("stopped; the same command goes on from here")
                return
            pictures = draw(pipe, prior, config.data.size, batch)
            for number in sorted({*batch} & {*numbers}):
                save_picture(pictures[number - batch[0]], folder / name_of(number))
                advance(1)


def batches_of(numbers: Sequence[int], prior: PriorConfig) -> list[range]:
    """Whole batches with the numbers in them: a picture is the same to the bit beside the same."""
    size = prior.batch_size
    starts = dict.fromkeys(number // size * size for number in numbers)
    return [range(start, min(start + size, prior.count)) for start in starts]


def draw(
    pipe: "TextToImagePipeline", prior: PriorConfig, size: int, numbers: Sequence[int]
) -> list[Image.Image]:
    """Picture n is that of seed `prior.seed + n`."""
    drawn: list[Image.Image] = pipe(
        [prior.prompt] * len(numbers),
        height=size,
        width=size,
        num_inference_steps=prior.steps,
        guidance_scale=prior.guidance_scale,
        generator=[torch.Generator().manual_seed(prior.seed + number) for number in numbers],
        return_dict=False,
    )[0]
    return drawn


def missing(folder: Path, count: int) -> list[int]:
    """Numbers of the pictures that are to be drawn; those of others count as they are."""
    listing = list_folder(folder) if folder.is_dir() else Listing()
    there = {Path(picture.name).name for picture in listing.pictures}
    ours = {name_of(number) for number in range(count)} & there
    wanted = count - len(there - ours)
    return [number for number in range(wanted) if name_of(number) not in there]


def name_of(number: int) -> str:
    return f"class-{number:05d}.png"


def facts_of(config: RunConfig) -> dict[str, Any]:
    """What the pictures are drawn by."""
    assert config.prior is not None
    assert config.target.kind == "finetune"
    told = config.prior.model_dump(include={"prompt", "seed", "steps", "guidance_scale"})
    return {**told, "size": config.data.size, "base": config.target.base}


def check_made_alike(folder: Path, ours: dict[str, Any], *, beside_new: bool) -> None:
    """Raise ArgumentError where the pictures that are there were drawn otherwise.

    beside_new : more are to be drawn, so that the model must be the same too; it may have moved
    """
    path = folder / NOTES
    if not path.is_file():
        return
    theirs = read_json(path, RUN("note of class pictures"))
    keys = [key for key in ours if beside_new or key != "base"]
    changes = [f"{k}: {theirs.get(k)!r} -> {ours[k]!r}" for k in keys if theirs.get(k) != ours[k]]
    if changes:
        raise ArgumentError(
            f"The class pictures in {folder} were drawn otherwise ({'; '.join(changes)}): remove "
            "that folder to have them drawn anew, or name another with prior.folder."
        )
