"""Drawing the missing class pictures of DreamBooth before the first step."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image

from t2i.atomic_files import write_atomically
from t2i.errors import ArgumentError
from t2i.pictures import save_picture
from t2i.run_folder import StopSignalHandler
from t2i.safe_reading import RUN_FILE_KIND, read_json
from t2i.terminal import print_note_to_stderr
from train.config.run_config import RunConfig
from train.data.class_picture_config import PriorPreservationConfig, resolve_class_picture_folder
from train.data.sources.folder import list_picture_folder
from train.data.sources.listing import PictureListing
from train.parallel.processes import run_on_main_and_raise_on_all
from train.reporting.progress import showing_setup_progress
from train.setup.assembly import FROZEN_DTYPE_BY_PRECISION

if TYPE_CHECKING:
    from pipelines.text_to_image import TextToImagePipeline

GENERATION_SETTINGS_FILE = ".drawn.json"
"""File in their folder that notes what they were drawn with."""


@dataclass(frozen=True, slots=True)
class ClassPictureSpec:
    """Specification of DreamBooth's class pictures for a run: their folder, and the settings to
    generate them with.

    base : the model that draws them
    size : side in pixels
    dtype : type of the model's weights
    """

    prior: PriorPreservationConfig
    folder: Path
    base: str
    size: int
    dtype: torch.dtype

    def to_settings_dict(self) -> dict[str, Any]:
        """Return the settings that the class pictures depend on, as JSON data that is kept
        beside them.
        """
        keys = {"prompt", "seed", "steps", "guidance_scale"}
        return {**self.prior.model_dump(include=keys), "size": self.size, "base": self.base}


def build_class_picture_spec(config: RunConfig, out: Path) -> ClassPictureSpec | None:
    """Build the specification of the DreamBooth class pictures that a run needs: their folder and
    generation settings; None if it needs none.
    """
    if config.prior is None:
        return None
    assert config.target.kind == "finetune"
    return ClassPictureSpec(
        prior=config.prior,
        folder=resolve_class_picture_folder(config.prior, out),
        base=config.target.base,
        size=config.data.size,
        dtype=FROZEN_DTYPE_BY_PRECISION[config.train.precision],
    )


def generate_class_pictures_on_main(
    wanted: ClassPictureSpec, accelerator: Accelerator, stop: StopSignalHandler
) -> bool:
    """Generate the missing class pictures on the main process; return False if that was stopped.

    Each is written as it is finished, so that the next run continues after it. Raises
    ArgumentError for a folder whose pictures were drawn with other settings.
    """
    run_on_main_and_raise_on_all(
        accelerator, lambda: generate_missing_class_pictures(wanted, accelerator.device, stop)
    )
    stopped = gather_object([stop.wanted]) if accelerator.num_processes > 1 else [stop.wanted]
    return not any(stopped)


def generate_missing_class_pictures(
    wanted: ClassPictureSpec, device: torch.device, stop: StopSignalHandler
) -> None:
    """Generate on this process the class pictures that the folder lacks, until a stop is
    requested.
    """
    prior, folder = wanted.prior, wanted.folder
    numbers = list_missing_class_pictures(folder, prior.count)
    check_same_generation_settings(folder, wanted.to_settings_dict(), adding=bool(numbers))
    if not numbers:
        return

    # Imported here, so that a run which has its pictures starts sooner.
    from pipelines.text_to_image import TextToImagePipeline

    pipe = TextToImagePipeline.from_pretrained(wanted.base, torch_dtype=wanted.dtype).to(device)
    pipe.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]
    facts = json.dumps(wanted.to_settings_dict(), indent=1) + "\n"
    write_atomically(
        folder / GENERATION_SETTINGS_FILE, lambda part: part.write_text(facts, "utf-8")
    )
    with showing_setup_progress(
        "class pictures", prior.count, prior.count - len(numbers)
    ) as advance:
        for batch in batch_missing_class_pictures(numbers, prior):
            if stop.wanted:
                print_note_to_stderr("stopped; the same command goes on from here")
                return
            pictures = generate_class_picture_batch(pipe, prior, wanted.size, batch)
            for number in sorted({*batch} & {*numbers}):
                save_picture(
                    pictures[number - batch[0]], folder / format_class_picture_name(number)
                )
                advance(1)


def batch_missing_class_pictures(
    numbers: Sequence[int], prior: PriorPreservationConfig
) -> list[range]:
    """Group the numbers of missing class pictures into whole batches.

    A picture depends, by rounding, on the size of the batch it is drawn in.
    """
    size = prior.batch_size
    starts = dict.fromkeys(number // size * size for number in numbers)
    return [range(start, min(start + size, prior.count)) for start in starts]


def generate_class_picture_batch(
    pipe: "TextToImagePipeline", prior: PriorPreservationConfig, size: int, numbers: Sequence[int]
) -> list[Image.Image]:
    """Generate one batch of class pictures by number; picture n has the seed `prior.seed + n`."""
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


def list_missing_class_pictures(folder: Path, count: int) -> list[int]:
    """List the numbers of the class pictures to generate; pictures under other names count as
    present.
    """
    listing = list_picture_folder(folder) if folder.is_dir() else PictureListing()
    present = {Path(picture.name).name for picture in listing.pictures}
    ours = {format_class_picture_name(number) for number in range(count)} & present
    wanted = count - len(present - ours)
    return [number for number in range(wanted) if format_class_picture_name(number) not in present]


def format_class_picture_name(number: int) -> str:
    """Return the file name of a class picture."""
    return f"class-{number:05d}.png"


def check_same_generation_settings(folder: Path, ours: dict[str, Any], *, adding: bool) -> None:
    """Raise ArgumentError where the class pictures in a folder were generated with other settings.

    adding : more are to be drawn, so that the path of the model must be the same too
    """
    path = folder / GENERATION_SETTINGS_FILE
    if not path.is_file():
        return
    theirs = read_json(path, RUN_FILE_KIND.copy_with_noun("note of class pictures"))
    keys = [key for key in ours if adding or key != "base"]
    changes = [f"{k}: {theirs.get(k)!r} -> {ours[k]!r}" for k in keys if theirs.get(k) != ours[k]]
    if changes:
        raise ArgumentError(
            f"The class pictures in {folder} were drawn with other settings "
            f"({'; '.join(changes)}): remove that folder to draw them anew, or name another with "
            "prior.folder."
        )
