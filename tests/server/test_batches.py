"""Jobs that are drawn together: each keeps its own picture, metadata, progress and end."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t2i.server.jobs.job import Job, JobCancelledError, JobProgress, JobResult
from t2i.server.jobs.job_request import EditRequest, GenerateRequest
from t2i.server.jobs.worker_job import FailureMessage, JobOutcome, PreviewMessage, WorkerJobInputs
from t2i.server.settings import WorkerSettings
from t2i.server.worker import job_worker
from t2i.server.worker.job_worker import JobWorker
from tests.server.jobs_alone import ServerJobs
from tests.server.servers import fork_server
from tests.server.test_ends import interrupt_twice, wait_until_running

PROMPTS = "a cat", "a (red:1.3) apple", "[a dog:a rocket:0.5] on a blue background"
STEPS = 4
SMALL = {"width": 64, "height": 64}


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[ServerJobs]:
    """The jobs of a server that draws up to three together."""
    made = ServerJobs(folder=tmp_path / "served", batch=3)
    yield made
    made.state.close()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> JobWorker:
    made = ServerJobs(folder=tmp_path_factory.mktemp("models"))
    models = made.state.catalogue.models
    made.state.close()
    return JobWorker(WorkerSettings(models=models, preview_share=0.5))


def submit(jobs: ServerJobs, prompt: str = "a cat", **settings: Any) -> Job:
    return jobs.service.submit("generate", GenerateRequest(prompt=prompt, **settings), "")


def take(jobs: ServerJobs) -> list[str]:
    return [job.id for job in jobs.dispatcher.take_batch(0)]


def test_jobs_of_equal_settings_are_taken_together_and_the_oldest_is_never_passed_over(
    jobs: ServerJobs,
) -> None:
    first = submit(jobs, steps=2)
    other = submit(jobs, steps=3)
    second = submit(jobs, "a dog", negative_prompt="a cat", seed=5, steps=2)
    left = submit(jobs, steps=2)
    jobs.service.cancel(left.id, "")
    third, fourth = submit(jobs, steps=2), submit(jobs, steps=2)
    assert take(jobs) == [first.id, second.id, third.id]
    assert take(jobs) == [other.id]
    assert take(jobs) == [fourth.id]
    assert take(jobs) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"num": 2},
        {"words_maps": True},
        {"map_steps": True},
        {"upscale": 2},
        {"prompt": "a AND b"},
        {"regions": [{"words": "cat", "box": [0, 0, 1, 0.5]}]},
    ],
)
def test_what_no_batch_can_draw_is_drawn_alone(jobs: ServerJobs, settings: dict[str, Any]) -> None:
    every = [submit(jobs, **settings) for _ in range(2)]
    assert [take(jobs), take(jobs)] == [[job.id] for job in every]


def test_images_that_read_a_reference_picture_are_drawn_alone(jobs: ServerJobs) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    upload = jobs.state.uploads.add(stream.getvalue(), "look.png", "")
    every = [submit(jobs, reference={"image": upload.id}) for _ in range(2)]
    assert [take(jobs), take(jobs)] == [[job.id] for job in every]


def test_edits_are_drawn_alone(jobs: ServerJobs) -> None:
    request = EditRequest(source_prompt="a cat", targets=["a dog"])
    every = [jobs.service.submit("edit", request, "") for _ in range(2)]
    assert [take(jobs), take(jobs)] == [[job.id] for job in every]


def test_without_the_choice_every_job_is_drawn_alone(tmp_path: Path) -> None:
    alone = ServerJobs(folder=tmp_path / "served")
    every = [submit(alone) for _ in range(2)]
    assert [take(alone), take(alone)] == [[job.id] for job in every]
    alone.state.close()


def test_jobs_whose_worker_ended_are_tried_again_alone(jobs: ServerJobs) -> None:
    every = [submit(jobs) for _ in range(2)]
    for job in jobs.dispatcher.take_batch(0):
        jobs.dispatcher.requeue_or_fail_interrupted_job(job, "by signal 9")
    assert [take(jobs), take(jobs)] == [[job.id] for job in every]


class Heard:
    """What a worker reports of its jobs; those of `cancelled` are cancelled at their first step."""

    def __init__(self, given: list[WorkerJobInputs], cancelled: tuple[int, ...] = ()) -> None:
        self.steps: list[list[int]] = [[] for _ in given]
        self.previews: list[set[str]] = [set() for _ in given]
        self.ends: dict[int, JobOutcome] = {}
        self.reports = [self.make_report(n, n in cancelled) for n in range(len(given))]

    def make_report(self, number: int, cancelled: bool) -> Any:
        def report(message: JobProgress | PreviewMessage) -> None:
            if cancelled:
                raise JobCancelledError("The job was cancelled.")
            if isinstance(message, JobProgress):
                self.steps[number].append(message.step)
            else:
                self.previews[number].add(message.png)

        return report

    def end(self, number: int, outcome: JobOutcome) -> None:
        assert number not in self.ends
        self.ends[number] = outcome


def prepare(jobs: ServerJobs, prompts: tuple[str, ...] = PROMPTS) -> list[WorkerJobInputs]:
    for seed, prompt in enumerate(prompts):
        asked = {"negative_prompt": f"a bird {seed}", "seed": seed, "steps": STEPS, **SMALL}
        submit(jobs, prompt, **asked)
    prepared = [jobs.dispatcher.build_worker_job(job) for job in jobs.dispatcher.take_batch(0)]
    return [job for job in prepared if job is not None]


def read(job: WorkerJobInputs, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    image = Image.open(io.BytesIO((job.folder / f"seed-{seed}.png").read_bytes()))
    return np.asarray(image).astype(int), image.info


def test_each_job_of_a_batch_has_its_picture_metadata_and_progress(
    jobs: ServerJobs, worker: JobWorker
) -> None:
    given = prepare(jobs)
    heard = Heard(given)
    worker.run_jobs_as_batch(given, heard.reports, heard.end)
    together = [read(job, seed) for seed, job in enumerate(given)]
    for seed, job in enumerate(given):
        assert heard.steps[seed] == [1, 2, 3, 4]
        assert heard.previews[seed]
        outcome = heard.ends[seed]
        assert isinstance(outcome, JobResult)
        assert [(file.name, file.seed) for file in outcome.files] == [(f"seed-{seed}.png", seed)]
        assert outcome.data["drawn_together"] == 3
        assert outcome.data["request"]["prompt"] == PROMPTS[seed]
        (job.folder / f"seed-{seed}.png").unlink()
        alone = worker.run_job(job, lambda _message: None)
        assert isinstance(alone, JobResult)
        pixels, texts = read(job, seed)
        # Rounding alone: another batch size is another order of sums.
        assert np.abs(together[seed][0] - pixels).max() <= 2
        assert together[seed][1] == texts
    assert not heard.previews[0] & heard.previews[1]


def test_a_cancelled_job_of_a_batch_ends_at_once_and_the_others_are_drawn(
    jobs: ServerJobs, worker: JobWorker
) -> None:
    given = prepare(jobs)
    heard = Heard(given, cancelled=(1,))
    worker.run_jobs_as_batch(given, heard.reports, heard.end)
    assert list(heard.ends) == [1, 0, 2]
    assert heard.ends[1] == "cancelled"
    assert isinstance(heard.ends[0], JobResult)
    assert not list(given[1].folder.iterdir())


def test_a_batch_whose_jobs_are_all_cancelled_stops(jobs: ServerJobs, worker: JobWorker) -> None:
    given = prepare(jobs)
    heard = Heard(given, cancelled=(0, 1, 2))
    worker.run_jobs_as_batch(given, heard.reports, heard.end)
    assert heard.ends == dict.fromkeys(range(3), "cancelled")
    assert worker.models.get_or_load("embedded").pipe.step_callbacks == []


def test_where_a_batch_fails_each_job_is_run_alone(
    jobs: ServerJobs, worker: JobWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = prepare(jobs)
    draw = job_worker.run_batch

    def fail(*arguments: Any) -> Any:
        draw(*arguments)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(job_worker, "run_batch", fail)
    heard = Heard(given)
    worker.run_jobs_as_batch(given, heard.reports, heard.end)
    assert sorted(heard.ends) == [0, 1, 2]
    assert not any(isinstance(end, FailureMessage) for end in heard.ends.values())
    read(given[2], 2)


@pytest.mark.slow
@pytest.mark.timeout(600)  # it starts a server of its own
def test_a_server_draws_what_waits_together_and_told_twice_to_stop_it_ends_at_once(
    tmp_path: Path,
) -> None:
    with fork_server(tmp_path / "served", "--batch", "3") as server:
        first = server.submit("generate", prompt="a cat", steps=20, seed=0, **SMALL)
        wait_until_running(server, first["id"])
        waiting = [
            server.submit("generate", prompt=prompt, steps=STEPS, seed=seed, **SMALL)["id"]
            for seed, prompt in enumerate(PROMPTS)
        ]
        results = [server.wait(job_id) for job_id in waiting]
        for seed, job in enumerate(results):
            assert job["state"] == "done", job["error"]
            assert job["result"]["data"]["drawn_together"] == 3
            data = server.file(job, f"seed-{seed}.png")
            assert f"Seed: {seed}" in Image.open(io.BytesIO(data)).info["parameters"]
        assert server.wait(first["id"])["state"] == "done"
        interrupt_twice(server)
