"""The training loop: every method of t2i is a configuration of it.

What step n does is a function of the configuration and n alone: a run that is resumed is the run.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from t2i.errors import ArgumentError, TrainingError
from t2i.files import write_atomically
from t2i.pictures import save_picture
from train import checkpoint
from train.assembly import assemble
from train.batch import Batch, Share, batches
from train.config import FOLDERS, RunConfig
from train.data.kinds import samples_of
from train.ema import EMA
from train.identity import check_same_run, identity
from train.order import Order
from train.processes import accelerator_of, leave, on_main
from train.randomness import key
from train.rate import rate
from train.report import Report
from train.runfolder import StopRequest, locked

CHECKPOINTS, MODEL = "checkpoints", "model"
PICTURES = 12
"""Of a sheet of samples that shows the data."""
SCALE_PICTURES = 64
"""By which an autoencoder's latents are scaled."""
SMALLEST_SCALE = 1.0
"""Of the gradients in fp16; a sound run never comes so low."""


def run(config: RunConfig, out: Path) -> bool:
    """Train to the last step, from the newest checkpoint in `out` on; True when that is reached.

    On SIGTERM or Ctrl-C it saves a checkpoint and returns False. Raises T2IError, on every
    process, for what a user can mend.
    """
    accelerator = accelerator_of(config)
    with ExitStack() as stack, StopRequest() as stop:
        on_main(accelerator, lambda: stack.enter_context(locked(out)))
        training = Training(config, out, accelerator)
        finished = training.go(stop)
        if finished:
            on_main(accelerator, training.export)
        leave(accelerator)
    return finished


@dataclass(slots=True)
class Outcome:
    """What one step measured."""

    loss: float
    grad_norm: float


