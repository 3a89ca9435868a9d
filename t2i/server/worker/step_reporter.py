"""Step callback of a worker's runs: reports progress and previews, and stops a cancelled job.

B images, C channels, H W latent size.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from t2i.conditioning.run_state import RunState
from t2i.server.jobs.job import JobProgress
from t2i.server.jobs.worker_job import PreviewMessage, Report
from t2i.server.worker.model_cache import LoadedModel
from t2i.server.worker.previews import (
    PreviewBudget,
    compute_clean_latents_from_latent_pair,
    encode_png_base64,
)


@dataclass(slots=True)
class StepReporter:
    """Step callback that reports the steps of a job's runs, one run for each of its images.

    keep_steps : keep the latents of each step, and the clean ones that it predicts, on the CPU
    """

    report: Report
    budget: PreviewBudget
    keep_steps: bool = False
    latents: list[Tensor] = field(default_factory=list)
    clean_latents: list[Tensor] = field(default_factory=list)
    _pipe: Any = None
    _model: LoadedModel | None = None
    _run: int = 0
    _runs: int = 1
    _started: float = field(default_factory=time.perf_counter)
    _before: Tensor | None = None

    @contextmanager
    def reporting_steps(
        self, pipe: Any, model: LoadedModel, run: int = 0, runs: int = 1
    ) -> Iterator[None]:
        """Report the steps of a pipeline's calls within the block, as run number `run` of `runs` of
        the job.
        """
        self._pipe, self._model, self._run, self._runs = pipe, model, run, runs
        pipe.step_callbacks.append(self)
        try:
            yield
        finally:
            pipe.step_callbacks.remove(self)

    def before_pass(self, run: RunState) -> None:
        """Store the latents that this step starts from, for its preview."""
        self._before = run.latents_BCHW

    def after_step(self, run: RunState) -> None:
        """Report the step, and a preview where its time allows one. Raises JobCancelledError."""
        done = self._run * run.num_steps + run.step + 1
        steps = self._runs * run.num_steps
        seconds = (time.perf_counter() - self._started) / done * (steps - done)
        self.report(JobProgress(done, steps, round(seconds, 3)))
        if self.keep_steps:
            self.latents.append(run.latents_BCHW.detach().float().cpu())
            self.clean_latents.append(self._predict_clean(run).detach().float().cpu())
        if self.budget.allows_preview(done, steps):
            self._send_preview(run, done)

    def _send_preview(self, run: RunState, done: int) -> None:
        assert self._model is not None
        started = time.perf_counter()
        image = self._model.projection.render(self._predict_clean(run)[-1])
        self.report(PreviewMessage(done, encode_png_base64(image)))
        self.budget.add(time.perf_counter() - started)

    def _predict_clean(self, run: RunState) -> Tensor:
        assert self._before is not None
        is_last = run.step + 1 == run.num_steps
        following = None if is_last else float(run.timesteps[run.step + 1])
        return compute_clean_latents_from_latent_pair(
            self._pipe.scheduler, self._before, run.latents_BCHW, float(run.timestep), following
        )
