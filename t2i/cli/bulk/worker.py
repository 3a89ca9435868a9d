"""Execution of the jobs of a bulk run with one loaded pipeline."""

import filecmp
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from PIL.Image import Image

from t2i.atomic_files import NameTakenError, build_write_error, write_new_file
from t2i.cli.bulk.bulk_folder import BulkRunArguments
from t2i.cli.bulk.index import IndexEntry
from t2i.cli.bulk.jobs import Job
from t2i.cli.bulk.photo_cache import InvertedPhotoCache
from t2i.cli.generation.adapters import AttachedAdapters
from t2i.cli.generation.edited_images import (
    build_prompt_to_prompt_pipeline,
    choose_request_edits,
    generate_edited_images,
)
from t2i.cli.generation.image_generation import (
    build_named_scheduler,
    generate_image,
    load_pipeline,
    read_pipeline_defaults,
    upscale_if_requested,
    warn_of_large_size,
)
from t2i.cli.generation.inverted_photo import choose_inversion_method
from t2i.cli.generation.sequential_edits import record_edit
from t2i.cli.metadata.writing import build_metadata_texts, save_image_with_metadata
from t2i.cli.request.edit_options import PromptLineEdit
from t2i.cli.request.request import Request
from t2i.cli.stopping import InterruptingStopHandler
from t2i.denoiser.schedulers import Scheduler, rebuild_scheduler
from t2i.errors import OutputError

if TYPE_CHECKING:
    import torch

    from pipelines.prompt_to_prompt.recorded_source import RecordedSource
    from pipelines.text_to_image import TextToImagePipeline

MAX_ERROR_LENGTH = 2_000
"""Maximum letters of an error in the index."""


@dataclass(frozen=True, slots=True)
class BulkWorker:
    """Loaded pipeline of one process of a bulk run, which runs jobs and saves their images.

    own_scheduler : the model's, for requests that name no sampler
    model_digest : SHA-256 in hex, written into the metadata
    write_metadata : whether to write into an image how it was made
    """

    pipe: "TextToImagePipeline"
    adapters: AttachedAdapters
    own_scheduler: Scheduler
    model_digest: str
    out: Path
    write_metadata: bool
    photo_cache: InvertedPhotoCache = field(default_factory=InvertedPhotoCache)

    @classmethod
    def load(
        cls, model: Path, model_digest: str, bulk: BulkRunArguments, device: "torch.device"
    ) -> "BulkWorker":
        """Load the model of a bulk run onto a device, as a worker of this process."""
        pipe = load_pipeline(model, None, device)
        return cls(
            pipe,
            AttachedAdapters(pipe),
            pipe.scheduler,
            model_digest,
            bulk.out,
            bulk.write_metadata,
        )

    def run_job(self, job: Job, stop: InterruptingStopHandler) -> IndexEntry:
        """Generate and save a job's image; return its index entry, with the file or the error.

        Raises OutputError where the folder takes no image: that is not the fault of one job.
        """
        entry: IndexEntry = {"job": job.index, "line": job.line_number, "seed": job.seed}
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            try:
                with stop.interruptible():
                    request, picture = self._draw(job)
            except Exception as error:  # whatever it is, the other prompts may fare better
                entry |= {"request": asdict(job.request), "error": _error_record(error)}
                _free_memory()
            else:
                entry["request"] = asdict(request)
                text = (
                    build_metadata_texts(request, job.seed, self.model_digest)
                    if self.write_metadata
                    else None
                )
                if _save_new_image(picture, self.out / job.file_name, text):
                    entry |= {
                        "file": job.file_name,
                        "seconds": round(time.perf_counter() - start, 3),
                    }
                else:
                    entry["error"] = _error_record(_name_taken_error(self.out / job.file_name))
        if caught:
            entry["warnings"] = list(
                dict.fromkeys(str(w.message)[:MAX_ERROR_LENGTH] for w in caught)
            )
        return entry | {"time": round(time.time(), 3)}

    def _draw(self, job: Job) -> tuple[Request, Image]:
        request, seed = job.request, job.seed
        # A fresh sampler each time, so that nothing passes from one picture to the next.
        self.pipe.scheduler = build_named_scheduler(
            request.sampler, self.own_scheduler.config
        ) or rebuild_scheduler(self.own_scheduler)
        self.adapters.switch_to_request(request)
        request = request.with_defaults(read_pipeline_defaults(self.pipe, request))
        warn_of_large_size(self.pipe, request)
        if job.edit is not None:
            return self._edit(request, job.edit, seed)
        request, picture = generate_image(self.pipe, request, seed, show_progress=False)
        return request, upscale_if_requested(self.pipe, request, seed, picture, show_progress=False)

    def _edit(self, request: Request, edit: PromptLineEdit, seed: int) -> tuple[Request, Image]:
        """Generate the target of a line's edit; a photo is inverted once for lines in a row."""
        source, target = None, request.prompt
        if request.inversion is not None:
            request = choose_inversion_method(
                self.pipe,
                request,
                pairwise([*edit.sources, target]),
                edit.options.to_word_edit_options().weights,
            )
            first = replace(request, prompt=edit.sources[0])
            source = self.photo_cache.get_source(self.pipe, first, seed)
            request, source = self._edit_earlier(request, edit, source)
        request, _ = choose_request_edits(
            self.pipe, request, [edit.source, target], edit.options.to_word_edit_options(), source
        )
        generated = generate_edited_images(
            self.pipe, request, seed, show_progress=False, source=source
        )
        return generated.get_request(1), generated.get_output_image(1)

    def _edit_earlier(
        self, request: Request, edit: PromptLineEdit, source: "RecordedSource"
    ) -> "tuple[Request, RecordedSource]":
        """Make the earlier edits of a line's photo, one upon the other.

        Returns the request with the last of them, and its target as the source of the line's edit.
        """
        from pipelines.prompt_to_prompt.automatic_edits import WordEditOptions

        editor = build_prompt_to_prompt_pipeline(self.pipe)
        for pair in pairwise(edit.sources):
            request, _ = choose_request_edits(self.pipe, request, pair, WordEditOptions(), source)
            source = record_edit(editor, request, source, show_progress=False)
        return request, source


def _save_new_image(picture: Image, path: Path, text: Mapping[str, str] | None) -> bool:
    """Save the image unless its file exists; return whether the file holds this image now.

    It does too after a kill between image and index. Another file of that name is left alone.
    """
    try:
        write_new_file(path, partial(save_image_with_metadata, picture, text))
    except NameTakenError:
        pass
    else:
        return True
    again = path.with_name(f".again-{path.name}")
    try:
        save_image_with_metadata(picture, text, again)
        return filecmp.cmp(path, again, shallow=False)
    except OSError as error:
        raise build_write_error(path, error) from error
    finally:
        again.unlink(missing_ok=True)


def _name_taken_error(path: Path) -> OutputError:
    return OutputError(
        f"{path} exists, differs from the picture of this line, and is not replaced: "
        "move it elsewhere."
    )


def _error_record(error: Exception) -> dict[str, str]:
    return {"type": type(error).__name__, "message": str(error)[:MAX_ERROR_LENGTH]}


def _free_memory() -> None:
    """Free cached device memory after a failed job, for the next one."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
