"""The training loop: every method of t2i is a configuration of it.

What step n does is a function of the configuration and n alone: a run that is resumed is the run.
"""

import hashlib
import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import Tensor

from t2i.denoiser.build import ModelConfig, build
from t2i.errors import ArgumentError, TrainingError
from t2i.files import write_atomically
from train import checkpoint
from train.batch import Batch, Share, batches
from train.config import RunConfig, difference
from train.data.scenes import Scenes
from train.ema import EMA
from train.finish import finish, target_of
from train.order import Order
from train.randomness import key
from train.rate import rate
from train.report import Report
from train.runfolder import StopRequest, locked
from train.samples import draw
from train.targets import Target

CHECKPOINTS = "checkpoints"


def run(config: RunConfig, out: Path) -> bool:
    """Train to the last step, from the newest checkpoint in `out` on; True when that is reached.

    On SIGTERM or Ctrl-C it saves a checkpoint and returns False. Raises T2IError for what a user
    can mend.
    """
    accelerator = accelerator_of(config)
    hold = locked(out) if accelerator.is_main_process else nullcontext()
    with hold, StopRequest() as stop:
        training = Training(config, out, accelerator)
        finished = training.go(stop)
        if finished and accelerator.is_main_process:
            with training.ema.in_place_of(training.target.weights()):
                finish(training.target, config, out, training.steps_done)
        accelerator.wait_for_everyone()
        accelerator.end_training()
    return finished


