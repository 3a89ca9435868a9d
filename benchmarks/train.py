"""Our training loop against diffusers' own scripts, on the same model, pictures, batch, precision.

python -m benchmarks.train --diffusers-scripts DIR [--shape share] [--out ...]

DIR holds `train_text_to_image.py` and `train_text_to_image_lora.py`, or is a clone of diffusers,
which T2I_DIFFUSERS may name instead; the scripts run as they are. Without them there is nothing to
measure, and that is said. The model has random weights and is made on the spot, as are the
pictures. Each run is a process of its own, the sides in turn, who goes first changing:

theirs  the script
ours    `t2i train`, encoding pictures and captions at each visit, as the scripts do
cached  `t2i train` as it is by default, in rounds after the one that fills the cache

Neither keeps an average of the weights. Both write for TensorBoard, which the scripts cannot go
without. The ratio of the processor's time is that to trust on a busy machine.

After these, each side trains a toy model, stops half way and goes on: `train_resume.py`.

--device gpu takes Stable Diffusion 1's own shape, 512 pixels and bfloat16.
--only speed or --only resume measures that alone; what the file of --out has of the other stays.
"""

import argparse
import hashlib
import json
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.machine import collect_environment_info, settle, write_result
from benchmarks.train_folder import SHAPES
from benchmarks.train_resume import compare_resumes
from benchmarks.train_runs import SCRIPTS, SIDES, Method, Run, Setting, measure
from benchmarks.train_side import WARM_UP, missing_torchvision

FIGURES = {
    "steps_per_s": "steps/s, by the processor's time",
    "steps_per_s_wall": "steps/s, by the clock",
    "start_up_cpu_s": "start-up, the processor's s",
    "start_up_s": "start-up, s",
    "peak_mib": "peak memory to the last step, MiB",
    "peak_to_the_end_mib": "peak memory to the end, MiB",
}


def turns(rounds: int) -> Iterator[tuple[int, Sequence[str]]]:
    """The round, 0 for the one that warms up, and who goes when."""
    for number in range(rounds + 1):
        first = number % len(SIDES)
        yield number, SIDES[first:] + SIDES[:first]


def compare_speed(options: argparse.Namespace, shape: str, setting: Setting) -> dict[str, Any]:
    weights = setting.prepare(options.pictures)
    asked = {key: getattr(options, key) for key in ("steps", "rounds", "pictures")}
    table = {
        method: compare_method(method, setting, options.steps, options.rounds)
        for method in options.methods
    }
    show(table)
    return {
        "asked": {"shape": shape, "weights": weights} | setting.asked() | asked,
        "figures": table,
    }


