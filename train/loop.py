"""The training loop: every training method of t2i is a configuration of it.

Step n is a function of the configuration and n alone, so that a resumed run equals one that was
never stopped.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from t2i.atomic_files import write_atomically
from t2i.denoiser.memory_checks import translating_out_of_memory
from t2i.errors import ArgumentError, T2IError
from t2i.pictures import save_picture
from t2i.run_folder import StoppedDuringSetup, StopSignalHandler
from t2i.terminal import plural
from train import checkpoint
from train.batches.batch_order import BatchOrder, ProcessShare
from train.batches.micro_batch import MicroBatch, iterate_micro_batches_of_steps
from train.checkpoint_state import collect_checkpoint_state, restore_checkpoint_state
from train.config.run_config import RunConfig
from train.model_notes import build_model_notes
from train.nonfinite_step_report import NonFiniteStepLimitError, load_step_thumbnails
from train.optim.ema import EMA
from train.optim.ema_snapshots import SNAPSHOT_FOLDER, remove_snapshots_after, save_snapshot
from train.optim.optimizer import using_schedulefree_average
from train.parallel.fsdp import (
    gather_tensors,
    is_module_sharded,
    move_to_device_unless_fsdp,
)
from train.parallel.lost_processes import explaining_lost_process
from train.parallel.processes import (
    is_true_on_any_process,
    open_accelerator,
    run_on_main_and_raise_on_all,
)
from train.reporting.training_logger import TrainingLogger
from train.setup.assembly import assemble_target, gather_unsharded_target
from train.setup.build_cache import RunConfigForCache, build_cached_dataset_and_encoders
from train.setup.class_pictures import (
    build_class_picture_spec,
    generate_class_pictures_on_main,
)
from train.setup.compiling import (
    CompilationMonitor,
    check_compiled_gradient,
    compiling_denoiser,
    without_compilation,
)
from train.setup.fast_compute import set_memory_format_and_attention
from train.setup.resume_checks import (
    build_config_and_model_identity,
    check_checkpoint_is_of_same_run,
    lock_run_folder_and_check_config,
    read_newest_checkpoint_on_all,
)
from train.setup.run_data import (
    RunConfigForData,
    build_batch_order,
    build_data_identity,
    load_run_dataset,
)
from train.step import RunConfigForStep, StepMetrics, TrainingStepper
from train.targets.target import TrainingTarget
from train.validation import Validation

MODEL_FOLDER = "model"
NUM_SHEET_PICTURES = 12
"""Pictures of the data on a sample sheet that shows them."""
NUM_LATENT_SCALE_PICTURES = 64
"""Pictures from which the scale of an autoencoder's latents is computed."""


def run_training(config: RunConfig, out: Path) -> bool:
    """Train a configured run to its last step, resuming from the newest checkpoint; return True
    when it is finished.

    On SIGTERM, SIGHUP or Ctrl-C saves a checkpoint and returns False. Raises T2IError, on every
    process, for what a user can fix.
    """
    with StopSignalHandler() as stop, ExitStack() as stack:
        accelerator = stack.enter_context(open_accelerator(config.train, config.optimizer.name))
        run_on_main_and_raise_on_all(
            accelerator, lambda: lock_run_folder_and_check_config(config, out, stack)
        )
        spec = build_class_picture_spec(config, out)
        if spec and not generate_class_pictures_on_main(spec, accelerator, stop):
            return False
        try:
            training = TrainingRun(config, out, accelerator, stop)
            finished = training.run(stop)
        except StoppedDuringSetup:
            finished = False
        if finished:
            training.export()
    return finished


