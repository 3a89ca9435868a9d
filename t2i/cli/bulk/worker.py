"""Execution of the jobs of a bulk run with one loaded pipeline."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from PIL.Image import Image

from t2i.atomic_files import NameTakenError
from t2i.cli.bulk.bulk_folder import BulkRunArguments
from t2i.cli.bulk.index import IndexEntry
from t2i.cli.bulk.job_files import save_or_find_conflict
from t2i.cli.bulk.jobs import Job
from t2i.cli.bulk.photo_cache import LastInvertedPhotoCache
from t2i.cli.generation.adapters import AttachedAdapters
from t2i.cli.generation.edited_images import (
    build_prompt_to_prompt_pipeline,
    choose_edits_and_add_to_request,
    generate_edited_images,
)
from t2i.cli.generation.image_generation import (
    build_named_scheduler,
    generate_image_and_fill_request,
    load_pipeline,
    read_pipeline_defaults,
    upscale_if_requested,
    warn_of_large_size,
)
from t2i.cli.generation.inspected_image import generate_and_probe, probe_photo
from t2i.cli.generation.inverted_photo import (
    copy_request_with_inversion,
    replace_auto_inversion_method,
)
from t2i.cli.generation.recorded_photo import REQUEST_NOTE_KEY, RecordedPhoto
from t2i.cli.generation.recorded_target import (
    read_recording_if_notes_match,
    record_or_read_edit_target,
)
from t2i.cli.generation.retried_image import RetriedImage, generate_with_retries, list_seeds_to_try
from t2i.cli.generation.sequential_edits import record_first_target
from t2i.cli.inspected_words import InspectOrInvertTask
from t2i.cli.metadata.writing import (
    build_metadata_texts,
    build_t2i_metadata,
    save_image_with_metadata,
)
from t2i.cli.request.edit_options import PromptLineEdit
from t2i.cli.request.request import Request
from t2i.cli.stopping import InterruptingStopHandler
from t2i.denoiser.schedulers import Scheduler, rebuild_scheduler_with_settings
from t2i.errors import OutputError
from t2i.pictures import save_picture

if TYPE_CHECKING:
    import torch

    from pipelines.prompt_to_prompt.recorded_source import RecordedSource
    from pipelines.text_to_image import TextToImagePipeline
    from t2i.attention.edits.base.edit import Edit

MAX_ERROR_LENGTH = 2_000
"""Maximum letters of an error in the index."""


@dataclass(frozen=True, slots=True)
class UnsavedJobOutput:
    """Result of a job of a bulk run: its final request, and its files to be saved.

    request : with what is known once it is done
    save : writes the files of the job to paths; None where they are written
    facts : further keys of its index entry
    """

    request: Request
    save: Callable[[Sequence[Path]], object] | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BulkWorker:
    """Loaded pipeline of one process of a bulk run, which runs jobs and saves what they make.

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
    photo_cache: LastInvertedPhotoCache = field(default_factory=LastInvertedPhotoCache)

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

    def run_job_and_build_index_entry(self, job: Job, stop: InterruptingStopHandler) -> IndexEntry:
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
                    result = self._do(job)
            except NameTakenError:  # of a recording; images are saved below
                entry |= {"request": asdict(job.request)}
                folder = self.out / (job.record or job.file_name)
                entry["error"] = _error_record(_name_taken_error(folder))
            except OutputError:
                raise
            except Exception as error:  # whatever it is, the other prompts may fare better
                entry |= {"request": asdict(job.request), "error": _error_record(error)}
                _free_memory()
            else:
                entry["request"] = asdict(result.request)
                paths = [self.out / name for name in job.file_names]
                taken = None if result.save is None else save_or_find_conflict(paths, result.save)
                if taken is None:
                    entry |= {"file": job.file_name, **result.facts}
                    entry["seconds"] = round(time.perf_counter() - start, 3)
                else:
                    entry["error"] = _error_record(_name_taken_error(taken))
        if caught:
            entry["warnings"] = list(
                dict.fromkeys(str(w.message)[:MAX_ERROR_LENGTH] for w in caught)
            )
        return entry | {"time": round(time.time(), 3)}

    def _do(self, job: Job) -> UnsavedJobOutput:
        recorded = None
        if job.recording is not None:
            recorded = self.photo_cache.get_or_read_recording(job.recording, job.request.model)
        request = job.request if recorded is None else recorded.request
        # A fresh sampler each time, so that nothing passes from one picture to the next.
        self.pipe.scheduler = build_named_scheduler(
            request.sampler, self.own_scheduler.config
        ) or rebuild_scheduler_with_settings(self.own_scheduler)
        self.adapters.switch_to_request(request)
        request = request.with_defaults(read_pipeline_defaults(self.pipe, request))
        warn_of_large_size(self.pipe, request)
        if job.reading is not None and job.reading.task == "invert":
            return self._record(request, job, job.reading)
        if job.reading is not None:
            return self._inspect(request, job, job.reading, recorded)
        if job.edit is not None:
            return self._edit(request, job, job.edit, recorded)
        drawn = self._draw(request, job)
        request, seed, draws = drawn.request, drawn.seed, drawn.to_json()
        image = upscale_if_requested(self.pipe, request, seed, drawn.image, show_progress=False)
        return self._image_result(request, seed, image, draws)

    def _draw(self, request: Request, job: Job) -> RetriedImage:
        """Draw the image of a line, and further ones if its "retry" asks for it."""
        if job.retry is None:
            request, image = generate_image_and_fill_request(
                self.pipe, request, job.seed, show_progress=False
            )
            return RetriedImage(request, image, job.seed)
        seeds = list_seeds_to_try(job.seed, job.retry, job.retry_stride)
        return generate_with_retries(self.pipe, request, seeds, job.retry, show_progress=False)

    def _image_result(
        self,
        request: Request,
        seed: int,
        image: Image,
        draws: Sequence[Mapping[str, object]] | None = None,
    ) -> UnsavedJobOutput:
        text = self._metadata_texts(request, seed, draws)
        return UnsavedJobOutput(
            request,
            lambda paths: save_image_with_metadata(image, text, paths[0]),
            {} if draws is None else {"seed": seed, "draws": draws},
        )

    def _metadata_texts(
        self, request: Request, seed: int, draws: Sequence[Mapping[str, object]] | None = None
    ) -> dict[str, str] | None:
        if not self.write_metadata:
            return None
        return build_metadata_texts(request, seed, self.model_digest, draws=draws)

    def _inspect(
        self, request: Request, job: Job, task: InspectOrInvertTask, recorded: RecordedPhoto | None
    ) -> UnsavedJobOutput:
        """Read the heat maps of a line's image, photo or recording."""
        seed = job.seed if recorded is None else recorded.seed
        words, keep_steps = task.words or (), task.animate
        if request.inversion is None:
            inspected = generate_and_probe(
                self.pipe, request, words, seed, show_progress=False, keep_steps=keep_steps
            )
        else:
            inspected = probe_photo(
                self.pipe,
                request,
                words,
                lambda _: self._get_photo_source(request, job, recorded),
                keep_steps=keep_steps,
            )
        text = self._metadata_texts(inspected.request, seed)

        def save(paths: Sequence[Path]) -> None:
            save_picture(inspected.build_strip(), paths[0], text)
            inspected.maps.save(paths[1])
            extras = [inspected.save_segmentation] * task.segment
            extras += [inspected.save_step_animation] * task.animate
            for save_extra, path in zip(extras, paths[2:], strict=True):
                save_extra(path)

        facts = {"maps": job.file_names[1], "words": inspected.compute_word_stats(), "seed": seed}
        return UnsavedJobOutput(inspected.request, save, facts)

    def _get_photo_source(
        self,
        request: Request,
        job: Job,
        recorded: RecordedPhoto | None,
        for_edits: "Sequence[Edit]" = (),
    ) -> "RecordedSource":
        """Return the recorded source of a line's photo, inverted unless it is recorded."""
        if recorded is not None:
            return recorded.source
        return self.photo_cache.get_or_invert_source(
            *(self.pipe, request, job.seed), budget_bytes=job.budget_bytes, for_edits=for_edits
        )

    def _record(self, request: Request, job: Job, task: InspectOrInvertTask) -> UnsavedJobOutput:
        """Invert a line's photo and record it in its folder, unless a killed run has done it.

        Raises NameTakenError for a folder that has anything but this recording.
        """
        folder = self.out / job.file_name
        notes = {REQUEST_NOTE_KEY: build_t2i_metadata(request, job.seed, self.model_digest)}
        source = read_recording_if_notes_match(folder, notes)
        if source is None:
            source = self.photo_cache.get_or_invert_source(
                *(self.pipe, request, job.seed),
                budget_bytes=job.budget_bytes,
                folder=folder,
                notes=notes,
                for_edits=task.list_edits_to_record_for(),
            )
        return UnsavedJobOutput(copy_request_with_inversion(request, source))

    def _edit(
        self, request: Request, job: Job, edit: PromptLineEdit, recorded: RecordedPhoto | None
    ) -> UnsavedJobOutput:
        """Generate the target of a line's edit and record it if asked; lines share an inversion."""
        source, target, seed = None, job.request.prompt, job.seed
        options = edit.options.to_word_edit_options()
        if recorded is not None:
            source, seed = recorded.source, recorded.seed
        elif request.inversion is not None:
            request = replace_auto_inversion_method(
                self.pipe,
                request,
                pairwise([*edit.chained_source_prompts, target]),
                options.weights,
            )
            first = replace(request, prompt=edit.chained_source_prompts[0])
            for_edits = options.list_edits_to_record_for()
            source = self._get_photo_source(first, job, None, () if edit.earlier else for_edits)
            request, source = self._edit_earlier(request, edit, source, for_edits)
        before = request.prompt if edit.source is None else edit.source
        request, _ = choose_edits_and_add_to_request(
            self.pipe, request, [before, target], options, source
        )
        if job.record is None:
            generated = generate_edited_images(
                self.pipe, request, seed, show_progress=False, source=source
            )
        else:
            assert source is not None
            generated = record_or_read_edit_target(
                *(self.pipe, request, seed, source, self.out / job.record),
                model_digest=self.model_digest,
                budget_bytes=job.budget_bytes,
                show_progress=False,
            )
        made = self._image_result(generated.get_request(1), seed, generated.build_image_to_save(1))
        recording = {} if job.record is None else {"recorded": job.record}
        return replace(made, facts={"seed": seed, **recording})

    def _edit_earlier(
        self,
        request: Request,
        edit: PromptLineEdit,
        source: "RecordedSource",
        for_edits: "Sequence[Edit]",
    ) -> "tuple[Request, RecordedSource]":
        """Make the earlier edits of a line's photo, one upon the other; the last is recorded for
        the line's own edits.

        Returns the request with the last of them, and its target as the source of the line's edit.
        """
        from pipelines.prompt_to_prompt.automatic_edits import WordEditOptions

        editor = build_prompt_to_prompt_pipeline(self.pipe)
        pairs = [*pairwise(edit.chained_source_prompts)]
        for pair in pairs:
            request, _ = choose_edits_and_add_to_request(
                self.pipe, request, pair, WordEditOptions(), source
            )
            read = for_edits if pair is pairs[-1] else ()
            source = record_first_target(
                editor, request, source, show_progress=False, for_edits=read
            )
        return request, source


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
