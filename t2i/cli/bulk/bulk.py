"""`t2i generate --prompts`: the images of a file, on one process or several, begun or continued.

The main process reads the file and the folder and sends all processes the list of missing images;
each makes every N-th of them. From then on they communicate through the folder alone: each appends
to its own part of the index, and the main process watches the parts grow.
"""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from t2i.cli.bulk.bulk_folder import STATE_FILE, BulkFolder, BulkRunArguments, PendingJobs
from t2i.cli.bulk.index import INDEX_FILE, FinishedJobCounter, IndexPartWriter, merge_index_parts
from t2i.cli.bulk.jobs import Job
from t2i.cli.bulk.prompt_line import PromptLine
from t2i.cli.generation.image_generation import build_named_scheduler
from t2i.cli.generation.retried_image import (
    check_can_retry,
    check_retry_words,
    read_presence_file,
    require_presence_fit,
)
from t2i.cli.output import print_json, print_remark
from t2i.cli.processes import distributed_process_group, run_in_main_and_broadcast
from t2i.cli.prompt_checks.caption_vocabulary import read_caption_vocabulary
from t2i.cli.prompt_checks.prompt_checks import find_prompts_file_warnings
from t2i.cli.request.digests import compute_model_digest
from t2i.cli.stopping import InterruptingStopHandler, SignalInterrupt
from t2i.errors import ArgumentError, DataError, ModelError, OutputError
from t2i.library_messages import quieting_libraries
from t2i.run_folder import locking_folder
from t2i.terminal import print_result_line

if TYPE_CHECKING:
    from accelerate import PartialState

    from t2i.attention.probes.presence import PresenceFit
    from t2i.cli.bulk.worker import BulkWorker

POLL_INTERVAL = 0.5
"""Seconds between two reads of the index parts of other processes."""
SHARED_FOLDER_CHECK_TIMEOUT = 30.0
"""Seconds that a process waits for a file of the main process before it reports that the two do not
write to the same folder."""


@dataclass(frozen=True, slots=True)
class ProcessJobAssignment:
    """Jobs that one process of a bulk run does, and the worker with the pipeline for them.

    distributed_state : rank, number of processes and device of this process
    pending : missing images of all processes
    jobs : those of this process
    worker : None without jobs
    """

    distributed_state: "PartialState"
    pending: PendingJobs
    jobs: list[Job]
    worker: "BulkWorker | None"


def run_bulk(bulk: BulkRunArguments, lines: Sequence[PromptLine], *, as_json: bool) -> None:
    """Generate the missing images of a bulk run and print a summary.

    lines : of the prompts file; only the main process needs them
    """
    with InterruptingStopHandler() as stop, ExitStack() as held:
        try:
            with stop.interruptible():
                work = _load_process_work(bulk, lines, held)
        except SignalInterrupt as stopped:
            print_remark("Interrupted before the first picture.")
            raise typer.Exit(stopped.exit_code) from None

        state, pending = work.distributed_state, work.pending
        warnings = _print_line_warnings(bulk, lines) if state.is_main_process else []
        counter = FinishedJobCounter(bulk.out, state.num_processes)
        interrupted: SignalInterrupt | None = None
        try:
            _run_jobs(bulk, work, counter, stop)
        except SignalInterrupt as stopped:
            interrupted = stopped
        if state.is_main_process:
            counter.update()
            if interrupted is None or state.num_processes == 1:
                failed = [
                    entry for entry in merge_index_parts(bulk.out).values() if "error" in entry
                ]
            else:
                failed = []  # others may still be writing: the next start puts the parts together
            document: dict[str, object] = {
                "index": str(bulk.out / INDEX_FILE),
                "pictures": pending.num_images,
                "made": counter.num_generated,
                "made_before": pending.num_images - len(pending.jobs),
                "failed": counter.num_failed,
                "interrupted": interrupted is not None,
                "warnings": warnings,
            }
            if as_json:
                print_json(document)
            else:
                print_remark(_format_summary(pending, counter, interrupted is not None))
                for entry in failed[:3]:
                    print_remark(f"{bulk.prompts}:{entry['line']}: {entry['error']['message']}")
                print_result_line(document["index"])
        if interrupted is not None:
            raise typer.Exit(interrupted.exit_code)
        if state.is_main_process and counter.num_failed:
            raise typer.Exit(1)


def _print_line_warnings(bulk: BulkRunArguments, lines: Sequence[PromptLine]) -> list[str]:
    """Print and return the warnings about prompts that may not be meant as written."""
    from t2i.denoiser.loading.model_location import locate_model

    model = bulk.options.model
    requests = ((line.number, line.to_request(bulk.options)) for line in lines)
    warnings = find_prompts_file_warnings(
        bulk.prompts, requests, model, read_caption_vocabulary(locate_model(model))
    )
    for warning in warnings:
        print_remark(f"Warning: {warning}")
    return warnings


