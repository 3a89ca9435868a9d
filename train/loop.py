"""The training loop: every method of t2i is a configuration of it.

What step n does is a function of the configuration and n alone: a run that is resumed is the run.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from t2i.atomic_files import write_atomically
from t2i.denoiser.memory_checks import memory_to_draw
from t2i.errors import ArgumentError, T2IError, TrainingError
from t2i.pictures import save_picture
from t2i.run_folder import StoppedEarly, StopRequest, lock_folder
from t2i.terminal import several
from train import checkpoint
from train.bad_step_report import NotANumber, pictures_at
from train.batches.batch import Batch, batches
from train.batches.order import Order, Share
from train.config.run_config import RunConfig
from train.model_notes import notes_of
from train.optim import ema_snapshots as snapshots
from train.optim.ema import EMA
from train.optim.ema_snapshots import forget_after, save_snapshot
from train.optim.optimizer import averaged
from train.parallel.fsdp import fill, gathered, is_split, placed
from train.parallel.processes import accelerated, on_main, together
from train.reporting.report import Report
from train.setup.assembly import assemble, put_together
from train.setup.build_cache import cached
from train.setup.class_pictures import draw_prior
from train.setup.compiling import Compilations, check_gradient, compiled_denoiser, uncompiled
from train.setup.resume_checks import check_same_config, check_same_run, identity
from train.setup.run_data import data_of, order_of, shown
from train.step import Outcome, Stepper
from train.targets.target import Target
from train.validation import Validation

CHECKPOINTS, MODEL = "checkpoints", "model"
PICTURES = 12
"""Of a sheet of samples that shows the data."""
SCALE_PICTURES = 64
"""By which an autoencoder's latents are scaled."""


def run(config: RunConfig, out: Path) -> bool:
    """Train to the last step, from the newest checkpoint in `out` on; True when that is reached.

    On SIGTERM, SIGHUP or Ctrl-C it saves a checkpoint and returns False. Raises T2IError, on every
    process, for what a user can mend.
    """
    with StopRequest() as stop, ExitStack() as stack:
        accelerator = stack.enter_context(accelerated(config.train, config.optimizer.name))
        on_main(accelerator, lambda: begin(config, out, stack))
        if not draw_prior(config, out, accelerator, stop):
            return False
        try:
            training = Training(config, out, accelerator, stop)
            finished = training.go(stop)
        except StoppedEarly:
            finished = False
        if finished:
            training.export()
    return finished


def begin(config: RunConfig, out: Path, stack: ExitStack) -> None:
    """The folder is this run's alone, and what it holds is no other run's."""
    stack.enter_context(lock_folder(out))
    facts = checkpoint.newest_facts(out / CHECKPOINTS)
    if facts is not None:
        check_same_config(out, facts, config)


