"""What it costs to look into attention and to edit through it, against the same run without.

python -m benchmarks.attention [--model embedded] [--out benchmarks/results/attention.json]
python -m benchmarks.attention --model sd1 --size 256 --steps 2 --rounds 3
python -m benchmarks.attention --model sdxl --size 256 --steps 2 --rounds 3 --dtype bfloat16

`--model sd1`, `sd2` and `sdxl` are of the published sizes, with random weights: nothing is
downloaded. The runs of a group take turns in one process around one model; peak memory is that of
a process of each one's own. Beside other projects, which are left out unless they are there:

pip install --no-deps --target peers/attention_map_diffusers attention-map-diffusers==1.0.0
pip install --target peers/daam spacy matplotlib scipy
pip install --no-deps --target peers/daam daam==0.2.0
python -m benchmarks.attention --peers peers
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.attention_memory import child, own_memory
from benchmarks.attention_runs import GROUPS, SOURCE, TARGET, VARIANTS, WORDS, Runs, draw, runs_of
from benchmarks.attention_turns import in_turns
from benchmarks.machine import collect_environment_info, settle, write_result
from t2i.attention import attend

PEERS = ("attention_map_diffusers", "daam")
REACHED = 1e-3
"""Between latents of two ways to the same picture in float32, whose largest are about 4."""


def measure_group(runs: Runs, group: str, options: argparse.Namespace) -> dict[str, Any]:
    variants = {name: partial(VARIANTS[name], runs) for name in GROUPS[group]}
    if "later" in variants:
        runs.remember()  # else its first turn would
    times, made = in_turns(variants, options.rounds, options.warm_up)
    return times | CHECKS[group](runs, made)


# what came out of each group


def check_probes(runs: Runs, made: Mapping[str, Tensor]) -> dict[str, Any]:
    """The pictures with and without probes are the same; and what a run keeps, site by site."""
    plain_B3YX = draw(runs.pipe, [SOURCE], runs.options, output_type="pt")
    with attend(runs.pipe) as attn:
        attn.probe(*WORDS)
        watched_B3YX = draw(runs.pipe, [SOURCE], runs.options, output_type="pt")
        sites = [site for site in attn.sites() if site.kind == "cross"]
        explained = attn.explain().splitlines()
    return {
        "same_latents": torch.equal(made["plain"], made["probes"]),
        "same_picture": torch.equal(plain_B3YX, watched_B3YX),
        "cross_sites": len(sites),
        "explained": explained,
    }


def parse_recorded_edits(_: Runs, made: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "source_untouched": torch.equal(made["pair"][0], made["edited"][0]),
        "target_moved_by": distance(made["pair"], made["edited"]),
        "edited_to_eager": distance(made["edited"], made["eager"]),
        "largest_latent": made["edited"].abs().max().item(),
    }


def check_remembered(runs: Runs, made: Mapping[str, Tensor]) -> dict[str, Any]:
    assert runs.kept is not None
    return {
        "later_to_both": distance(made["later"], made["both"]),
        "kept_mib": runs.kept.bytes / 2**20,
        "kept_mib_per_step": runs.kept.bytes / 2**20 / runs.kept.steps.count,
    }


CHECKS: Mapping[str, Callable[[Runs, Mapping[str, Tensor]], dict[str, Any]]] = {
    "probes": check_probes,
    "edits": parse_recorded_edits,
    "remember": check_remembered,
}


def distance(left: Tensor, right: Tensor) -> float:
    return (left.float() - right.float()).abs().max().item()


def check_reached(groups: Mapping[str, Any], dtype: str) -> None:
    """What is timed must also be right."""
    probes, edited = groups.get("probes", {}), groups.get("edits", {})
    wrong = [name for name in ("same_latents", "same_picture") if probes.get(name) is False]
    wrong += ["source_untouched"] if edited.get("source_untouched") is False else []
    if dtype == "float32":
        far = {
            "edited_to_eager": edited.get("edited_to_eager", 0.0),
            "later_to_both": groups.get("remember", {}).get("later_to_both", 0.0),
        }
        wrong += [name for name, value in far.items() if not value < REACHED]
    if wrong:
        raise SystemExit(f"The runs do not agree ({', '.join(wrong)}): these times mean nothing.")


# memory, and others


def measure_memory(group: str, options: argparse.Namespace) -> dict[str, Any]:
    """Medians of processes of each run's own, in turns."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in GROUPS[group]}
    for _ in range(options.memory_rounds):
        for name in found:
            found[name].append(child("benchmarks.attention", options, {"memory-of": name}))
    medians = {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for name, rows in found.items()
    }
    return to_first(medians)