def compare_method(
    method: Method, setting: Setting, steps: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Medians of each side over the rounds, and ours over theirs."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    warm: dict[str, dict[str, float]] = {}
    for number, sides in turns(rounds):
        for side in sides:
            out = setting.folder / f"{method}-{side}-{number}"
            watch = "steps" if number else "frozen"
            figures = measure(Run(side, method, steps, out), setting, watch=watch)
            shown = {key: round(value, 3) for key, value in figures.items()}
            print(f"{method} round {number}/{rounds}  {side}: {shown}", flush=True)
            if number:
                found[side].append(with_rates(figures))
            else:
                warm[side] = figures
    table = {side: ratios(found[side], found["theirs"]) for side in SIDES if side != "theirs"}
    return {
        **table,
        "frozen_share": {side: warm[side].get("frozen_share", 0.0) for side in SIDES},
        "first_start_up_s": {side: warm[side]["start_up_s"] for side in SIDES},
        "first_start_up_cpu_s": {side: warm[side]["start_up_cpu_s"] for side in SIDES},
    }


def with_rates(figures: dict[str, float]) -> dict[str, float]:
    rates = {
        "steps_per_s": 1 / figures["step_cpu_s"],
        "steps_per_s_wall": 1 / figures["step_s"],
    }
    return {key: (rates | figures)[key] for key in FIGURES}


def ratios(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for figure in FIGURES:
        mine, other = ([one[figure] for one in side] for side in (ours, theirs))
        each = sorted(a / b for a, b in zip(mine, other, strict=True))
        table[figure] = {
            "ours": statistics.median(mine),
            "theirs": statistics.median(other),
            "ratio_of_medians": statistics.median(mine) / statistics.median(other),
            "ratio_of_rounds": [each[0], each[-1]],
        }
    return table


def found_scripts(given: Path | None) -> Path | None:
    """The folder with both scripts: the one given, or in a clone of diffusers."""
    named = given or (Path(name) if (name := os.environ.get("T2I_DIFFUSERS")) else None)
    if named is None:
        return None
    for folder in (named, named / "examples" / "text_to_image"):
        if all((folder / script).is_file() for script in SCRIPTS.values()):
            return folder.resolve()
    raise SystemExit(f"There are no {' and '.join(SCRIPTS.values())} in {named}.")


def measured_with(folder: Path) -> dict[str, Any]:
    """Which scripts they were, what they had for torchvision, and on what machine."""
    digests = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in SCRIPTS.values()
    }
    missing = missing_torchvision()
    stand_in = "missing, benchmarks/train_transforms.py in its place"
    scripts = {"sha256": digests, "torchvision": stand_in if missing else "installed"}
    return {"scripts": scripts, "machine": collect_environment_info()}


def show(table: dict[str, Any]) -> None:
    for method, rows in table.items():
        shares = ", ".join(f"{side} {s:.0%}" for side, s in rows["frozen_share"].items())
        print(f"\n{method}: share of the frozen encoders in a step: {shares}")
        print(f"{'':36}{'theirs':>10}{'ours':>10}{'ratio':>8}   rounds")
        for side in ("ours", "cached"):
            for figure, title in FIGURES.items():
                row = rows[side][figure]
                low, high = row["ratio_of_rounds"]
                name = f"{title}{', cached' * (side == 'cached')}"
                print(
                    f"{name:44}{row['theirs']:10.3f}{row['ours']:10.3f}"
                    f"{row['ratio_of_medians']:8.3f}   {low:.3f} to {high:.3f}"
                )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--diffusers-scripts", type=Path, metavar="DIR")
    parser.add_argument("--shape", choices=tuple(SHAPES), help="(default: share; sd1 on a GPU)")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument(
        "--precision", choices=("no", "bf16", "fp16"), help="(default: no; bf16 on a GPU)"
    )
    parser.add_argument("--batch", type=int, help="(default: the shape's)")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="after the one that warms up")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--methods", nargs="+", choices=tuple(SCRIPTS), default=tuple(SCRIPTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("speed", "resume"), help="(default: both)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.steps <= WARM_UP:
        parser.error(f"--steps {options.steps}: no rate is taken from the first {WARM_UP}")
    return options


def main() -> None:
    options = parse()
    scripts = found_scripts(options.diffusers_scripts)
    if scripts is None:
        print(
            "Skipped: diffusers' training scripts are not at hand. Clone its repository and name "
            "it by --diffusers-scripts or T2I_DIFFUSERS."
        )
        return

    settle(options.threads)
    gpu = options.device == "gpu"
    name = options.shape or ("sd1" if gpu else "share")
    shape = replace(SHAPES[name], batch=options.batch or SHAPES[name].batch)
    precision = options.precision or ("bf16" if gpu else "no")
    parts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(
            Path(folder) / name, scripts, shape, precision, options.device, options.threads
        )
        if options.only != "resume":
            parts |= compare_speed(options, name, setting) | measured_with(scripts)
        if options.only != "speed":
            resume = compare_resumes(setting, options.methods)
            parts["resume"] = resume | measured_with(scripts)
    if options.out:
        write_parts(options.out, parts, keep=options.only is not None)


def write_parts(out: Path, parts: dict[str, Any], *, keep: bool) -> None:
    """The result, or these parts of it: what else the file has stays where asked."""
    earlier = json.loads(out.read_text("utf-8")) if keep and out.exists() else {}
    write_result(out, earlier | parts)


if __name__ == "__main__":
    main()