class Training:
    """A run in progress: target, optimizer, average, and the number of finished steps."""

    def __init__(
        self,
        config: RunConfig,
        out: Path,
        accelerator: Accelerator,
        stop: StopRequest | None = None,
    ) -> None:
        """Raises Stopped, on every process, where somebody asks to stop while it gets ready."""
        self.config, self.out, self.accelerator = config, out, accelerator
        stop = stop or StopRequest()
        self.data = data_of(config, out, accelerator)
        self.order = order_of(self.data, config)
        self.samples, encoders = cached(config, self.data, self.order, out, accelerator, stop)
        target, facts = assemble(config, encoders)
        self._identity = identity(config, {**facts, **shown(self.data)}, target)
        self.target = placed(target, accelerator)
        if config.train.channels_last:
            self.target.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.share = Share(
            accelerator.process_index, accelerator.num_processes, config.train.accumulation
        )
        self.validation = (
            Validation(config.validation, self.samples, accelerator)
            if config.validation.every
            else None
        )
        show = partial(pictures_at, self.data, self.order)
        self.stepper = Stepper(config, self.target, accelerator, out, show)
        self.ema = EMA(self.target.weights(), config.ema)
        self.steps_done = self.steps_saved = 0
        self._resume()

    def go(self, stop: StopRequest) -> bool:
        """Step until the end, or until somebody asks to stop; True at the end."""
        train = self.config.train
        reports: list[Report] = []
        self._on_main(lambda: reports.append(self._open_report()))
        steps = range(self.steps_done, train.steps)
        reader = batches(self.samples, self.order, self.share, steps, train.workers)
        self.target.train()
        with self._compiled() if train.compile and steps else nullcontext():
            return self._go_on(steps, reader, reports, stop)

    def _go_on(
        self, steps: range, reader: Iterator[Batch], reports: list[Report], stop: StopRequest
    ) -> bool:
        train, main = self.config.train, self.accelerator.is_main_process
        compilations = Compilations(self.target)
        try:
            if self.steps_done == 0:
                self._validate(reports)
            for _ in steps:
                outcome = self.step([next(reader) for _ in range(train.accumulation)])
                last, stopping = self.steps_done == train.steps, self._any(stop.wanted)
                if main:
                    reports[0].advance(self.steps_done)
                    if news := compilations.news():
                        reports[0].say(news)
                for remark in outcome.remarks:
                    self._on_main(partial(self._remark, reports, remark))
                if self._due(train.log_every) or last:
                    self._on_main(partial(self._note, reports, outcome.numbers()))
                if self.config.ema.kind == "power" and (
                    self._due(self.config.ema.snapshot_every) or last
                ):
                    self._snapshot()  # before the checkpoint: a resume starts there
                if self._due(self.config.validation.every) or last:
                    self._validate(reports)
                if self._due(train.checkpoint_every) or last or stopping:
                    self._save()
                if self._due(self.config.samples.every) and not last:
                    self._draw(reports)
                if stopping and not last:
                    if main:
                        reports[0].say(
                            f"stopped after step {self.steps_done}; "
                            "the same command goes on from here"
                        )
                    return False
            if self.config.has_sample_sheets:
                self._draw(reports)
        except NotANumber:
            # The state before that step, from which the run can go on.
            if self.steps_done > self.steps_saved:
                self._save()
            raise
        finally:
            for report in reports:
                report.close()
        return True

    @contextmanager
    def _compiled(self) -> Iterator[None]:
        with compiled_denoiser(self.target, len(self.order.groups)):
            now = range(self.steps_done, self.steps_done + 1)
            batch = next(batches(self.samples, self.order, self.share, now))
            check_gradient(self.target, batch, self.accelerator, self.stepper.rows)
            yield

    def export(self) -> None:
        """Write the average as a model, with what it was trained by."""
        with self.as_used() as target:
            self._on_main(partial(self._write_model, target))

    def _write_model(self, target: Target) -> None:
        notes = notes_of(self.config, self.steps_done)
        batch = self.first_batch(SCALE_PICTURES)
        target.export(self.out / MODEL, batch, self.config.export, notes)

    def _note(self, reports: list[Report], facts: dict[str, float]) -> None:
        reports[0].note(self.steps_done, facts)

    def _remark(self, reports: list[Report], text: str) -> None:
        reports[0].remark(self.steps_done, text)

    def _open_report(self) -> Report:
        text = self.config.model_dump_json(indent=1) + "\n"
        write_atomically(self.out / "config.json", lambda part: part.write_text(text))
        steps, tensorboard = self.config.train.steps, self.config.train.tensorboard
        report = Report(self.out, self.steps_done, steps, tensorboard=tensorboard)
        forget_after(self.out / snapshots.FOLDER, self.steps_done)
        if self.steps_done:
            report.say(f"resumed after step {self.steps_done}")
        return report

    def step(self, parts: list[Batch]) -> Outcome:
        """One more step over the global batch of which this process has `parts`."""
        outcome = self.stepper.step(self.steps_done, parts)
        self.steps_done += 1
        if outcome.updated:
            self.ema.update(self.target.weights(), self.steps_done)
        return outcome

    @contextmanager
    def as_used(self) -> Iterator[Target]:
        """Within the block, the target with the weights that are drawn from and exported.

        All processes enter it together, and the main one may then use the target alone.
        """
        average = self.ema.in_place_of(self.target.weights())
        with averaged(self.stepper.optimizer), average, uncompiled(self.target):
            try:
                yield put_together(self.target, self.config, self.accelerator)
            finally:
                self.target.release_encoders()

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

    def first_batch(self, pictures: int) -> Batch:
        order = Order(self.data.groups(), min(pictures, len(self.data)), self.order.seed)
        return next(batches(self.data, order, Share(), range(1))).to(self.target.device)

    def _validate(self, reports: list[Report]) -> None:
        if self.validation is None:
            return
        with self.as_used() as target:
            measured = self.validation.measure(target, alone=is_split(self.target))
        loss, by_level = measured.loss, measured.by_level
        self._on_main(lambda: reports[0].validated(self.steps_done, loss, by_level))

    def _draw(self, reports: list[Report]) -> None:
        with self.as_used() as target:
            self._on_main(partial(self._write_sheet, target, reports))

    def _write_sheet(self, target: Target, reports: list[Report]) -> None:
        path = self.out / "samples" / f"step-{self.steps_done:08d}.png"
        target.eval()
        try:
            with memory_to_draw("while drawing a sheet"):
                picture = target.draw(self.first_batch(PICTURES), self.config.samples)
            save_picture(picture, path)
        except T2IError as error:  # what is learned counts, not what a sheet shows of it
            reports[0].remark(self.steps_done, f"not drawn: {error}")
            return
        finally:
            target.train()
        reports[0].say(f"step {self.steps_done}/{self.config.train.steps}  drawn: {path}")

    def _save(self) -> None:
        state, folder = self._state(), self.out / CHECKPOINTS
        self._on_main(lambda: checkpoint.save_state(folder, state, self.config.train.keep))
        self.steps_saved = self.steps_done

    def _state(self) -> checkpoint.State:
        """All that a resume needs, split or not; on the main process alone it is complete."""
        optimizer, numbers = checkpoint.pack_optimizer(self.stepper.optimizer)
        scaler = self.accelerator.scaler
        facts = {
            **self._identity,
            "processes": self.accelerator.num_processes,
            "optimizer": numbers,
            "stepper": self.stepper.state(),
            "scaler": scaler.state_dict() if scaler else None,
        }
        main = self.accelerator.is_main_process
        tensors: dict[str, checkpoint.Tensors] = {
            "weights": gathered(self.target.weights(), main=main),
            "average": gathered(self.ema.state(), main=main),
            "optimizer": gathered(optimizer, main=main),
        }
        return checkpoint.State(self.steps_done, tensors, facts)

    def _snapshot(self) -> None:
        averages = gathered(self.ema.state(), main=self.accelerator.is_main_process)
        folder, lengths = self.out / snapshots.FOLDER, self.config.ema.lengths
        self._on_main(lambda: save_snapshot(folder, averages, lengths, self.steps_done))

    def _resume(self) -> None:
        """Take up the newest checkpoint, if there is one and it belongs to this configuration."""
        states: list[checkpoint.State | None] = []

        def look() -> int:
            states.append(checkpoint.load_newest(self.out / CHECKPOINTS))
            return states[0].step if states[0] else 0

        found, (state,) = {*together(self.accelerator, look)}, states
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
                f"The run in {self.out} has done {several(state.step, 'step')} already, more than "
                f"train.steps = {self.config.train.steps}: ask for more, or choose another --out."
            )
        for name, weight in self.target.weights().items():
            fill(weight, state.tensors["weights"][name])
        self.ema.load(state.tensors["average"])
        checkpoint.unpack_optimizer(
            self.stepper.optimizer, state.tensors["optimizer"], state.facts["optimizer"]
        )
        if self.accelerator.scaler is not None and state.facts["scaler"]:
            self.accelerator.scaler.load_state_dict(state.facts["scaler"])
        self.stepper.load(state.facts.get("stepper", {}))
        self.steps_done = self.steps_saved = state.step
