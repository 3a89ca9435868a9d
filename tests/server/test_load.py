"""A small load with the benchmark's own clients: nothing is lost, and health is answered."""

import psutil
import pytest

from benchmarks.serve_load import Load, fit_slope, measure_load
from tests.server.servers import RunningServer, find_worker


def test_the_slope_is_that_of_the_second_half() -> None:
    assert fit_slope([9.0, 1.0, 5.0, 0.0, 2.0, 4.0, 6.0]) == pytest.approx(2.0)
    assert fit_slope([1.0, 2.0]) == 0.0


class ServerProcess(psutil.Process):
    """A forked server, whose worker is no child of it but of the fork server."""

    def children(self, recursive: bool = False) -> list[psutil.Process]:
        return [find_worker(self.pid)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_twenty_jobs_and_five_listeners_lose_nothing(server: RunningServer) -> None:
    load = Load(jobs=20, queued=20, listeners=5)
    measured = measure_load(server.url, ServerProcess(server.process.pid), load)
    assert measured["nothing_lost"]
    assert measured["done_with_picture"] == measured["ends_heard"] == 20
    assert measured["most_listening"] == 5
    assert measured["most_waiting"] > 5
    assert measured["health_asked"] > 5
    assert measured["health_p99_s"] > 0
    assert measured["server_mib"] > 10
    assert measured["worker_mib"] > 100
