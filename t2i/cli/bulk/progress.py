"""A progress bar over the images of all processes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from t2i.cli.bulk.bulk_folder import PendingJobs
from t2i.cli.bulk.index import FinishedJobCounter


@contextmanager
def showing_bulk_progress(
    pending: PendingJobs, counter: FinishedJobCounter, shown: bool
) -> Iterator[Callable[[], None]]:
    """Show a progress bar over all jobs of a bulk run, and yield the function that updates it.

    Nothing is shown unless `shown`.
    """
    if not shown:
        yield lambda: None
        return

    from train.reporting.training_logger import build_rich_progress_bar

    begun = time.monotonic()
    before = pending.num_images - len(pending.jobs)
    with build_rich_progress_bar() as shown_bar:
        task = shown_bar.add_task("pictures", total=pending.num_images, completed=before, facts="")

        def update() -> None:
            counter.update()
            rate = counter.num_finished / (time.monotonic() - begun)
            failed = f", {counter.num_failed} failed" if counter.num_failed else ""
            shown_bar.update(
                task,
                completed=before + counter.num_finished,
                facts=f"{rate:.2f} pictures/s{failed}",
            )

        yield update
