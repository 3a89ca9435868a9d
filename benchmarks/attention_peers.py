"""Other projects' attention maps beside ours, in a process that has one of them installed.

Run by benchmarks.attention --peers DIR. Both look into the same pipeline of diffusers at the same
prompt; how each is called is all that is known of them here.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from benchmarks.attention_memory import own_memory
from benchmarks.attention_runs import SOURCE, WORDS, draw, one_pass_a_step
from benchmarks.attention_turns import in_turns
from benchmarks.generate import pipeline_pair
from benchmarks.machine import settle
from t2i.attention import attend

Run = Callable[[Any, argparse.Namespace, dict[str, Any]], Tensor]
"""Of a pipeline; what was covered goes into the dict."""


def plain(pipe: Any, options: argparse.Namespace, _: dict[str, Any]) -> Tensor:
    return draw(pipe, [SOURCE], options)


def ours(pipe: Any, options: argparse.Namespace, covered: dict[str, Any]) -> Tensor:
    with attend(pipe, prompts=[SOURCE]) as attn:
        maps = attn.probe(*WORDS)
        latents_BCHW = draw(pipe, [SOURCE], options)
        found = {word: tuple(maps[word].shape) for word in WORDS}
        covered["ours"] = {"maps": len(found), "size": found[WORDS[0]]}
        covered["ours"]["sites"] = len({site for _, site in maps.measurements.accumulators})
    return latents_BCHW


def attention_map_diffusers(
    pipe: Any, options: argparse.Namespace, covered: dict[str, Any]
) -> Tensor:
    """Of every step, as ours; by itself it takes the last alone."""
    from attention_map_diffusers import AttentionCapture  # type: ignore[import-not-found]

    with AttentionCapture(pipe, relations="image->text", timesteps="all") as capture:
        latents_BCHW = draw(pipe, [SOURCE], options)
    records = capture.compute().records
    covered["theirs"] = {
        "maps": len(records),
        "size": tuple(records[0].data.shape),
        "sites": len({record.layer_id for record in records}),
    }
    return latents_BCHW


def daam(pipe: Any, options: argparse.Namespace, covered: dict[str, Any]) -> Tensor:
    from daam import trace  # type: ignore[import-not-found]

    with trace(pipe) as traced:
        latents_BCHW = draw(pipe, [SOURCE], options)
        heat = traced.compute_global_heat_map()
        found = {word: tuple(heat.compute_word_heat_map(word).value.shape) for word in WORDS}
        covered["theirs"] = {
            "maps": len(found),
            "size": found[WORDS[0]],
            "sites": len(traced.all_heat_maps.layers()),
            "sites_hooked": len(traced.layer_names),
        }
    return latents_BCHW


PEERS: Mapping[str, Run] = {"attention_map_diffusers": attention_map_diffusers, "daam": daam}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peer", choices=list(PEERS), required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--size", type=int)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-of", choices=["plain", "theirs", "ours"])
    return parser.parse_args()


def main() -> None:
    options = parse()
    settle(options.threads)
    pipe = pipeline_pair(options)["theirs"]
    one_pass_a_step(pipe, options)
    covered: dict[str, Any] = {}
    variants: dict[str, Callable[[], Tensor]] = {
        "plain": partial(plain, pipe, options, covered),
        "theirs": partial(PEERS[options.peer], pipe, options, covered),
        "ours": partial(ours, pipe, options, covered),
    }
    if options.memory_of:
        own_memory(variants[options.memory_of], options.device)
        return
    result: dict[str, Any] = {"version": version(options.peer.replace("_", "-"))}
    try:
        variants["theirs"]()
    except Exception as error:  # whatever another project raises is the result
        print(json.dumps(result | {"error": f"{type(error).__name__}: {error}"}))
        return
    times, made_by = in_turns(variants, options.rounds, options.warm_up)
    same = {
        name: torch.equal(made_by["plain"], latents_BCHW)
        for name, latents_BCHW in made_by.items()
        if name != "plain"
    }
    print(json.dumps(result | times | {"same_latents": same, "covered": covered}))


if __name__ == "__main__":
    main()
