"""Pictures a second of `t2i generate --prompts` on several processes against one.

python -m benchmarks.bulk [--model embedded] [--processes 2] [--out benchmarks/results/bulk.json]

A round runs the whole command on one process and on several, each process with as many threads;
who goes first alternates. The steady rate is that of the pictures after each process's first one,
so that imports and loading do not count; the whole rate is that of the command by the clock.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
PROMPTS = ("a red apple to the left of a cat", "a blue car", "a yellow banana", "a green house")


def command(processes: int, prompts: Path, out: Path, options: argparse.Namespace) -> list[str]:
    words = ["-m", "t2i.cli", "generate", "--prompts", str(prompts), "--out", str(out)]
    words += ["--model", options.model, "--steps", str(options.steps), "--seed", "0"]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    launch += ["--num_processes", str(processes), "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no"]
    return [sys.executable, *(launch if processes > 1 else []), *words]


def measure(
    processes: int, prompts: Path, out: Path, options: argparse.Namespace
) -> dict[str, float]:
    """Pictures a second of one command."""
    path = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
    threads = {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": path}
    start = time.perf_counter()
    subprocess.run(
        command(processes, prompts, out, options),
        env=os.environ | threads,
        check=True,
        capture_output=True,
    )
    seconds = time.perf_counter() - start
    ends: dict[int, list[float]] = defaultdict(list)
    for line in (out / "index.jsonl").read_text("utf-8").splitlines():
        entry = json.loads(line)
        ends[entry["job"] % processes].append(entry["time"])
    steady = sum((len(times) - 1) / (max(times) - min(times)) for times in ends.values())
    return {"steady": steady, "whole": options.pictures / seconds}


def same_pictures(one: Path, several: Path) -> bool:
    names = sorted(path.name for path in one.glob("*.png"))
    return names == sorted(path.name for path in several.glob("*.png")) and all(
        (one / name).read_bytes() == (several / name).read_bytes() for name in names
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.processes < 2 or options.pictures < 2 * options.processes:
        parser.error("two processes at least, and two pictures for each, are measured")
    return options


def main() -> None:
    options = parse()
    counts = (1, options.processes)
    rates: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    same = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = folder / "prompts.txt"
        lines = (PROMPTS[number % len(PROMPTS)] for number in range(options.pictures))
        prompts.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        for turn in range(options.rounds):
            outs = {count: folder / f"{turn}-{count}" for count in counts}
            for count in counts[:: 1 if turn % 2 else -1]:
                rates[count].append(measure(count, prompts, outs[count], options))
            same = same and same_pictures(outs[1], outs[options.processes])

    asked = {key: value for key, value in vars(options).items() if key != "out"}
    asked["model"] = Path(options.model).name
    result: dict[str, Any] = {"asked": asked, "same_pictures": same}
    print(f"{'pictures a second':18}{'one':>9}{options.processes:>9}{'efficiency':>12}")
    for kind in ("steady", "whole"):
        one, several = ([rate[kind] for rate in rates[count]] for count in counts)
        efficiency = statistics.median(several) / statistics.median(one) / options.processes
        result[kind] = {
            "pictures_per_s": {"one": one, "several": several},
            "efficiency": efficiency,
        }
        print(
            f"{kind:18}{statistics.median(one):9.3f}{statistics.median(several):9.3f}"
            f"{efficiency:12.3f}"
        )
    print(f"pictures {'equal byte for byte' if same else 'DIFFERENT'}")
    if options.out:
        from benchmarks.machine import collect_environment_info, write_result

        write_result(options.out, result | {"machine": collect_environment_info()})


if __name__ == "__main__":
    main()
