"""Seconds from the command to the saved picture, against a script of diffusers that does the same.

python -m benchmarks.startup [--out benchmarks/results/startup.json]

Each start is a process of its own, the two sides in turn, who goes first alternating. Warm means
that the operating system has the files in memory. Cold means that it was told to forget those of
the environment and of the model, as far as no other process has them open (Linux only).

Where the time goes is measured by commands that stop earlier: Python alone, the imports, a loaded
model, a picture.
"""

import argparse
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
MODEL = REPO / "t2i" / "assets" / "embedded"
PROMPT = "a red apple to the left of a cat"
SEED, GUIDANCE = 7, 3.0

OURS = {
    "imports": "import pipelines.text_to_image",
    "model": "import t2i; t2i.load('embedded')",
}
THEIRS = {
    "imports": "from diffusers import StableDiffusionPipeline",
    "model": f"""
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained({str(MODEL)!r})
""",
    "picture": f"""
import sys
import torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained({str(MODEL)!r})
picture = pipe(
    {PROMPT!r},
    num_inference_steps=int(sys.argv[1]),
    guidance_scale={GUIDANCE},
    generator=torch.Generator().manual_seed({SEED}),
).images[0]
picture.save(sys.argv[2])
""",
}
STAGES = ("python", "imports", "model", "picture")


def command(side: str, stage: str, steps: int, picture: Path) -> list[str]:
    """What starts one side and ends after a stage."""
    python = [sys.executable]
    if stage == "python":
        return [*python, "-c", "pass"]
    if side == "theirs":
        return [*python, "-c", THEIRS[stage], str(steps), str(picture)]
    if stage in OURS:
        return [*python, "-c", OURS[stage]]
    words = [PROMPT, "--steps", str(steps), "--guidance", str(GUIDANCE), "--seed", str(SEED)]
    return [*python, "-m", "t2i.cli", "generate", *words, "--out", str(picture)]


def start(words: Sequence[str], threads: int) -> dict[str, float]:
    """Run one command: seconds by the clock and of the processor, and its peak memory."""
    settings = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as answer:
        began = time.perf_counter()
        process = subprocess.Popen(
            words, cwd=REPO, env=os.environ | settings, stdout=answer, stderr=answer
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            answer.seek(0)
            raise SystemExit(f"{words} failed:\n{answer.read().decode()[-3000:]}")
    peak = used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {"wall": wall, "cpu": used.ru_utime + used.ru_stime, "peak_mib": peak}


def forget_files() -> int:
    """Have the operating system forget what it holds of our files; the bytes it was told of."""
    told = 0
    for root in (Path(sysconfig.get_path("purelib")), REPO / "t2i", REPO / "pipelines"):
        for path in root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                told += path.stat().st_size
    return told


def same_pixels(one: Path, other: Path) -> bool:
    from PIL import Image

    with Image.open(one) as ours, Image.open(other) as theirs:
        return bool(ours.tobytes() == theirs.tobytes())


def compare(rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians of each side, their ratio, and the ratios of single rounds."""
    table: dict[str, Any] = {}
    for figure in ("wall", "cpu", "peak_mib"):
        ours, theirs = ([one[figure] for one in rounds[side]] for side in ("ours", "theirs"))
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        table[figure] = {
            "ours": statistics.median(ours),
            "theirs": statistics.median(theirs),
            "ratio_of_medians": statistics.median(ours) / statistics.median(theirs),
            "ratio_of_rounds": [min(ratios), max(ratios)],
        }
    return table


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold-rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    sides = ("ours", "theirs")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = 0

        def run(side: str, stage: str = "picture") -> dict[str, float]:
            nonlocal made
            made += 1
            picture = folder / f"{side}-{made}.png"
            return start(command(side, stage, options.steps, picture), options.threads)

        for side in sides:
            run(side)  # both warm, and the bytecode is written
        pictures = [next(folder.glob(f"{side}-*.png")) for side in sides]
        equal = same_pixels(*pictures)

        warm: dict[str, dict[str, list[dict[str, float]]]] = {
            stage: {side: [] for side in sides} for stage in STAGES
        }
        for turn in range(options.rounds):
            for stage in STAGES:
                for side in sides[:: 1 if turn % 2 else -1]:
                    warm[stage][side].append(run(side, stage))
        cold: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for turn in range(options.cold_rounds if hasattr(os, "posix_fadvise") else 0):
            for side in sides[:: 1 if turn % 2 else -1]:
                forget_files()
                cold[side].append(run(side))

    result: dict[str, Any] = {
        "asked": {key: value for key, value in vars(options).items() if key != "out"},
        "same_picture": equal,
        "warm": {stage: compare(rounds) for stage, rounds in warm.items()},
    }
    if cold["ours"]:
        result["cold"] = {"picture": compare(cold)}
    print(f"{'until':16}{'ours s':>9}{'theirs s':>10}{'ratio':>8}{'cpu':>8}   rounds")
    for kind in ("warm", "cold"):
        for stage, row in result.get(kind, {}).items():
            wall = row["wall"]
            low, high = wall["ratio_of_rounds"]
            print(
                f"{kind + ' ' + stage:16}{wall['ours']:9.2f}{wall['theirs']:10.2f}"
                f"{wall['ratio_of_medians']:8.3f}{row['cpu']['ratio_of_medians']:8.3f}"
                f"   {low:.3f} to {high:.3f}"
            )
    print(f"pictures {'equal bit for bit' if equal else 'DIFFERENT'}")
    if options.out:
        from benchmarks.machine import collect_environment_info, write_result

        write_result(options.out, result | {"machine": collect_environment_info()})


if __name__ == "__main__":
    main()
