"""Five optimizers under one configuration; each resumes bit for bit."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from t2i.errors import ArgumentError
from t2i.optional_dependencies import build_install_command
from train.optim.ema import EMAConfig
from train.optim.learning_rate import LearningRateScheduleConfig

OptimizerName = Literal["adamw", "adamw8bit", "adafactor", "prodigy", "schedulefree"]
Fraction = Annotated[float, Field(ge=0, lt=1)]
ParamGroup = dict[str, Any]

BASE_RATE_KEY = "own_rate"
"""Key of a torch parameter group for its learning rate before the factor of the step."""
OPTIMIZERS_BY_KEY: dict[str, tuple[OptimizerName, ...]] = {
    "betas": ("adamw", "adamw8bit", "prodigy", "schedulefree"),
    "eps": ("adamw", "adamw8bit", "prodigy", "schedulefree"),
    "fused": ("adamw",),
    "d_coef": ("prodigy",),
    "safeguard_warmup": ("prodigy",),
    "bias_correction": ("prodigy",),
}
"""Keys that not every optimizer reads -> the optimizers that do."""


class OptimizerConfig(BaseModel):
    """Configuration of the optimizer: its name and settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: OptimizerName = "adamw"
    """`prodigy` and `schedulefree` need the extra `optimizers`, `adamw8bit` `bitsandbytes`."""
    learning_rate: float = Field(1e-4, gt=0)
    """Before `rate`. A factor on the one that Prodigy finds, and 1 unless given."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    """Always decoupled from the gradient, as in AdamW."""
    eps: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    fused: bool | None = None
    """AdamW in one kernel; unless given, where all weights are on a GPU."""
    d_coef: float = Field(1.0, gt=0)
    """Factor on Prodigy's estimate: 0.5 for smaller steps, 2 for larger ones."""
    safeguard_warmup: bool = False
    """Keep Prodigy's estimate from growing while `rate.warmup` holds the steps small."""
    bias_correction: bool = False
    """Adam's correction of the first steps, in Prodigy."""

    @model_validator(mode="before")
    @classmethod
    def _leave_the_rate_to_prodigy(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("name") == "prodigy":
            return {"learning_rate": 1.0, **given}
        return given

    @model_validator(mode="after")
    def _refuse_keys_that_nobody_reads(self) -> "OptimizerConfig":
        for key, names in OPTIMIZERS_BY_KEY.items():
            if self.name in names or getattr(self, key) == type(self).model_fields[key].default:
                continue
            raise ValueError(
                f"{key} is set, and {self.name} does not read it: drop it, or choose one that "
                f"does ({', '.join(names)})."
            )
        if self.name == "schedulefree" and self.betas[0] == 0:
            raise ValueError(
                "betas[0] = 0 with name = 'schedulefree', which averages by it: choose 0.9 or so."
            )
        return self


def check_schedulefree_config(
    optimizer: OptimizerConfig, rate: LearningRateScheduleConfig, ema: EMAConfig
) -> None:
    """Raise ValueError for a learning rate decay or an EMA together with the schedule-free
    optimizer.

    Schedule-free averages in place of a falling rate (Defazio et al., 2024, arXiv 2405.15682).
    """
    if optimizer.name != "schedulefree":
        return
    if rate.decay != "none":
        raise ValueError(
            f"rate.decay = {rate.decay!r} with optimizer.name = 'schedulefree', whose average "
            "takes the place of a falling rate: set rate.decay = 'none'. A warmup is welcome."
        )
    if ema.kind != "none":
        raise ValueError(
            f"ema.kind = {ema.kind!r} with optimizer.name = 'schedulefree', which keeps an average "
            "itself, which is drawn from and exported: set ema.kind = 'none'."
        )


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters with the same learning rate and weight decay; None means the configured
    default.
    """

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float | None = None
    weight_decay: float | None = None


def build_optimizer(
    config: OptimizerConfig, groups: Sequence[ParameterGroup]
) -> torch.optim.Optimizer:
    """Build the configured optimizer, such as AdamW, for parameter groups.

    Raises ArgumentError where its library is missing, or it does not support the groups.
    """
    return OPTIMIZER_BUILDERS[config.name](
        [_to_torch_group(group, config) for group in groups], config
    )


def _to_torch_group(group: ParameterGroup, config: OptimizerConfig) -> ParamGroup:
    """Convert a group to torch's form, with settings of the configuration where it has none."""
    rate, decay = group.learning_rate, group.weight_decay
    own_rate = config.learning_rate if rate is None else rate
    return {
        "params": group.parameters,
        "name": group.name,
        "lr": own_rate,
        BASE_RATE_KEY: own_rate,
        "weight_decay": config.weight_decay if decay is None else decay,
    }


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of each group to its own rate times the schedule's factor."""
    for group in optimizer.param_groups:
        group["lr"] = group[BASE_RATE_KEY] * factor


@contextmanager
def using_schedulefree_average(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Give the model the averaged weights of a schedule-free optimizer within the block.

    Schedule-free takes the gradient at other weights, which are restored from a copy: its own way
    back rounds. With any other optimizer nothing changes.
    """
    if not all("train_mode" in group for group in optimizer.param_groups):
        yield
        return
    switch: Any = optimizer
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = [parameter.detach().clone() for parameter in parameters]
    switch.eval()
    try:
        yield
    finally:
        switch.train()
        with torch.no_grad():
            for parameter, before in zip(parameters, kept, strict=True):
                parameter.copy_(before)


def build_adamw(groups: list[ParamGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build torch's AdamW: one kernel on a GPU, where it is fastest, else torch's own choice.

    Torch's choice is a loop on a CPU, and its kernels over lists of tensors on other devices.
    """
    fused = config.fused
    if fused is None and all(p.is_cuda for group in groups for p in group["params"]):
        fused = True
    return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=fused)


def build_adamw8bit(groups: list[ParamGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build bitsandbytes' AdamW: moments in 8 bits, for parameters of 4096 numbers and more."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise _missing_library("adamw8bit", "bitsandbytes", "bitsandbytes") from error
    if any(p.device.type == "cpu" for group in groups for p in group["params"]):
        raise ArgumentError(
            "optimizer.name = 'adamw8bit' needs an accelerator, and this run is on a CPU: "
            "set it to 'adamw', or to 'adafactor' to save memory."
        )
    built: torch.optim.Optimizer = AdamW8bit(groups, betas=config.betas, eps=config.eps)
    return built


def build_adafactor(groups: list[ParamGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build transformers' Adafactor, with the configured learning rate and no other.

    Torch's own multiplies it by the size of each parameter and caps it by 1 / sqrt(step): it would
    no longer be a function of the configuration, and LoRA's parameters, which start at zero, would
    hardly move.
    """
    from transformers.optimization import Adafactor

    return Adafactor(groups, scale_parameter=False, relative_step=False)


def build_prodigy(groups: list[ParamGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build Prodigy (Mishchenko & Defazio, 2023, arXiv 2306.06101), which finds its own rate."""
    try:
        from prodigyopt import Prodigy
    except ImportError as error:
        raise _missing_library("prodigy", "prodigyopt") from error
    rates = {group["name"]: group[BASE_RATE_KEY] for group in groups}
    if len({*rates.values()}) > 1:
        raise ArgumentError(
            f"optimizer.name = 'prodigy' finds one step size for all, and was given the learning "
            f"rates {rates}: set one learning_rate for all, or choose another optimizer."
        )
    with redirect_stdout(io.StringIO()):  # it prints that weight decay is decoupled
        built: torch.optim.Optimizer = Prodigy(
            groups,
            betas=config.betas,
            eps=config.eps,
            d_coef=config.d_coef,
            safeguard_warmup=config.safeguard_warmup,
            use_bias_correction=config.bias_correction,
            weight_decay=config.weight_decay,
        )
    return built


def build_schedulefree(groups: list[ParamGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build schedule-free AdamW (Defazio et al., 2024, arXiv 2405.15682), ready to train."""
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError as error:
        raise _missing_library("schedulefree", "schedulefree") from error
    built = AdamWScheduleFree(groups, betas=config.betas, eps=config.eps)
    built.train()
    optimizer: torch.optim.Optimizer = built
    return optimizer


def _missing_library(name: str, package: str, extra: str = "optimizers") -> ArgumentError:
    return ArgumentError(
        f"optimizer.name = {name!r} needs {package}: {build_install_command(extra)}, "
        "or choose 'adamw' or 'adafactor'."
    )


OPTIMIZER_BUILDERS = {
    "adamw": build_adamw,
    "adamw8bit": build_adamw8bit,
    "adafactor": build_adafactor,
    "prodigy": build_prodigy,
    "schedulefree": build_schedulefree,
}
