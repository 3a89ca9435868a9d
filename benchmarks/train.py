"""Our training loop against a plain Accelerate loop, on the same model, data, batch and precision.

python -m benchmarks.train [--rounds 3] [--steps 12] [--out benchmarks/results/train.json]

The plain loop is written as diffusers' text-to-image example has it: a DataLoader that Accelerate
prepares, DDPMScheduler's noise, diffusers' EMAModel and learning rate schedule, tqdm. Each run is a
process of its own, the two in turn, who goes first alternating. Start-up is the time from the start
of the process to its first step; the rate is that of the steps after the second.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
MODEL = REPO / "configs" / "models" / "embedded.toml"
RATE = 5e-4


class Clock:
    """Notes when each step is done."""

    def __init__(self) -> None:
        self.started = float(os.environ["BENCHMARK_STARTED"])
        self.ready = 0.0
        self.done: list[float] = []

    def report(self) -> dict[str, float]:
        from benchmarks.memory import own_peak

        seconds = [b - a for a, b in zip(self.done[1:], self.done[2:], strict=False)]
        return {
            "start_up_s": self.ready - self.started,
            "steps_per_s": 1 / statistics.median(seconds),
            "peak_mib": own_peak(),
        }


def run_ours(options: argparse.Namespace, clock: Clock) -> None:
    from train.config import load
    from train.loop import Training, run

    toml = f"""
        model = {json.dumps(str(MODEL))}
        [target]
        kind = "denoiser"
        [objective]
        prediction = "v_prediction"
        [data]
        kind = "scenes"
        [train]
        steps = {options.steps}
        batch_size = {options.batch}
        precision = "{options.precision}"
        device = "{"auto" if options.gpu else "cpu"}"
        checkpoint_every = {options.steps + 1}
        [optimizer]
        learning_rate = {RATE}
    """
    step: Callable[..., Any] = Training._step

    def timed(training: Training, parts: Any) -> Any:
        clock.ready = clock.ready or time.time()
        outcome = step(training, parts)
        clock.done.append(time.time())
        if len(clock.done) == options.steps:
            print(json.dumps(clock.report()), flush=True)
        return outcome

    Training._step = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.toml"
        path.write_text(toml)
        run(load(path), Path(folder) / "out")


def run_plain(options: argparse.Namespace, clock: Clock) -> None:
    import numpy as np
    import torch
    from accelerate import Accelerator
    from accelerate.utils import set_seed
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel
    from tqdm.auto import tqdm

    from t2i.denoiser.build import ModelConfig, build
    from train.data.scenes import Scenes, ScenesConfig

    accelerator = Accelerator(
        gradient_accumulation_steps=1, mixed_precision=options.precision, cpu=not options.gpu
    )
    set_seed(0)
    parts = build(ModelConfig.load(MODEL))
    vae, unet, text_encoder = parts.vae, parts.unet, parts.text_encoder
    vae.requires_grad_(False)
    ema = EMAModel(unet.parameters(), model_cls=type(unet), model_config=unet.config)
    text_ema = EMAModel(text_encoder.parameters())
    noise_scheduler: Any = DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
    )
    trained = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.01)

    class Pictures(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __init__(self) -> None:
            self.scenes = Scenes(ScenesConfig())

        def __len__(self) -> int:
            return len(self.scenes)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            sample = self.scenes[index]
            pixels = torch.from_numpy(sample.pixels.astype(np.float32) / 127.5 - 1)
            ids = parts.tokenizer(
                sample.caption,
                max_length=parts.tokenizer.model_max_length,
                padding="max_length",
                truncation=True,
                return_tensors="pt",
            ).input_ids
            return {"pixel_values": pixels.permute(2, 0, 1), "input_ids": ids[0]}

    def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {key: torch.stack([row[key] for row in rows]).contiguous() for key in rows[0]}

    loader = torch.utils.data.DataLoader(
        Pictures(), shuffle=True, collate_fn=collate, batch_size=options.batch
    )
    lr_scheduler = get_scheduler(
        "constant_with_warmup", optimizer, num_warmup_steps=0, num_training_steps=options.steps
    )
    unet, text_encoder, optimizer, loader, lr_scheduler = accelerator.prepare(
        unet, text_encoder, optimizer, loader, lr_scheduler
    )
    for part in (vae, ema, text_ema):
        part.to(accelerator.device)

    bar = tqdm(total=options.steps, file=sys.stderr)
    clock.ready = time.time()
    for batch in loader:
        with accelerator.accumulate(unet):
            latents = vae.encode(batch["pixel_values"]).latents * vae.config.scaling_factor
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, 1000, (len(latents),), device=latents.device).long()
            noisy = noise_scheduler.add_noise(latents, noise, timesteps)
            hidden = text_encoder(batch["input_ids"], return_dict=False)[0]
            target = noise_scheduler.get_velocity(latents, noise, timesteps)
            predicted = unet(noisy, timesteps, hidden, return_dict=False)[0]
            loss = torch.nn.functional.mse_loss(predicted.float(), target.float())
            accelerator.gather(loss.repeat(options.batch)).mean().item()
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            ema.step(unet.parameters())
            text_ema.step(text_encoder.parameters())
            bar.update(1)
        bar.set_postfix(step_loss=loss.detach().item(), lr=lr_scheduler.get_last_lr()[0])
        clock.done.append(time.time())
        if len(clock.done) == options.steps:
            break
    print(json.dumps(clock.report()), flush=True)


SIDES = {"ours": run_ours, "plain": run_plain}


def measure(side: str, options: argparse.Namespace) -> dict[str, float]:
    """One run of one side in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.train", "--side", side]
    for key in ("steps", "batch", "precision", "threads"):
        command += [f"--{key}", str(getattr(options, key))]
    if options.gpu:
        command.append("--gpu")
    settings = {"BENCHMARK_STARTED": str(time.time()), "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(
        command, cwd=REPO, env=os.environ | settings, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(
        next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{"))
    )
    return figures


def compare(rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians of each side, and ours over theirs round by round."""
    table: dict[str, Any] = {}
    for figure in rounds["ours"][0]:
        ours, plain = ([one[figure] for one in rounds[side]] for side in ("ours", "plain"))
        ratios = sorted(a / b for a, b in zip(ours, plain, strict=True))
        table[figure] = {
            "ours": statistics.median(ours),
            "plain": statistics.median(plain),
            "ratio_of_medians": statistics.median(ours) / statistics.median(plain),
            "ratio_of_rounds": [ratios[0], ratios[-1]],
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", default="no", choices=("no", "bf16", "fp16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gpu", action="store_true", help="where there is one")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", choices=tuple(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        SIDES[options.side](options, Clock())
        return

    from benchmarks.machine import machine, write_result

    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for number in range(options.rounds):
        for side in list(SIDES)[:: 1 if number % 2 == 0 else -1]:
            rounds[side].append(measure(side, options))
            print(f"round {number + 1}/{options.rounds}  {side}: {rounds[side][-1]}", flush=True)
    table = compare(rounds)
    print(f"\n{'':14}{'ours':>10}{'plain':>10}{'ours/plain':>12}")
    for figure, row in table.items():
        ratio = row["ratio_of_medians"]
        print(f"{figure:14}{row['ours']:10.2f}{row['plain']:10.2f}{ratio:12.3f}")
    if options.out:
        asked = {key: getattr(options, key) for key in ("steps", "batch", "precision", "rounds")}
        write_result(options.out, {"asked": asked, "figures": table, "machine": machine()})


if __name__ == "__main__":
    main()