def _format_summary(pending: PendingJobs, counter: FinishedJobCounter, interrupted: bool) -> str:
    before = pending.num_images - len(pending.jobs)
    counts = (
        f"{counter.num_generated} made, {before} made before, {counter.num_failed} failed, "
        f"of {pending.num_images}."
    )
    if interrupted:
        return f"Interrupted: {counts} The same command continues."
    if counter.num_failed:
        return f"{counts} The index says why; the same command tries them again."
    return counts


def _load_process_work(
    bulk: BulkRunArguments, lines: Sequence[PromptLine], held: ExitStack
) -> ProcessJobAssignment:
    """Agree with the other processes on the missing images, and load the pipeline."""
    held.enter_context(quieting_libraries())
    state = held.enter_context(distributed_process_group())
    pending = run_in_main_and_broadcast(state, lambda: _lock_and_plan(bulk, lines, held))
    jobs = pending.jobs[state.process_index :: state.num_processes]
    if not jobs:
        return ProcessJobAssignment(state, pending, jobs, None)

    from t2i.cli.bulk.worker import BulkWorker
    from t2i.denoiser.loading.model_location import locate_model

    if not state.is_main_process:
        _check_folder_is_shared(bulk.out)
    model = locate_model(bulk.options.model)
    if state.is_local_main_process and not state.is_main_process:
        _check_same_model(model, pending.model_digest)
    worker = BulkWorker.load(model, pending.model_digest, bulk, state.device)
    if any(job.retry is not None for job in pending.jobs):
        require_presence_fit(worker.pipe)
    return ProcessJobAssignment(state, pending, jobs, worker)


def _lock_and_plan(
    bulk: BulkRunArguments, lines: Sequence[PromptLine], held: ExitStack
) -> PendingJobs:
    """Check the whole run, then lock the folder until `held` is closed."""
    from t2i.denoiser.loading.model_location import locate_model

    model = locate_model(bulk.options.model)
    folder = BulkFolder(bulk, lines, model)
    _check_samplers(bulk.prompts, folder.jobs, model)
    _check_retries(bulk.prompts, folder.jobs, model)
    held.enter_context(locking_folder(bulk.out))
    for change in folder.list_changed_libraries():
        print_remark(f"Warning: since the first pictures {change}: the others may differ slightly.")
    return folder.record_run_and_list_pending_jobs()


def _check_samplers(path: Path, jobs: Sequence[Job], model: Path) -> None:
    """Raise DataError for an unknown sampler before the weights are read.

    Faults that only a run shows are recorded with their image.
    """
    from t2i.denoiser.loading.weight_checks import read_json_object

    config = (
        {} if model.is_file() else read_json_object(model / "scheduler" / "scheduler_config.json")
    )
    lines: dict[str, int] = {}
    for job in jobs:
        if job.request.sampler is not None:
            lines.setdefault(job.request.sampler, job.line_number)
    for sampler, line in lines.items():
        try:
            build_named_scheduler(sampler, config)
        except ArgumentError as error:
            raise DataError(f"{path}:{line}: {error}") from error


def _check_retries(path: Path, jobs: Sequence[Job], model: Path) -> None:
    """Raise ModelError for retries with a model that has no presence fit, DataError for a line
    whose image or words of retries cannot be judged by it, before anything is written.
    """
    retry_by_line = {job.line_number: (job.request, job.retry) for job in jobs}
    fit: PresenceFit | None = None
    for line, (request, retry) in retry_by_line.items():
        if retry is None:
            continue
        fit = fit or read_presence_file(model)
        try:
            check_can_retry(request)
            check_retry_words(request, retry, fit)
        except ArgumentError as error:
            raise DataError(f"{path}:{line}: {error}") from error


def _check_folder_is_shared(out: Path) -> None:
    waited = time.monotonic() + SHARED_FOLDER_CHECK_TIMEOUT
    while not (out / STATE_FILE).is_file():
        if time.monotonic() > waited:
            raise OutputError(
                f"{out} is not the folder that the main process writes to: name one that every "
                "machine has mounted at the same place."
            )
        time.sleep(POLL_INTERVAL)


def _check_same_model(model: Path, model_digest: str) -> None:
    if compute_model_digest(model) != model_digest:
        raise ModelError(
            f"{model} on this machine is not the model of the main process: their weights or "
            "configs differ. Copy it from there, or give one that every machine has mounted."
        )


def _run_jobs(
    bulk: BulkRunArguments,
    work: ProcessJobAssignment,
    counter: FinishedJobCounter,
    stop: InterruptingStopHandler,
) -> None:
    """Run the jobs of this process; the main process then waits for those of the others."""
    from t2i.cli.bulk.progress import showing_bulk_progress

    state, pending = work.distributed_state, work.pending
    watched = state.is_main_process and sys.stderr.isatty()
    with showing_bulk_progress(pending, counter, watched) as update:
        if work.worker is not None:
            with closing(IndexPartWriter(bulk.out, state.process_index)) as part:
                for job in work.jobs:
                    part.append_entry(work.worker.run_job_and_build_index_entry(job, stop))
                    update()
        while state.is_main_process and counter.num_finished < len(pending.jobs):
            counter.update()
            update()
            with stop.interruptible():
                time.sleep(POLL_INTERVAL if counter.num_finished < len(pending.jobs) else 0)
