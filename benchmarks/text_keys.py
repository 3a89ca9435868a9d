"""What it saves to compute the keys and values of the text once per prompt.

python -m benchmarks.text_keys [--out benchmarks/results/text_keys.json]
python -m benchmarks.text_keys --case sdxl:512 --dtype bfloat16 --rounds 3

A case is a model, the side of its pictures and the windows of text that the prompt fills. `sd1`
and `sdxl` are of the published sizes, with random weights: nothing is downloaded.

Operations are counted without computing anything. Time is that of a pass of the denoiser for two
rows, prompt and unconditional, with the keys kept and without, turn and turn about in one process.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import collect_environment_info, write_result
from t2i.denoiser.loading.model_location import ASSETS
from t2i.denoiser.loading.weight_checks import read_json_object
from t2i.denoiser.text_key_value_cache import caching_text_keys_values

CASES = ("embedded:128", "embedded:128:3", "sd1:256", "sd1:256:3")
COUNTED = ("sd1:512", "sd1:512:3", "sdxl:512", "sdxl:1024", "sdxl:1024:3")
"""Cases of which operations are counted, and time is not measured."""
FOLDERS = {
    "embedded": ASSETS / "embedded" / "unet",
    "sd1": ASSETS / "single_file" / "sd1" / "unet",
    "sdxl": ASSETS / "single_file" / "sdxl" / "unet",
}
WINDOWS = {"embedded": 32, "sd1": 77, "sdxl": 77}
ROWS = 2
PROJECTIONS = ("attn2.to_k", "attn2.to_v")

Pass = Callable[[], Tensor]


def unet_of(name: str, device: str, dtype: torch.dtype) -> UNet2DConditionModel:
    """Of the published size; the weights are noise."""
    with torch.device("meta"):
        unet: UNet2DConditionModel = UNet2DConditionModel.from_config(
            read_json_object(FOLDERS[name] / "config.json")
        )
    torch.nn.Module.to(unet, dtype).eval()  # the model's own `to` warns of parts kept in float32
    if device != "meta":
        unet.to_empty(device=device)
        for parameter in unet.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    return unet


def pass_of(unet: UNet2DConditionModel, name: str, side: int, windows: int) -> tuple[Pass, Tensor]:
    """One pass of the denoiser, and the text it is told."""
    latents = side // 8
    like: dict[str, Any] = {"device": unet.device, "dtype": unet.dtype}
    noisy_BCHW = torch.randn(ROWS, unet.config["in_channels"], latents, latents, **like)
    text_BTD = torch.randn(
        ROWS, windows * WINDOWS[name], unet.config["cross_attention_dim"], **like
    )
    added: dict[str, Tensor] = {}
    if name == "sdxl":
        added = {"text_embeds": torch.randn(ROWS, 1280, **like)}
        added["time_ids"] = torch.ones(ROWS, 6, **like)
    timestep = torch.tensor(500, device=unet.device)

    @torch.no_grad()
    def run() -> Tensor:
        prediction_BCHW: Tensor = unet(
            noisy_BCHW,
            timestep,
            encoder_hidden_states=text_BTD,
            added_cond_kwargs=added or None,
            return_dict=False,
        )[0]
        if prediction_BCHW.is_cuda:
            torch.cuda.synchronize()
        return prediction_BCHW

    return run, text_BTD


def count_operations(name: str, side: int, windows: int) -> dict[str, float]:
    """GFLOP of a pass, and those of the text's keys and values."""
    unet = unet_of(name, "meta", torch.float32)
    run, _ = pass_of(unet, name, side, windows)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    by_module = counter.get_flop_counts()
    text = sum(
        sum(by_operation.values())
        for module, by_operation in by_module.items()
        if module.endswith(PROJECTIONS)
    )
    whole = counter.get_total_flops()
    return {"gflop_pass": whole / 1e9, "gflop_text": text / 1e9, "share": text / whole}