def accelerator_of(config: RunConfig) -> Accelerator:
    """Devices, precision and processes; checks that a batch divides among them."""
    try:
        accelerator = Accelerator(
            mixed_precision=config.train.precision,
            cpu=config.train.device == "cpu",
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
    except ValueError as error:
        raise ArgumentError(f"train.precision = {config.train.precision!r}: {error}") from error
    parts = accelerator.num_processes * config.train.accumulation
    if config.train.batch_size % parts:
        raise ArgumentError(
            f"train.batch_size = {config.train.batch_size} does not divide among "
            f"{accelerator.num_processes} processes x accumulation {config.train.accumulation}: "
            f"choose a multiple of {parts}."
        )
    return accelerator


@dataclass(slots=True)
class Outcome:
    """What one step measured."""

    loss: float
    grad_norm: float


class Training:
    """A run in progress: target, optimizer, average, and the number of finished steps."""

    def __init__(self, config: RunConfig, out: Path, accelerator: Accelerator) -> None:
        self.config, self.out, self.accelerator = config, out, accelerator
        torch.manual_seed(key(config.seed, "weights"))
        components = build(ModelConfig.load(config.model))
        self.target: Target = target_of(components, config).to(accelerator.device)
        self.samples = Scenes(config.data)
        self.order = Order(len(self.samples), key(config.seed, "data"))
        self.share = Share(
            config.train.batch_size,
            accelerator.process_index,
            accelerator.num_processes,
            config.train.accumulation,
        )
        self.ema = EMA(self.target.weights(), config.ema)
        self.optimizer = torch.optim.AdamW(
            self.target.weights().values(),
            lr=config.optimizer.learning_rate,
            betas=config.optimizer.betas,
            weight_decay=config.optimizer.weight_decay,
            eps=config.optimizer.eps,
        )
        self.steps_done = 0
        self._frozen = frozen_digest(self.target)
        self._resume()
        self._model, self._accelerated = accelerator.prepare(self.target, self.optimizer)

    def go(self, stop: StopRequest) -> bool:
        """Step until the end, or until somebody asks to stop; True at the end."""
        train, main = self.config.train, self.accelerator.is_main_process
        if main:
            text = self.config.model_dump_json(indent=1) + "\n"
            write_atomically(self.out / "config.json", lambda part: part.write_text(text))
        report = Report(
            self.out, self.steps_done, train.steps, active=main, tensorboard=train.tensorboard
        )
        if self.steps_done:
            report.say(f"resumed after step {self.steps_done}")
        steps = range(self.steps_done, train.steps)
        reader = batches(self.samples, self.order, self.share, steps, train.workers)
        self.target.train()
        try:
            for _ in steps:
                outcome = self._step([next(reader) for _ in range(train.accumulation)])
                last, stopping = self.steps_done == train.steps, self._any(stop.wanted)
                report.advance(self.steps_done)
                if self._due(train.log_every) or last:
                    facts = asdict(outcome) | {
                        "learning_rate": self.optimizer.param_groups[0]["lr"]
                    }
                    report.note(self.steps_done, facts)
                if main and self._due(self.config.samples.every):
                    self._draw()
                if self._due(train.checkpoint_every) or last or stopping:
                    self._save()
                if stopping and not last:
                    report.say(
                        f"stopped after step {self.steps_done}; the same command goes on from here"
                    )
                    return False
        finally:
            report.close()
        return True

    def _step(self, parts: list[Batch]) -> Outcome:
        """One optimizer step over the global batch of which this process has `parts`."""
        step, accelerator = self.steps_done, self.accelerator
        factor = rate(step, self.config.train.steps, self.config.rate)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.optimizer.learning_rate * factor

        losses: list[Tensor] = []
        for number, batch in enumerate(parts):
            # Dropout inside a model draws from the global generator.
            torch.manual_seed(key(self.config.seed, step, batch.slots[0], "model"))
            last = number == len(parts) - 1
            with nullcontext() if last else accelerator.no_sync(self._model):
                loss_B = self._model(on(batch, accelerator.device))
                accelerator.backward(loss_B.mean() / len(parts))
            losses.append(loss_B.detach())
        norm = accelerator.clip_grad_norm_(
            self._model.parameters(), self.config.optimizer.max_grad_norm
        )
        assert norm is not None

        loss_B = torch.cat(losses)
        mean_loss = accelerator.reduce(loss_B.mean(), "mean").item()
        outcome = Outcome(mean_loss, float(norm))
        scaled = accelerator.scaler is not None  # fp16 skips a step whose scaled gradients overflow
        if not math.isfinite(mean_loss) or not (scaled or math.isfinite(outcome.grad_norm)):
            self._stop_before_update(outcome, loss_B, parts)
        self._accelerated.step()
        self._accelerated.zero_grad()
        self.steps_done += 1
        if not self._accelerated.step_was_skipped:
            self.ema.update(self.target.weights(), self.steps_done)
        return outcome

    def _stop_before_update(self, outcome: Outcome, loss_B: Tensor, parts: list[Batch]) -> None:
        """Raise TrainingError that names step, loss and samples; the weights are still sound."""
        names = [name for batch in parts for name in batch.names]
        values = loss_B.tolist()
        bad = [
            f"{n} (loss {v})" for n, v in zip(names, values, strict=True) if not math.isfinite(v)
        ]
        bad = gather_object(bad) or [f"{name} (any of the batch)" for name in gather_object(names)]
        raise TrainingError(
            f"Step {self.steps_done + 1} gave loss {outcome.loss} and gradient norm "
            f"{outcome.grad_norm}: the weights were left as after step {self.steps_done}. "
            f"Samples: {', '.join(bad[:8])}. Look at these samples, or lower "
            "optimizer.learning_rate; the newest checkpoint is intact."
        )

    def _due(self, every: int) -> bool:
        return every > 0 and self.steps_done % every == 0

    def _any(self, wanted: bool) -> bool:
        """Whether any process wishes it."""
        if self.accelerator.num_processes == 1:
            return wanted
        flag = torch.tensor(float(wanted), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item())

    def _draw(self) -> None:
        share = Share(min(12, len(self.samples)))
        first = next(batches(self.samples, self.order, share, range(1)))
        path = self.out / "samples" / f"step-{self.steps_done:08d}.png"
        with self.ema.in_place_of(self.target.weights()):
            draw(self.target, self.config.samples, on(first, self.accelerator.device), path)

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            optimizer, numbers = checkpoint.pack_optimizer(self.optimizer)
            scaler = self.accelerator.scaler
            state = checkpoint.State(
                self.steps_done,
                {
                    "weights": self.target.weights(),
                    "average": self.ema.average,
                    "optimizer": optimizer,
                },
                {
                    "config": self.config.model_dump(mode="json"),
                    "frozen": self._frozen,
                    "processes": self.accelerator.num_processes,
                    "optimizer": numbers,
                    "scaler": scaler.state_dict() if scaler else None,
                },
            )
            checkpoint.save_state(self.out / CHECKPOINTS, state, self.config.train.keep)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        """Take up the newest checkpoint, if there is one and it belongs to this configuration."""
        state = checkpoint.load_newest(self.out / CHECKPOINTS)
        if state is None:
            return
        changes = difference(state.facts["config"], self.config.model_dump(mode="json"))
        if state.facts["frozen"] != self._frozen:
            changes.append("the weights of the frozen parts")
        if changes:
            raise ArgumentError(
                f"The run in {self.out} was started otherwise: {'; '.join(changes)}. "
                "Go on with the old configuration, or choose another folder with --out."
            )
        with torch.no_grad():
            for name, weight in self.target.weights().items():
                weight.copy_(state.tensors["weights"][name])
        self.ema.load(state.tensors["average"])
        checkpoint.unpack_optimizer(
            self.optimizer, state.tensors["optimizer"], state.facts["optimizer"]
        )
        if self.accelerator.scaler is not None and state.facts["scaler"]:
            self.accelerator.scaler.load_state_dict(state.facts["scaler"])
        self.steps_done = state.step


def on(batch: Batch, device: torch.device) -> Batch:
    """The batch with its pixels on `device`."""
    pixels_BCHW = batch.pixels_BCHW.to(device, non_blocking=True)
    return Batch(batch.step, batch.slots, batch.names, batch.captions, pixels_BCHW)


def frozen_digest(target: Target) -> str:
    """A digest of the parameters that are not trained; a run may not go on over other ones."""
    digest = hashlib.sha256()
    for name, parameter in sorted(target.named_parameters()):
        if not parameter.requires_grad:
            digest.update(name.encode())
            digest.update(
                parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
            )
    return digest.hexdigest()
