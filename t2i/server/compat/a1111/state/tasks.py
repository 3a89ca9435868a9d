"""Tasks of A1111's API: a request for one or several pictures, each of which is a job."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from t2i.server.jobs.job import Job

MAX_TASKS = 1000
"""Tasks that are remembered; the oldest are forgotten."""


@dataclass
class Task:
    """Task of A1111's API: one generation request of a client, with the identifiers of the jobs
    that draw its pictures.

    id : the client's name for it, or that of its first job
    interrupted, skipped : whether the client asked to stop all of it, or a picture of it
    is_answered : True once nothing of it runs or waits any more
    """

    id: str
    owner: str
    job_ids: Sequence[str]
    created: float = field(default_factory=time.time)
    interrupted: bool = False
    skipped: bool = False
    is_answered: bool = False


@dataclass(frozen=True)
class TaskProgress:
    """Progress of a task of A1111's API: its jobs, and the one of them that runs or is next.

    current : None once all are over
    """

    task: Task
    jobs: Sequence[Job]
    current: Job | None

    @property
    def num_ended_jobs(self) -> int:
        """Number of jobs of an A1111 task that have ended: done, failed or cancelled."""
        return sum(job.is_final for job in self.jobs)

    @property
    def is_running(self) -> bool:
        """True from the start of the first job of an A1111 task to the end of its last one."""
        return self.current is not None and (
            self.current.state == "running" or any(job.started is not None for job in self.jobs)
        )

    @property
    def fraction(self) -> float:
        """Part of an A1111 task that is done, from 0 to 1."""
        done = float(self.num_ended_jobs)
        if self.current is not None and self.current.progress is not None:
            done += self.current.progress.step / max(self.current.progress.steps, 1)
        return min(done / len(self.jobs), 1.0)

    @property
    def seconds_left(self) -> float:
        """Estimated seconds until an A1111 task ends; 0 while nothing is known."""
        current = self.current
        if current is None or current.progress is None:
            return 0.0
        left = current.progress.seconds_left or 0.0
        waiting = len(self.jobs) - self.num_ended_jobs - 1
        per_step = left / max(current.progress.steps - current.progress.step, 1)
        return left + waiting * per_step * current.progress.steps


class TaskRegistry:
    """Tasks of A1111's API by their owner and name, so that a client can ask for one and stop
    it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: OrderedDict[tuple[str, str], Task] = OrderedDict()

    def add(self, task: Task) -> None:
        """Add a task of an owner; it replaces an older one of the same name."""
        with self._lock:
            self._tasks.pop((task.owner, task.id), None)
            self._tasks[task.owner, task.id] = task
            while len(self._tasks) > MAX_TASKS:
                self._tasks.popitem(last=False)

    def find(self, owner: str, task_id: str) -> Task | None:
        """Return an owner's task by its name."""
        with self._lock:
            return self._tasks.get((owner, task_id))

    def list_active(self, owner: str) -> list[Task]:
        """Return an owner's A1111 tasks of which a job still runs or waits, the oldest first."""
        with self._lock:
            tasks = [task for task in self._tasks.values() if task.owner == owner]
        return [task for task in tasks if not task.is_answered]


def compute_task_progress(task: Task, get: Callable[[str], Job]) -> TaskProgress:
    """Return the progress of a task of A1111's API: its finished jobs, and the step of the running
    one.

    get : gives a job by its id
    """
    jobs = [get(job_id) for job_id in task.job_ids]
    running = (job for job in jobs if job.state == "running")
    waiting = (job for job in jobs if job.state == "queued")
    return TaskProgress(task, jobs, next(running, None) or next(waiting, None))