def to_first(rows: Mapping[str, dict[str, float]]) -> dict[str, Any]:
    base = next(iter(rows.values()))
    return {name: row | {"ratio": row["peak_mib"] / base["peak_mib"]} for name, row in rows.items()}


def measure_peers(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for peer in PEERS:
        place = None if options.peers is None else (options.peers / peer).absolute()
        if place is None or not place.is_dir():
            found[peer] = {"left_out": "not installed; --help says how"}
            continue
        asked = {"peer": peer, "rounds": options.rounds, "warm-up": options.warm_up}
        found[peer] = child("benchmarks.attention_peers", options, asked, place)
        if "error" not in found[peer]:
            found[peer]["memory"] = to_first(
                {
                    name: child(
                        "benchmarks.attention_peers", options, asked | {"memory-of": name}, place
                    )
                    for name in ("plain", "theirs", "ours")
                }
            )
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="embedded")
    parser.add_argument(
        "--group", action="append", choices=[*GROUPS, "peers"], help="all by default"
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--size", type=int, help="height and width; the model's own by default")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warm-up", type=int, default=1, help="rounds that are not counted")
    parser.add_argument("--memory-rounds", type=int, default=1, help="0 leaves memory out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="where others are installed")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", choices=list(VARIANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("two rounds at least are compared")
    return options


def show(name: str, result: Mapping[str, Any], device: str) -> None:
    clock = "wall" if device == "cuda" else "cpu"
    if "left_out" in result or "error" in result:
        print(f"{name}: {result.get('left_out') or result['error']}", flush=True)
        return
    itself = result[clock]["first_to_itself"]
    print(f"{name}, {clock} time; the first to itself {itself:.3f}")
    for variant, row in result[clock].items():
        if variant == "first_to_itself":
            continue
        low, _, high = row["ratio_of_rounds"]
        memory = result.get("memory", {}).get(variant)
        peak = (
            f"{memory['peak_mib']:9.0f} MiB, {memory['run_mib']:.0f} by the run" if memory else ""
        )
        print(
            f"  {variant:10}{row['median_seconds']:9.3f} s{row['ratio_of_medians']:8.3f}"
            f"   {low:.3f} to {high:.3f}{peak}"
        )
    more = {key: value for key, value in result.items() if key not in SHOWN}
    print("  " + ", ".join(f"{key} {value}" for key, value in more.items()), flush=True)


SHOWN = ("wall", "cpu", "memory", "explained")


def main() -> None:
    options = parse()
    settle(options.threads)
    if options.memory_of:
        runs = runs_of(options)
        own_memory(partial(VARIANTS[options.memory_of], runs), options.device)
        return

    asked = {key: value for key, value in vars(options).items() if key not in ("out", "memory_of")}
    asked |= {"model": Path(options.model).name, "peers": options.peers is not None}
    asked |= {"source": SOURCE, "target": TARGET, "words": WORDS}
    chosen = [group for group in GROUPS if group in (options.group or GROUPS)]
    groups: dict[str, Any] = {}
    result: dict[str, Any] = {
        "asked": asked,
        "groups": groups,
        "machine": collect_environment_info(),
    }

    def keep() -> None:  # after each part, as the last ones take long
        if options.out:
            write_result(options.out, result)

    runs: Runs | None = runs_of(options)
    for group in chosen:
        assert runs is not None
        groups[group] = measure_group(runs, group, options)
        runs.kept = None
        show(group, groups[group], options.device)
        keep()
    runs = None  # a large model would not fit beside the next one
    for group in chosen if options.memory_rounds else ():
        groups[group]["memory"] = measure_memory(group, options)
        show(group, groups[group], options.device)
        keep()
    if "peers" in (options.group or ["peers"]):
        result["peers"] = measure_peers(options)
        for peer, found in result["peers"].items():
            show(peer, found, options.device)
        keep()
    check_reached(groups, options.dtype)


if __name__ == "__main__":
    main()
