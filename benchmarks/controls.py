"""What controls cost: our pipeline against diffusers' ControlNet pipeline, on the same weights.

python -m benchmarks.controls [--model embedded] [--out benchmarks/results/controls.json]

One process; the pipelines take turns, so that what else the machine does hits both alike. The
network is one made from the UNet, with random outputs: its weights do not change its cost. Without
a control both are plain text to image, which says what is the pipelines' own.
"""

import argparse
import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    MultiControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from PIL import Image
from torch import Tensor

from benchmarks.attention_turns import in_turns
from benchmarks.machine import collect_environment_info, settle, write_result
from benchmarks.memory import forget_peak, own_peak
from pipelines.text_to_image import TextToImagePipeline
from t2i.controls.control import Control
from t2i.denoiser.families import sd

PROMPT = "a red apple to the left of a cat"
GUIDANCE = 5.0
UNSAFE = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
Draw = Callable[[], Tensor]


def make_network(pipe: Any, seed: int) -> ControlNetModel:
    """A ControlNet of the size that its UNet's has, with random outputs."""
    torch.manual_seed(seed)
    levels = sd.pixels_per_latent(pipe.vae).bit_length() - 1
    widths = (16, 32, 96, 256)[: levels + 1]
    network: ControlNetModel = ControlNetModel.from_unet(
        pipe.unet, conditioning_embedding_out_channels=widths
    )
    for name, weight in network.named_parameters():
        if "controlnet_" in name:
            torch.nn.init.normal_(weight, std=0.01)
    return network.eval()


def make_pairs(pipe: Any, options: argparse.Namespace) -> dict[str, dict[str, Draw]]:
    """Number of controls -> diffusers' run of them, first, and ours."""
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    parts = {name: getattr(pipe, name) for name in names}
    networks = [make_network(pipe, seed).to(options.device) for seed in (0, 1)]
    side = pipe.unet.config.sample_size * sd.pixels_per_latent(pipe.vae)
    noise = torch.rand(side, side, 3, generator=torch.Generator().manual_seed(0))
    hint = Image.fromarray((noise * 255).byte().numpy())
    settings: dict[str, Any] = {
        "num_inference_steps": options.steps,
        "guidance_scale": GUIDANCE,
        "output_type": "latent",
        "width": side,
        "height": side,
    }

    def of(run: Any, **call: Any) -> Draw:
        run.set_progress_bar_config(disable=True)

        def draw() -> Tensor:
            seed = torch.Generator().manual_seed(0)
            latents: Tensor = run(PROMPT, generator=seed, **settings, **call).images
            return latents

        return draw

    free: Any = StableDiffusionPipeline(**parts, **UNSAFE)
    one: Any = StableDiffusionControlNetPipeline(**parts, controlnet=networks[0], **UNSAFE)
    both: Any = StableDiffusionControlNetPipeline(
        **parts, controlnet=MultiControlNetModel(networks), **UNSAFE
    )
    controls = [Control(network, hint) for network in networks]
    return {
        "0": {"diffusers": of(free), "t2i": of(pipe)},
        "1": {"diffusers": of(one, image=hint), "t2i": of(pipe, controls=controls[:1])},
        "2": {"diffusers": of(both, image=[hint, hint]), "t2i": of(pipe, controls=controls)},
    }


def measure_peaks(pair: Mapping[str, Draw]) -> dict[str, float]:
    """MiB that were resident at most in a run of each, the last of two."""
    peaks = {}
    for _ in range(2):
        for name, draw in pair.items():
            gc.collect()
            forget_peak()
            draw()
            peaks[name] = own_peak()
    return peaks


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    settle(options.threads)
    pipe = TextToImagePipeline.from_pretrained(options.model).to(options.device)
    table: dict[str, Any] = {}
    print(f"{'controls':10}{'ours/diffusers':>16}{'MiB':>8}{'theirs':>8}{'equal':>8}   rounds")
    for number, pair in make_pairs(pipe, options).items():
        times, made = in_turns(pair, options.rounds, options.warm_up)
        peaks = measure_peaks(pair)
        equal = torch.equal(made["t2i"], made["diffusers"])
        table[number] = {"equal": equal, "peak_mib": peaks, **times}
        ours = times["cpu" if options.device == "cpu" else "wall"]["t2i"]
        low, _, high = ours["ratio_of_rounds"]
        print(
            f"{number:10}{ours['ratio_of_medians']:16.3f}{peaks['t2i']:8.0f}"
            f"{peaks['diffusers']:8.0f}{equal!s:>8}   {low:.3f} to {high:.3f}"
        )
    if options.out is not None:
        asked = {name: value for name, value in vars(options).items() if name != "out"}
        write_result(
            options.out, {"asked": asked, "runs": table, "machine": collect_environment_info()}
        )


if __name__ == "__main__":
    main()
