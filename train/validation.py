"""The loss on pictures that are never trained on: the same measure whatever a run is made of.

Noise and noise levels are a function of (validation.seed, the picture's content, level) alone,
pictures look and are called the same at every visit, nothing is dropped, weighted or masked, and
the error is that of one quantity whatever the model predicts. So the losses of two runs compare
where the pictures, their captions and size, the noise schedule and [validation] are the same.
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

from t2i.errors import T2IError
from t2i.randomness import derive_generator, derive_seed
from t2i.scenes.sample import Sample, Samples
from t2i.scenes.scenes import Scenes
from train.batches.batch import collate
from train.batches.order import Place
from train.data.pictures import Pictures
from train.data.pictures_config import PicturesConfig
from train.data.registry import DataConfig
from train.objective.objective import Objective, ObjectiveConfig
from train.targets.denoising import DenoisingTarget, ValidationPicture
from train.targets.target import Target

AT_ONCE = 4
"""Levels of one picture in one pass of the denoiser."""


class ValidationConfig(BaseModel):
    """How often, on what and how finely it is measured."""

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


def check_can_be_measured(config: ValidationConfig, target: str, data: DataConfig) -> None:
    """Raise ValueError where a target of that kind, on that data, has nothing to measure."""
    if not config.every:
        return
    if target not in ("denoiser", "finetune"):
        raise ValueError(
            f"validation.every is set, but target.kind = {target!r} is no denoiser and has no "
            "validation loss: set validation.every = 0."
        )
    if isinstance(data, PicturesConfig) and not data.held_out:
        raise ValueError(
            "validation.every is set, but no picture is held out: set data.held_out to a number "
            "or a share of them, such as 0.1, or validation.every = 0."
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """by_level : from little noise to much"""

    by_level: list[float]

    @property
    def loss(self) -> float:
        return fmean(self.by_level)


class Validation:
    """The held-out pictures, shared out among the processes, and encoded once."""

    def __init__(
        self, config: ValidationConfig, samples: Samples, accelerator: Accelerator
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self._read, self._digests = held_out(samples, config)
        self._pictures: dict[int, ValidationPicture] = {}

    def __len__(self) -> int:
        """How many pictures are measured."""
        return len(self._digests)

    def measure(self, target: Target, *, alone: bool = False) -> Measured:
        """By the weights that the target has now; all processes ask for it.

        alone : only the main process has a whole target

        Raises DataError, on every process, for a picture that cannot be read.
        """
        assert isinstance(target, DenoisingTarget)
        errors: dict[int, list[float]] = {}
        failure: list[T2IError] = []
        try:
            with self.accelerator.autocast(), evaluated(target):
                for number in self._own(alone):
                    errors[number] = self._errors(target, number)
        except T2IError as error:
            failure = [error]
        if self.accelerator.num_processes > 1:
            errors = dict(gather_object([*errors.items()]))
            failure = gather_object(failure)
        if failure:
            raise failure[0]
        pictures = [errors[number] for number in sorted(errors)]
        return Measured([fmean(level) for level in zip(*pictures, strict=True)])

    def _own(self, alone: bool) -> range:
        """The pictures that this process measures."""
        if alone:
            return range(len(self) if self.accelerator.is_main_process else 0)
        return range(self.accelerator.process_index, len(self), self.accelerator.num_processes)

    def _errors(self, target: DenoisingTarget, number: int) -> list[float]:
        """Of a picture at each level."""
        if number not in self._pictures:
            batch = collate([(Place(0, 0, number, 0), self._read(number))])
            self._pictures[number] = target.validation_picture(batch.to(target.device))
        picture, objective = self._pictures[number], evenly(target.objective.config)
        levels = torch.arange(self.config.levels)
        errors = []
        for part in levels.split(AT_ONCE):
            noise_BCHW = self._noise(number, part, picture.latents_1CHW)
            quantile_B = (part + 0.5) / len(levels)
            level = objective.level(quantile_B.to(noise_BCHW.device))
            errors.append(target.velocity_errors(picture, noise_BCHW, level))
        return [float(error) for error in torch.cat(errors)]

    def _noise(self, number: int, levels_B: Tensor, latents_1CHW: Tensor) -> Tensor:
        """(B, C, H, W), the picture's own at each level."""
        digest, seed = self._digests[number], self.config.seed
        drawn = [derive_generator(seed, digest, level, "validation") for level in levels_B.tolist()]
        rows = [torch.randn(latents_1CHW.shape[1:], generator=one) for one in drawn]
        return torch.stack(rows).to(latents_1CHW.device)


@contextmanager
def evaluated(target: nn.Module) -> Iterator[None]:
    """Within the block nothing of it drops out."""
    was_training = target.training
    target.eval()
    try:
        yield
    finally:
        target.train(was_training)


def held_out(
    samples: Samples, config: ValidationConfig
) -> tuple[Callable[[int], Sample], list[str]]:
    """How to read the pictures to measure by their numbers, and digests of what they are.

    Of scenes they are ones of another seed: composed as those of the run, but not among them.
    """
    if isinstance(samples, Scenes):
        other = {"seed": derive_seed(config.seed, "validation"), "length": config.most}
        scenes = Scenes(samples.config.model_copy(update=other))
        return scenes.read, [scenes.sample_name(index) for index in range(len(scenes))]
    assert isinstance(samples, Pictures)
    apart = samples.held_out()
    numbers = sorted(range(len(apart)), key=apart.digest)[: config.most]
    assert numbers, "see check_can_be_measured"
    return (
        lambda number: apart.read(numbers[number], 0),
        [apart.digest(number) for number in numbers],
    )


def evenly(config: ObjectiveConfig) -> Objective:
    """The schedule of an objective, every timestep as likely as any other."""
    return Objective(config.model_copy(update={"density": "uniform"}))