class Training:
    """A run in progress: target, optimizer, average, and the number of finished steps."""

    def __init__(self, config: RunConfig, out: Path, accelerator: Accelerator) -> None:
        self.config, self.out, self.accelerator = config, out, accelerator
        target, model = assemble(config)
        self.target = target.to(accelerator.device)
        if config.train.channels_last:
            self.target.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.samples = samples_of(config.data)
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
        self._model, self._accelerated = accelerator.prepare(self.target, self.optimizer)
        self._identity = identity(config, model, self.target)
        self.steps_done = 0
        self._resume()

    def go(self, stop: StopRequest) -> bool:
        """Step until the end, or until somebody asks to stop; True at the end."""
        train, main = self.config.train, self.accelerator.is_main_process
        reports: list[Report] = []
        self._on_main(lambda: reports.append(self._open_report()))
        steps = range(self.steps_done, train.steps)
        reader = batches(self.samples, self.order, self.share, steps, train.workers)
        self.target.train()
        try:
            for _ in steps:
                outcome = self._step([next(reader) for _ in range(train.accumulation)])
                last, stopping = self.steps_done == train.steps, self._any(stop.wanted)
                if main:
                    reports[0].advance(self.steps_done)
                if self._due(train.log_every) or last:
                    rate_now = self.optimizer.param_groups[0]["lr"]
                    facts = asdict(outcome) | {"learning_rate": rate_now}
                    self._on_main(partial(self._note, reports, facts))
                if self._due(train.checkpoint_every) or last or stopping:
                    self._on_main(self._save)
                if self._due(self.config.samples.every):
                    self._on_main(self._draw)
                if stopping and not last:
                    if main:
                        reports[0].say(
                            f"stopped after step {self.steps_done}; "
                            "the same command goes on from here"
                        )
                    return False
        finally:
            for report in reports:
                report.close()
        return True

    def export(self) -> None:
        """Write the average as a model, with what it was trained by."""
        batch = self._first_batch(SCALE_PICTURES)
        with self.ema.in_place_of(self.target.weights()):
            folder = self.out / MODEL
            notes = notes_of(self.config, self.steps_done)
            self.target.export(folder, batch, self.config.export, notes)

    def _note(self, reports: list[Report], facts: dict[str, float]) -> None:
        reports[0].note(self.steps_done, facts)

    def _open_report(self) -> Report:
        text = self.config.model_dump_json(indent=1) + "\n"
        write_atomically(self.out / "config.json", lambda part: part.write_text(text))
        steps, tensorboard = self.config.train.steps, self.config.train.tensorboard
        report = Report(self.out, self.steps_done, steps, tensorboard=tensorboard)
        if self.steps_done:
            report.say(f"resumed after step {self.steps_done}")
        return report

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
                loss_B = self._model(batch.to(accelerator.device))
                accelerator.backward(loss_B.mean() / len(parts))
            losses.append(loss_B.detach())
        norm = accelerator.clip_grad_norm_(
            self._model.parameters(), self.config.optimizer.max_grad_norm
        )
        assert norm is not None

        loss_B = torch.cat(losses)
        outcome = Outcome(accelerator.reduce(loss_B.mean(), "mean").item(), float(norm))
        if not self._sound(outcome):
            self._stop_before_update(outcome, loss_B, parts)
        self._accelerated.step()
        self._accelerated.zero_grad()
        self.steps_done += 1
        if not self._accelerated.step_was_skipped:
            self.ema.update(self.target.weights(), self.steps_done)
        return outcome

    def _sound(self, outcome: Outcome) -> bool:
        """Whether the numbers are finite; in fp16 gradients may overflow while the scale falls."""
        scaler = self.accelerator.scaler
        if scaler is None:
            return math.isfinite(outcome.loss) and math.isfinite(outcome.grad_norm)
        return math.isfinite(outcome.loss) and scaler.get_scale() >= SMALLEST_SCALE

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
            f"{outcome.grad_norm}: the weights were left as after step {self.steps_done}, and no "
            f"checkpoint was touched. Samples: {', '.join(bad[:8])}. Look at these samples; the "
            "same command would come to the same place, so begin anew with --out and a lower "
            "optimizer.learning_rate or another seed."
        )

    def _due(self, every: int) -> bool:
        return every > 0 and self.steps_done % every == 0

    def _any(self, wanted: bool) -> bool:
        """Whether any process wishes it."""
        if self.accelerator.num_processes == 1:
            return wanted
        flag = torch.tensor(float(wanted), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item())

    def _on_main(self, action: Callable[[], object]) -> None:
        on_main(self.accelerator, action)

    def _first_batch(self, pictures: int) -> Batch:
        share = Share(min(pictures, len(self.samples)))
        return next(batches(self.samples, self.order, share, range(1))).to(self.target.device)

    def _draw(self) -> None:
        path = self.out / "samples" / f"step-{self.steps_done:08d}.png"
        self.target.eval()
        try:
            with self.ema.in_place_of(self.target.weights()):
                picture = self.target.draw(self._first_batch(PICTURES), self.config.samples)
        finally:
            self.target.train()
        save_picture(picture, path)

    def _save(self) -> None:
        optimizer, numbers = checkpoint.pack_optimizer(self.optimizer)
        weights, average = self.target.weights(), self.ema.average
        scaler = self.accelerator.scaler
        facts = {
            **self._identity,
            "processes": self.accelerator.num_processes,
            "optimizer": numbers,
            "scaler": scaler.state_dict() if scaler else None,
        }
        tensors: dict[str, checkpoint.Tensors] = {
            "weights": weights,
            "average": average,
            "optimizer": optimizer,
        }
        state = checkpoint.State(self.steps_done, tensors, facts)
        checkpoint.save_state(self.out / CHECKPOINTS, state, self.config.train.keep)

    def _resume(self) -> None:
        """Take up the newest checkpoint, if there is one and it belongs to this configuration."""
        state = checkpoint.load_newest(self.out / CHECKPOINTS)
        found = {0 if state is None else state.step}
        if self.accelerator.num_processes > 1:
            found = {*gather_object([*found])}
        if len(found) > 1:
            raise TrainingError(
                f"The processes found different checkpoints in {self.out}: after the steps "
                f"{', '.join(map(str, sorted(found)))}. All of them must see one folder."
            )
        if state is None:
            return
        check_same_run(self.out, state, self._identity)
        if state.step > self.config.train.steps:
            raise ArgumentError(
                f"The run in {self.out} has done {state.step} steps already, more than "
                f"train.steps = {self.config.train.steps}: ask for more, or choose another --out."
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


def notes_of(config: RunConfig, steps: int) -> dict[str, Any]:
    """What a finished model says of its making, and how it likes to be sampled."""
    samples = config.samples
    defaults = {"steps": samples.steps, "guidance_scale": samples.guidance_scale}
    sampler = {} if config.objective.prediction == "flow" else {"sampler": "ddim"}
    # Paths mean something on one machine only.
    told = config.model_dump(mode="json", exclude={"model": True, "target": {*FOLDERS}})
    return {"defaults": defaults | sampler, "trained": {"steps": steps, "config": told}}