class TrainingRun:
    """Training run in progress: data, target, optimizer and EMA, and the number of finished
    steps.
    """

    def __init__(
        self,
        config: RunConfig,
        out: Path,
        accelerator: Accelerator,
        stop: StopSignalHandler | None = None,
    ) -> None:
        """Raises StoppedDuringSetup, on every process, when a stop is requested during setup."""
        self.config, self.out, self.accelerator = config, out, accelerator
        stop = stop or StopSignalHandler()
        batch_size = config.train.batch_size
        data = RunConfigForData(config.data, config.prior, config.target, batch_size)
        self.data = load_run_dataset(data, out, accelerator)
        self.order = build_batch_order(self.data, batch_size, config.seed)
        cache = RunConfigForCache(config.cache, config.target, config.train)
        self.samples, encoders = build_cached_dataset_and_encoders(
            cache, self.data, self.order, out, accelerator, stop
        )
        target, facts = assemble_target(config, encoders)
        self._identity = build_config_and_model_identity(
            config, {**facts, **build_data_identity(self.data)}, target
        )
        self.target = move_to_device_unless_fsdp(target, accelerator)
        set_memory_format_and_attention(self.target, accelerator.device, config.train)
        self.share = ProcessShare(
            accelerator.process_index, accelerator.num_processes, config.train.accumulation
        )
        self.validation = (
            Validation(config.validation, self.samples, accelerator)
            if config.validation.every
            else None
        )
        settings = RunConfigForStep(config.seed, config.train, config.optimizer, config.rate)
        load_pictures = partial(load_step_thumbnails, self.data, self.order)
        self.stepper = TrainingStepper(settings, self.target, accelerator, out, load_pictures)
        self.ema = EMA(self.target.collect_trained_parameters_by_name(), config.ema)
        self.steps_done = self.steps_saved = 0
        self._resume()

    def run(self, stop: StopSignalHandler) -> bool:
        """Train until the last step, or until a stop is requested; return True at the end."""
        train = self.config.train
        loggers: list[TrainingLogger] = []
        self._on_main(lambda: loggers.append(self._open_logger()))
        steps = range(self.steps_done, train.steps)
        reader = iterate_micro_batches_of_steps(
            self.samples, self.order, self.share, steps, train.workers
        )
        self.target.train()
        with (
            explaining_lost_process(self.accelerator, lambda: f"after step {self.steps_done}"),
            self._compiled() if train.compile and steps else nullcontext(),
        ):
            return self._run_steps(steps, reader, loggers, stop)

    def _run_steps(
        self,
        steps: range,
        reader: Iterator[MicroBatch],
        loggers: list[TrainingLogger],
        stop: StopSignalHandler,
    ) -> bool:
        train, main = self.config.train, self.accelerator.is_main_process
        compilations = CompilationMonitor(self.target)
        try:
            if self.steps_done == 0:
                self._validate(loggers)
            for _ in steps:
                result = self.make_optimizer_step([next(reader) for _ in range(train.accumulation)])
                last = self.steps_done == train.steps
                stopping = is_true_on_any_process(self.accelerator, stop.wanted)
                if main:
                    loggers[0].move_progress_bar_to(self.steps_done)
                    if message := compilations.poll():
                        loggers[0].print_line(message)
                self._after_step(result, loggers, last=last, stopping=stopping)
                if stopping and not last:
                    if main:
                        loggers[0].print_line(
                            f"stopped after step {self.steps_done}; "
                            "the same command goes on from here"
                        )
                    return False
            if self.config.has_sample_sheets:
                self._draw_sheet(loggers)
        except NonFiniteStepLimitError:
            # The state before that step, from which the run can be resumed.
            if self.steps_done > self.steps_saved:
                self._save()
            raise
        finally:
            for logger in loggers:
                logger.close()
        return True

    def _after_step(
        self, result: StepMetrics, loggers: list[TrainingLogger], *, last: bool, stopping: bool
    ) -> None:
        """Log, snapshot, validate, save and draw whatever is due."""
        for remark in result.remarks:
            self._on_main(partial(self._remark, loggers, remark))
        if last or self._is_due(self.config.train.log_every):
            self._on_main(partial(self._log, loggers, result.to_log_dict()))
        ema = self.config.ema
        if ema.kind == "power" and (last or self._is_due(ema.snapshot_every)):
            self._snapshot()  # before the checkpoint, from which a resume starts
        if last or self._is_due(self.config.validation.every):
            self._validate(loggers)
        if last or stopping or self._is_due(self.config.train.checkpoint_every):
            self._save()
        if not last and self._is_due(self.config.samples.every):
            self._draw_sheet(loggers)

    @contextmanager
    def _compiled(self) -> Iterator[None]:
        with compiling_denoiser(self.target, len(self.order.groups)):
            next_step = range(self.steps_done, self.steps_done + 1)
            batch = next(
                iterate_micro_batches_of_steps(self.samples, self.order, self.share, next_step)
            )
            check_compiled_gradient(self.target, batch, self.accelerator, self.stepper.rows)
            yield

    def export(self) -> None:
        """Write the trained model with its EMA weights to the run's folder `model`, with notes on
        its training.
        """
        with self.using_ema_weights() as target:
            self._on_main(partial(self._write_model, target))

    def _write_model(self, target: TrainingTarget) -> None:
        notes = build_model_notes(self.config, self.steps_done)
        batch = self.load_first_batch(NUM_LATENT_SCALE_PICTURES)
        target.export(self.out / MODEL_FOLDER, batch, self.config.export, notes)

    def _log(self, loggers: list[TrainingLogger], facts: dict[str, float]) -> None:
        loggers[0].log_step(self.steps_done, facts)

    def _remark(self, loggers: list[TrainingLogger], text: str) -> None:
        loggers[0].log_remark(self.steps_done, text)

    def _open_logger(self) -> TrainingLogger:
        text = self.config.model_dump_json(indent=1) + "\n"
        write_atomically(self.out / "config.json", lambda part: part.write_text(text))
        steps, tensorboard = self.config.train.steps, self.config.train.tensorboard
        logger = TrainingLogger(self.out, self.steps_done, steps, tensorboard=tensorboard)
        remove_snapshots_after(self.out / SNAPSHOT_FOLDER, self.steps_done)
        if self.steps_done:
            logger.print_line(f"resumed after step {self.steps_done}")
        return logger

    def make_optimizer_step(self, micro_batches: list[MicroBatch]) -> StepMetrics:
        """Make one optimizer step over the micro-batches of this process."""
        result = self.stepper.step(self.steps_done, micro_batches)
        self.steps_done += 1
        if result.updated:
            self.ema.update(self.target.collect_trained_parameters_by_name(), self.steps_done)
        return result

    @contextmanager
    def using_ema_weights(self) -> Iterator[TrainingTarget]:
        """Give the target its EMA weights within the block, for samples, validation and export.

        All processes enter it together, and the main one may then use the target alone.
        """
        average = self.ema.using_averaged_weights(self.target.collect_trained_parameters_by_name())
        with (
            using_schedulefree_average(self.stepper.optimizer),
            average,
            without_compilation(self.target),
        ):
            try:
                yield gather_unsharded_target(self.target, self.config, self.accelerator)
            finally:
                self.target.release_encoder_weights()

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.steps_done % every == 0

    def _on_main(self, action: Callable[[], object]) -> None:
        run_on_main_and_raise_on_all(self.accelerator, action)

    def load_first_batch(self, pictures: int) -> MicroBatch:
        """Load the first batch of the data, of at most `pictures` rows, onto the device."""
        groups = self.data.group_indices_by_shape()
        order = BatchOrder(groups, min(pictures, len(self.data)), self.order.seed)
        first = next(iterate_micro_batches_of_steps(self.data, order, ProcessShare(), range(1)))
        return first.to(self.target.device)

    def _validate(self, loggers: list[TrainingLogger]) -> None:
        if self.validation is None:
            return
        with self.using_ema_weights() as target:
            measured = self.validation.measure_loss(target, alone=is_module_sharded(self.target))
        loss, by_level = measured.mean_loss, measured.by_level
        self._on_main(lambda: loggers[0].log_validation(self.steps_done, loss, by_level))

    def _draw_sheet(self, loggers: list[TrainingLogger]) -> None:
        with self.using_ema_weights() as target:
            self._on_main(partial(self._write_sheet, target, loggers))

    def _write_sheet(self, target: TrainingTarget, loggers: list[TrainingLogger]) -> None:
        path = self.out / "samples" / f"step-{self.steps_done:08d}.png"
        target.eval()
        try:
            with translating_out_of_memory("while drawing a sheet"):
                picture = target.draw_sample_sheet(
                    self.load_first_batch(NUM_SHEET_PICTURES), self.config.samples
                )
            save_picture(picture, path)
        except T2IError as error:  # a sheet that fails must not end the training
            loggers[0].log_remark(self.steps_done, f"not drawn: {error}")
            return
        finally:
            target.train()
        loggers[0].print_line(f"step {self.steps_done}/{self.config.train.steps}  drawn: {path}")

    def _save(self) -> None:
        state = collect_checkpoint_state(
            self.steps_done, self._identity, self.target, self.stepper, self.ema, self.accelerator
        )
        folder, keep = self.out / checkpoint.CHECKPOINT_FOLDER, self.config.train.keep
        self._on_main(lambda: checkpoint.save_and_prune_checkpoints(folder, state, keep))
        self.steps_saved = self.steps_done

    def _snapshot(self) -> None:
        averages = gather_tensors(self.ema.state_dict(), main=self.accelerator.is_main_process)
        folder, lengths = self.out / SNAPSHOT_FOLDER, self.config.ema.lengths
        self._on_main(lambda: save_snapshot(folder, averages, lengths, self.steps_done))

    def _resume(self) -> None:
        """Load the newest checkpoint, if any. Raises ArgumentError for one of another run."""
        state = read_newest_checkpoint_on_all(self.accelerator, self.out)
        if state is None:
            return
        check_checkpoint_is_of_same_run(self.out, state, self._identity)
        if state.step > self.config.train.steps:
            raise ArgumentError(
                f"The run in {self.out} has done {plural(state.step, 'step')} already, more than "
                f"train.steps = {self.config.train.steps}: raise it, or choose another --out."
            )
        restore_checkpoint_state(state, self.target, self.stepper, self.ema, self.accelerator)
        self.steps_done = self.steps_saved = state.step
