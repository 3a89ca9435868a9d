"""What a job costs beside its picture, how soon the page answers the pointer, and how the server
fares with many jobs and listeners.

python -m benchmarks.serve [overhead] [hover] [load] [--jobs 500] [--queued 200] [--listeners 50]
    [--out benchmarks/results/serve.json]

Overhead: seconds from the request of a job to the last byte of its picture, against the same
picture drawn and saved in this process with the model loaded, in turns; the medians. Hover: see
benchmarks/serve_page.py. Load: see benchmarks/serve_load.py.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.serve_load import PROMPT, Load, measure_load
from benchmarks.serve_page import measure_hover
from t2i.environment_info import collect_environment_info

PARTS = ("overhead", "hover", "load")
REPO = Path(__file__).resolve().parent.parent
PATIENCE = 120.0
"""Seconds until the server has loaded its model."""


@contextmanager
def served(folder: Path, max_queued: int, threads: int) -> Iterator[tuple[str, psutil.Process]]:
    """Run a server on a free port; yield its address and its process."""
    words = ["serve", "--port", "0", "--folder", str(folder), "--max-queued", str(max_queued)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "t2i.cli", *words],
        cwd=REPO,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip().rstrip("/")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if httpx.get(f"{address}/api/v1/health", timeout=10, verify=False).json()["ready"]:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        yield address, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def draw_by_job(api: httpx.Client, steps: int, seed: int) -> tuple[float, bytes]:
    """Seconds and bytes of one picture as a job, from the request to its last byte."""
    start = time.perf_counter()
    request = {"prompt": PROMPT, "steps": steps, "seed": seed}
    job = api.post("/jobs", json={"kind": "generate", "request": request}).raise_for_status().json()
    with api.stream("GET", f"/jobs/{job['id']}/events") as events:
        for _ in events.iter_lines():
            pass
    picture = api.get(f"/jobs/{job['id']}/files/seed-{seed}.png").raise_for_status().content
    return time.perf_counter() - start, picture


class BarePipeline:
    """The command line's own drawing and saving, with the model loaded."""

    def __init__(self, folder: Path) -> None:
        from t2i.cli.generation.loaded_request import load_model_for_request
        from t2i.cli.request.request import Request

        self.folder = folder
        self.loaded = load_model_for_request(Request(prompt=PROMPT, grammar="a1111"))

    def draw(self, steps: int, seed: int) -> tuple[float, bytes]:
        """Seconds and bytes of one picture."""
        from dataclasses import replace

        from t2i.cli.generation.image_generation import generate_image_and_fill_request
        from t2i.cli.metadata.writing import build_metadata_texts, save_image_with_metadata

        start = time.perf_counter()
        request = replace(self.loaded.request, num_inference_steps=steps)
        request, image = generate_image_and_fill_request(
            self.loaded.pipe, request, seed, show_progress=False
        )
        path = self.folder / f"{seed}.png"
        texts = build_metadata_texts(request, seed, self.loaded.model_digest)
        save_image_with_metadata(image, texts, path)
        return time.perf_counter() - start, path.read_bytes()


def measure_processor_time(process: psutil.Process) -> float:
    """Seconds of the processor that a process and those it started have taken."""
    every = [process, *process.children(recursive=True)]
    return sum(one.cpu_times().user + one.cpu_times().system for one in every)


def measure_overhead(
    address: str, process: psutil.Process, folder: Path, rounds: int, steps: int
) -> dict[str, Any]:
    """Medians of a job and of the bare pipeline, drawn in turns; and the mean processor time of
    both, which other programs on the machine change less than the time by the clock.
    """
    bare = BarePipeline(folder)
    clock: dict[str, list[float]] = {"pipeline": [], "job": []}
    processor: dict[str, list[float]] = {"pipeline": [], "job": []}
    same = True
    with httpx.Client(base_url=f"{address}/api/v1", timeout=60) as api:
        for seed in range(rounds + 2):
            before = time.process_time()
            seconds, picture = bare.draw(steps, seed)
            own = time.process_time() - before
            before = measure_processor_time(process)
            job_seconds, job_picture = draw_by_job(api, steps, seed)
            theirs = measure_processor_time(process) - before
            same = same and picture == job_picture
            if seed >= 2:  # the first ones warm both sides up
                clock["pipeline"].append(seconds)
                clock["job"].append(job_seconds)
                processor["pipeline"].append(own)
                processor["job"].append(theirs)
    one, other = (statistics.median(clock[side]) for side in ("pipeline", "job"))
    return {
        "rounds": rounds,
        "steps": steps,
        "pipeline_s": one,
        "job_s": other,
        "overhead_s": other - one,
        "allowed_s": max(0.03 * one, 0.03),
        "pipeline_processor_s": statistics.mean(processor["pipeline"]),
        "job_processor_s": statistics.mean(processor["job"]),
        "same_bytes": same,
    }


def main() -> None:
    """Measure, print a table, and write the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="overhead, hover, load; all by default"
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10, help="of the overhead's pictures")
    parser.add_argument("--hovers", type=int, default=60, help="of words on the page")
    parser.add_argument("--jobs", type=int, default=500, help="of the load")
    parser.add_argument("--queued", type=int, default=200, help="of them that wait together")
    parser.add_argument("--listeners", type=int, default=50)
    parser.add_argument("--load-steps", type=int, default=1, help="of the load's pictures")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"got {', '.join(sorted(unknown))}: expected {' or '.join(PARTS)}")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with served(folder / "served", options.queued, options.threads) as (address, process):
            if "overhead" in (options.parts or PARTS):
                results["overhead"] = measure_overhead(
                    address, process, folder, options.rounds, options.steps
                )
            if "hover" in (options.parts or PARTS):
                results["hover"] = measure_hover(address, options.hovers)
            if "load" in (options.parts or PARTS):
                load = Load(options.jobs, options.queued, options.listeners, options.load_steps)
                results["load"] = measure_load(address, process, load)
    for title, table in results.items():
        print(title)
        for name, value in table.items():
            print(
                f"  {name:30} {value:.4g}" if isinstance(value, float) else f"  {name:30} {value}"
            )
    if options.out is not None:
        measured = {**results, "hardware": collect_environment_info()}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
