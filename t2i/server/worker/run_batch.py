"""Running of jobs together in one batch: each has its own image, progress, end and files.

B images, C channels, H W latent size.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from t2i.cli.generation.call_arguments import (
    build_sampling_and_control_arguments,
    build_size_and_image_arguments,
)
from t2i.cli.request.request import Request
from t2i.conditioning.run_state import RunState
from t2i.library_messages import quieting_libraries
from t2i.server.jobs.job import JobCancelledError, JobProgress, JobResult
from t2i.server.jobs.worker_job import PreviewMessage, Report, WorkerJobInputs
from t2i.server.worker.job_run import JobRun, collecting_warnings
from t2i.server.worker.model_cache import LoadedModel, ModelCache
from t2i.server.worker.previews import (
    PreviewBudget,
    compute_clean_latents_from_latent_pair,
    encode_png_base64,
)
from t2i.server.worker.step_reporter import StepReporter


@dataclass(slots=True)
class BatchReporter:
    """Step callback that reports the steps of a batch to each of its jobs, an image each.

    A job that was cancelled hears no more; once all were, the batch stops.

    reports : of the jobs, in the order of their images
    end : is called with the number of a job once it was cancelled
    """

    pipe: Any
    model: LoadedModel
    reports: Sequence[Report]
    end: Callable[[int], None]
    budget: PreviewBudget
    cancelled: set[int] = field(default_factory=set)
    _started: float = field(default_factory=time.perf_counter)
    _before: Tensor | None = None

    def before_pass(self, run: RunState) -> None:
        """Store the latents that this step starts from, for its previews."""
        self._before = run.latents_BCHW

    def after_step(self, run: RunState) -> None:
        """Report the step to every job, and previews where their time allows them.

        Raises JobCancelledError once every job was cancelled.
        """
        done = run.step + 1
        left = (time.perf_counter() - self._started) / done * (run.num_steps - done)
        for number in range(len(self.reports)):
            self._report(number, JobProgress(done, run.num_steps, round(left, 3)))
        if len(self.cancelled) == len(self.reports):
            raise JobCancelledError("All jobs of the batch were cancelled.")
        if self.budget.allows_preview(done, run.num_steps):
            self._send_previews(run, done)

    def _report(self, number: int, message: JobProgress | PreviewMessage) -> None:
        if number in self.cancelled:
            return
        try:
            self.reports[number](message)
        except JobCancelledError:
            self.cancelled.add(number)
            self.end(number)

    def _send_previews(self, run: RunState, done: int) -> None:
        assert self._before is not None
        started = time.perf_counter()
        following = None if done == run.num_steps else float(run.timesteps[done])
        clean_BCHW = compute_clean_latents_from_latent_pair(
            self.pipe.scheduler, self._before, run.latents_BCHW, float(run.timestep), following
        )
        for number, clean_CHW in enumerate(clean_BCHW):
            image = self.model.projection.render(clean_CHW)
            self._report(number, PreviewMessage(done, encode_png_base64(image)))
        self.budget.add(time.perf_counter() - started)


def run_batch(
    jobs: Sequence[WorkerJobInputs],
    models: ModelCache,
    reports: Sequence[Report],
    end: Callable[[int], None],
    preview_share: float,
) -> list[JobResult | None]:
    """Draw the images of jobs together, and return the result of each; None if it was cancelled.

    The jobs have one image each and equal settings, as t2i.server.jobs.batching finds them.

    Raises T2IError for what a request has caused, JobCancelledError if all were cancelled.
    """
    started = time.perf_counter()
    budget = PreviewBudget(preview_share)
    model = models.get_or_load(jobs[0].built.request.model)
    runs = [
        JobRun(job, model, StepReporter(report, budget), None)
        for job, report in zip(jobs, reports, strict=True)
    ]
    prepared = [_prepare(run) for run in runs]
    with collecting_warnings() as messages, quieting_libraries():
        reporter = BatchReporter(model.pipe, model, reports, end, budget)
        model.pipe.step_callbacks.append(reporter)
        try:
            images = generate_image_batch(
                model.pipe, [request for request, _ in prepared], [job.seeds[0] for job in jobs]
            )
        finally:
            model.pipe.step_callbacks.remove(reporter)
    results: list[JobResult | None] = []
    for number, (run, image) in enumerate(zip(runs, images, strict=True)):
        if number in reporter.cancelled:
            results.append(None)
            continue
        request, own = prepared[number]
        request = replace(request, width=image.width, height=image.height)
        (seed,) = run.job.seeds
        run.save_image(f"seed-{seed}.png", image, request, seed)
        run.data |= {
            "request": asdict(run.copy_request_with_upload_names(request)),
            "warnings": list(dict.fromkeys([*own, *messages])),
            "seconds": round(time.perf_counter() - started, 3),
            "drawn_together": len(jobs),
        }
        results.append(JobResult(tuple(run.files), run.data))
    return results


def _prepare(run: JobRun) -> tuple[Request, list[str]]:
    """Return a job's request with its defaults, and what it is warned of."""
    with collecting_warnings() as messages:
        request = run.apply_request_to_model()
    return request, messages


def generate_image_batch(
    pipe: Any, requests: Sequence[Request], seeds: Sequence[int]
) -> list[Image.Image]:
    """Generate the images of several requests of equal settings in one batch, with a seed for
    each.
    """
    first = requests[0]
    arguments = build_sampling_and_control_arguments(pipe, first, seeds[0])
    arguments |= {
        "negative_prompt": [one.parse_prompt_in_grammar(one.negative_prompt) for one in requests],
        "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
    }
    pictures: list[Image.Image] = pipe(
        prompt=[one.parse_prompt_in_grammar(one.prompt) for one in requests],
        return_dict=False,
        **arguments,
        **build_size_and_image_arguments(pipe, first),
    )[0]
    return pictures