def measure(unet: UNet2DConditionModel, run: Pass, text_BTD: Tensor, rounds: int) -> dict[str, Any]:
    """Seconds of a pass with and without, and whether both predict the same bit for bit."""
    seconds: dict[str, list[float]] = {"plain": [], "kept": []}
    clock = time.perf_counter if text_BTD.is_cuda else time.process_time
    projections = [part for name, part in unet.named_modules() if name.endswith(PROJECTIONS)]

    def timed(name: str) -> Tensor:
        start = clock()
        prediction_BCHW = run()
        seconds[name].append(clock() - start)
        return prediction_BCHW

    equal = torch.equal(run(), run())
    for turn in range(rounds):
        predictions = {}
        for name in list(seconds)[:: 1 if turn % 2 else -1]:
            if name == "plain":
                predictions[name] = timed(name)
                continue
            with caching_text_keys_values(unet):
                with torch.no_grad():  # what the first step of a run does
                    for projection in projections:
                        projection(text_BTD)
                predictions[name] = timed(name)
        equal = equal and torch.equal(predictions["plain"], predictions["kept"])

    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["kept"], seconds["plain"], strict=True)]
    halves = seconds["plain"][::2], seconds["plain"][1::2]
    return {
        "equal": equal,
        "median_seconds": medians,
        "ratio_of_medians": medians["kept"] / medians["plain"],
        "ratio_of_rounds": [min(ratios), statistics.median(ratios), max(ratios)],
        "ratio_plain_to_itself": statistics.median(halves[0]) / statistics.median(halves[1]),
    }


def parse_case(case: str) -> tuple[str, int, int]:
    """Model, side of the pictures, windows of text."""
    name, side, windows = [*case.split(":"), "1"][:3]
    return name, int(side), int(windows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--case", action="append", metavar="MODEL:SIDE[:WINDOWS]", help="may be given several times"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--count-only", action="store_true", help="operations, no time")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("two rounds at least are compared")
    options.case = options.case or list(CASES)
    for case in options.case:
        if case.split(":")[0] not in FOLDERS or len(case.split(":")) not in (2, 3):
            parser.error(f"{case!r} is no MODEL:SIDE[:WINDOWS] of {', '.join(FOLDERS)}")
    return options


def main() -> None:
    options = parse()
    diffusers.utils.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    unets: dict[str, UNet2DConditionModel] = {}
    cases: dict[str, Any] = {}
    counted = {case: count_operations(*parse_case(case)) for case in COUNTED}
    print(f"{'case':18}{'share of FLOP':>14}{'time kept/plain':>17}   rounds")
    for case in options.case:
        name, side, windows = parse_case(case)
        cases[case] = count_operations(name, side, windows)
        line = f"{case:18}{cases[case]['share']:14.4f}"
        if not options.count_only:
            if name not in unets:  # one at a time, as they are large
                unets = {name: unet_of(name, options.device, getattr(torch, options.dtype))}
            run, text_BTD = pass_of(unets[name], name, side, windows)
            # a small model's pass is short: more of them
            rounds = options.rounds * (10 if name == "embedded" else 1)
            cases[case] |= measure(unets[name], run, text_BTD, rounds)
            low, _, high = cases[case]["ratio_of_rounds"]
            line += f"{cases[case]['ratio_of_medians']:17.4f}   {low:.4f} to {high:.4f}"
            line += "" if cases[case]["equal"] else "   DIFFERENT"
        print(line, flush=True)
        if options.out:  # after each case, as the last ones take long
            asked = {key: getattr(options, key) for key in ("rounds", "threads", "dtype", "device")}
            result = {"asked": asked, "cases": cases, "counted": counted}
            write_result(options.out, result | {"machine": collect_environment_info()})
    for case, row in counted.items():
        print(f"{case:18}{row['share']:14.4f}")


if __name__ == "__main__":
    main()
