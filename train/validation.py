"""The validation loss: the error on pictures that are never trained on, comparable over runs.

Noise and noise levels are a function of (validation.seed, the picture's content, level) alone.
Crops and captions do not change between visits, nothing is dropped, weighted or masked, and the
error is always that of the velocity. So the losses of two runs can be compared where pictures,
captions, size, noise schedule and [validation] are the same.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from t2i.data.training_dataset import TrainingDataset
from t2i.data.training_example import TrainingExample
from t2i.errors import T2IError
from t2i.randomness import derive_generator, derive_seed
from t2i.scenes.scenes import SceneDataset
from train.batches.batch_order import SlotAssignment
from train.batches.micro_batch import collate_examples
from train.data.pictures import Pictures
from train.data.pictures_config import PictureDatasetConfig
from train.data.registry import DataConfig
from train.objective.objective import Objective, ObjectiveConfig
from train.targets.denoising import BaseDenoisingTarget, EncodedValidationPicture
from train.targets.target import TrainingTarget

NOISE_LEVELS_PER_PASS = 4
"""Noise levels of a picture in one denoiser pass."""


class ValidationConfig(BaseModel):
    """Configuration of the validation loss: interval, number of pictures and noise levels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(0, ge=0)
    """Steps between measurements, beside those before the first step and after the last; 0 makes
    none."""
    most: int = Field(64, ge=1)
    """Held-out pictures that are measured: the first by their content; or scenes."""
    levels: int = Field(8, ge=1, le=1000)
    """Noise levels of each: the middles of so many equal parts of the schedule."""
    seed: int = Field(0, ge=0)
    """Of the noise, and of the scenes."""


def check_validation_possible(config: ValidationConfig, target: str, data: DataConfig) -> None:
    """Raise ValueError where a target of this kind, on this data, has no validation loss."""
    if not config.every:
        return
    if target not in ("denoiser", "finetune", "controlnet", "t2i-adapter"):
        raise ValueError(
            f"validation.every is set, but target.kind = {target!r} is no denoiser and has no "
            "validation loss: set validation.every = 0."
        )
    if isinstance(data, PictureDatasetConfig) and not data.held_out:
        raise ValueError(
            "validation.every is set, but no picture is held out: set data.held_out to a number "
            "or a share of them, such as 0.1, or validation.every = 0."
        )


@dataclass(frozen=True, slots=True)
class ValidationLossByLevel:
    """Result of a validation: the mean error at each noise level.

    by_level : from little noise to much
    """

    by_level: list[float]

    @property
    def mean_loss(self) -> float:
        """Mean validation loss over all noise levels."""
        return fmean(self.by_level)


class Validation:
    """Validation of a run: measures the loss on held-out pictures, which are encoded once and
    divided among processes.
    """

    def __init__(
        self, config: ValidationConfig, samples: TrainingDataset, accelerator: Accelerator
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self._read, self._digests = build_validation_picture_reader_and_digests(samples, config)
        self._pictures: dict[int, EncodedValidationPicture] = {}

    def __len__(self) -> int:
        """Return the number of pictures that are measured."""
        return len(self._digests)

    def measure_loss(self, target: TrainingTarget, *, alone: bool = False) -> ValidationLossByLevel:
        """Measure the validation loss of the target's current weights; all processes must call this
        together.

        alone : measure on the main process alone, which has the only whole target

        Raises DataError, on every process, for a picture that cannot be read.
        """
        assert isinstance(target, BaseDenoisingTarget)
        errors: dict[int, list[float]] = {}
        failure: list[T2IError] = []
        try:
            with self.accelerator.autocast(), eval_mode(target):
                for number in self._assigned(alone):
                    errors[number] = self._errors(target, number)
        except T2IError as error:
            failure = [error]
        if self.accelerator.num_processes > 1:
            errors = dict(gather_object([*errors.items()]))
            failure = gather_object(failure)
        if failure:
            raise failure[0]
        pictures = [errors[number] for number in sorted(errors)]
        return ValidationLossByLevel([fmean(level) for level in zip(*pictures, strict=True)])

    def _assigned(self, alone: bool) -> range:
        """Return the numbers of the pictures that this process measures."""
        if alone:
            return range(len(self) if self.accelerator.is_main_process else 0)
        return range(self.accelerator.process_index, len(self), self.accelerator.num_processes)

    def _errors(self, target: BaseDenoisingTarget, number: int) -> list[float]:
        """Return the error of a picture at each level."""
        if number not in self._pictures:
            batch = collate_examples([(SlotAssignment(0, 0, number, 0), self._read(number))])
            self._pictures[number] = target.encode_validation_picture(batch.to(target.device))
        picture, objective = (
            self._pictures[number],
            build_uniform_objective(target.objective.config),
        )
        levels = torch.arange(self.config.levels)
        errors = []
        for part in levels.split(NOISE_LEVELS_PER_PASS):
            noise_BCHW = self._noise(number, part, picture.latents_1CHW)
            quantile_B = (part + 0.5) / len(levels)
            level = objective.noise_level_at_quantile(quantile_B.to(noise_BCHW.device))
            errors.append(target.compute_validation_errors(picture, noise_BCHW, level))
        return [float(error) for error in torch.cat(errors)]

    def _noise(self, number: int, levels_B: Tensor, latents_1CHW: Tensor) -> Tensor:
        """Draw the noise (B, C, H, W) of a picture at each level."""
        digest, seed = self._digests[number], self.config.seed
        drawn = [derive_generator(seed, digest, level, "validation") for level in levels_B.tolist()]
        rows = [torch.randn(latents_1CHW.shape[1:], generator=one) for one in drawn]
        return torch.stack(rows).to(latents_1CHW.device)


@contextmanager
def eval_mode(target: nn.Module) -> Iterator[None]:
    """Context manager that puts a module into eval mode within its block and restores its training
    mode afterwards.
    """
    was_training = target.training
    target.eval()
    try:
        yield
    finally:
        target.train(was_training)


def build_validation_picture_reader_and_digests(
    samples: TrainingDataset, config: ValidationConfig
) -> tuple[Callable[[int], TrainingExample], list[str]]:
    """Select the held-out pictures of the validation; return a function that reads one by
    number, and their digests.

    For scenes these are scenes of another seed, composed like those of the run.
    """
    if isinstance(samples, SceneDataset):
        other = {"seed": derive_seed(config.seed, "validation"), "length": config.most}
        scenes = SceneDataset(samples.config.model_copy(update=other))
        return scenes.read_example, [scenes.scene_name(index) for index in range(len(scenes))]
    assert isinstance(samples, Pictures)
    held_out = samples.build_held_out_set()
    numbers = sorted(range(len(held_out)), key=held_out.picture_digest)[: config.most]
    assert numbers, "see check_validation_possible"
    return (
        lambda number: held_out.read_example(numbers[number], 0),
        [held_out.picture_digest(number) for number in numbers],
    )


def build_uniform_objective(config: ObjectiveConfig) -> Objective:
    """Return the training objective with a uniform density of timesteps and the same noise
    schedule, for the validation loss.
    """
    return Objective(config.model_copy(update={"density": "uniform"}))
