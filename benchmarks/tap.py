"""What it costs to stand at torch's attention: two ways, around one small cross-attention.

OMP_NUM_THREADS=1 python -m benchmarks.tap [--out benchmarks/results/tap.json]

`plain` is the module alone. `mode` enters a TorchFunctionMode around it, which sees every call of
torch inside. `replaced` is our tap (t2i/attention/compute/tap.py): the function of torch is another
one while somebody listens, and the listener is in a context variable. Both ways pass on what
they see, so that nothing but standing there is measured; the module is small, which makes that
large.

Time is that of the processor on one thread, the ways in turn, who goes first changing.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks.machine import collect_environment_info, write_result
from t2i.attention.compute import tap

PLACES, TOKENS, HEADS, WIDTH = 16, 8, 2, 32
"""Of the module: positions of the picture, of the text, heads, and their width."""
WAYS = ("plain", "mode", "replaced")

Run = Callable[[], Tensor]


class PassOn(TorchFunctionMode):
    """Looks at nothing."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return func(*args, **(kwargs or {}))


class PassThrough:
    """Answers as the kernel does."""

    def handle_attention(self, call: tap.AttentionInputs) -> Tensor:
        return call.run_kernel()

    def compute_eager_probabilities(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scores: tap.ProbabilitiesFunction,
        module: object,
    ) -> Tensor:
        return scores(query, key, mask)


def ways() -> dict[str, Run]:
    """The same module on the same tensors, in each of WAYS."""
    torch.manual_seed(0)
    width = HEADS * WIDTH
    module = Attention(query_dim=width, cross_attention_dim=width, heads=HEADS, dim_head=WIDTH)
    module.eval()
    picture_BQD, text_BTD = torch.randn(1, PLACES, width), torch.randn(1, TOKENS, width)

    def plain() -> Tensor:
        attended_BQD: Tensor = module(picture_BQD, encoder_hidden_states=text_BTD)
        return attended_BQD

    def mode() -> Tensor:
        with PassOn():
            return plain()

    def replaced() -> Tensor:
        with tap.using_attention_handler(PassThrough()):
            return plain()

    return {"plain": plain, "mode": mode, "replaced": replaced}


def seconds_of(run: Run, calls: int) -> float:
    """Of the processor, for one call."""
    start = time.process_time()
    for _ in range(calls):
        run()
    return (time.process_time() - start) / calls


@torch.no_grad()
def measure(rounds: int, calls: int) -> dict[str, Any]:
    """Medians of each way, and what it takes of the plain one's."""
    runs = ways()
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    outputs = {}
    for turn in range(-1, rounds):  # one round to warm up
        for name in WAYS[:: 1 if turn % 2 else -1]:
            if name == "replaced":
                with tap.tapping_attention():
                    took, outputs[name] = seconds_of(runs[name], calls), runs[name]()
            else:
                took, outputs[name] = seconds_of(runs[name], calls), runs[name]()
            if turn >= 0:
                seconds[name].append(took)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    table: dict[str, Any] = {}
    for name in WAYS[1:]:
        ratios = [a / b for a, b in zip(seconds[name], seconds["plain"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        table[name] = {
            "ratio_of_medians": medians[name] / medians["plain"],
            "ratio_of_rounds": [min(ratios), low, middle, high, max(ratios)],
        }
    added = {name: medians[name] - medians["plain"] for name in WAYS[1:]}
    halves = seconds["plain"][::2], seconds["plain"][1::2]
    return {
        "equal": all(torch.equal(outputs["plain"], output) for output in outputs.values()),
        "median_seconds": medians,
        "over_plain": table,
        "added_replaced_over_mode": added["replaced"] / added["mode"],
        "ratio_plain_to_itself": statistics.median(halves[0]) / statistics.median(halves[1]),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--calls", type=int, default=200, help="of the module in a round")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("two rounds at least are compared")
    return options


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    result = measure(options.rounds, options.calls)
    for name, row in result["over_plain"].items():
        least, low, _, high, most = row["ratio_of_rounds"]
        print(
            f"{name:9} / plain {row['ratio_of_medians']:.3f}   middle half of the rounds "
            f"{low:.3f} to {high:.3f}, all {least:.3f} to {most:.3f}"
        )
    print(f"the outputs are {'equal bit for bit' if result['equal'] else 'DIFFERENT'}")
    if options.out:
        asked = {"rounds": options.rounds, "calls": options.calls}
        write_result(
            options.out, {"asked": asked} | result | {"machine": collect_environment_info()}
        )


if __name__ == "__main__":
    main()
