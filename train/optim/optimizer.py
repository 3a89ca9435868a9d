"""What turns gradients into steps: five optimizers under one configuration, resumed to the bit."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from t2i.errors import ArgumentError
from t2i.optional_dependencies import how_to_install
from train.optim.ema import EMAConfig
from train.optim.learning_rate import RateConfig

Name = Literal["adamw", "adamw8bit", "adafactor", "prodigy", "schedulefree"]
Share = Annotated[float, Field(ge=0, lt=1)]
ParamGroup = dict[str, Any]

OWN_RATE = "own_rate"
"""Where a torch group keeps its learning rate before the factor of the step."""
READ_BY: dict[str, tuple[Name, ...]] = {
    "betas": ("adamw", "adamw8bit", "prodigy", "schedulefree"),
    "eps": ("adamw", "adamw8bit", "prodigy", "schedulefree"),
    "fused": ("adamw",),
    "d_coef": ("prodigy",),
    "safeguard_warmup": ("prodigy",),
    "bias_correction": ("prodigy",),
}
"""Keys that not every optimizer reads, and those that do."""


class OptimizerConfig(BaseModel):
    """How gradients become steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = "adamw"
    """`prodigy` and `schedulefree` need the extra `optimizers`, `adamw8bit` `bitsandbytes`."""
    learning_rate: float = Field(1e-4, gt=0)
    """Before `rate`. A factor on the one that Prodigy finds, and 1 unless given."""
    betas: tuple[Share, Share] = (0.9, 0.999)
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
        for key, names in READ_BY.items():
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


def check_fit(optimizer: OptimizerConfig, rate: RateConfig, ema: EMAConfig) -> None:
    """Raise ValueError where an optimizer's own ways and the run's would work against each other.

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
            "itself, that is drawn from and exported: set ema.kind = 'none'."
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that are stepped alike; what is None is the configuration's."""

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float | None = None
    weight_decay: float | None = None


def build(config: OptimizerConfig, groups: Sequence[Group]) -> torch.optim.Optimizer:
    """The optimizer of these groups.

    Raises ArgumentError where its library is missing, or it cannot do what the groups ask.
    """
    return BUILDERS[config.name]([settled(group, config) for group in groups], config)


def settled(group: Group, config: OptimizerConfig) -> ParamGroup:
    """The group as torch wants it, what it leaves open taken from the configuration."""
    rate, decay = group.learning_rate, group.weight_decay
    own_rate = config.learning_rate if rate is None else rate
    return {
        "params": group.parameters,
        "name": group.name,
        "lr": own_rate,
        OWN_RATE: own_rate,
        "weight_decay": config.weight_decay if decay is None else decay,
    }


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Before a step: each group's own learning rate, times `factor` of the schedule."""
    for group in optimizer.param_groups:
        group["lr"] = group[OWN_RATE] * factor


@contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Within the block the model has the weights that are to be used, for drawing and exporting.

    Those are the average that schedule-free keeps; the gradient is taken elsewhere. Afterwards the
    weights are the very same as before: schedule-free's own way back rounds. Every other optimizer
    trains the weights that are used.
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


def adamw(groups: list[ParamGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW of torch: one kernel on a GPU, where it is fastest, and torch's own choice elsewhere.

    Torch's choice is a loop on a CPU, and its kernels over lists of tensors on other devices.
    """
    fused = config.fused
    if fused is None and all(p.is_cuda for group in groups for p in group["params"]):
        fused = True
    return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=fused)


def adamw8bit(groups: list[ParamGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW: moments in 8 bits, for parameters of 4096 numbers and more."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise missing("adamw8bit", "bitsandbytes", "bitsandbytes") from error
    if any(p.device.type == "cpu" for group in groups for p in group["params"]):
        raise ArgumentError(
            "optimizer.name = 'adamw8bit' needs an accelerator, and this run is on a CPU: "
            "set it to 'adamw', or to 'adafactor' to save memory."
        )
    built: torch.optim.Optimizer = AdamW8bit(groups, betas=config.betas, eps=config.eps)
    return built


def adafactor(groups: list[ParamGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Adafactor of transformers, with the learning rate that it is given and no other.

    Torch's own multiplies it by the size of each parameter and caps it by 1 / sqrt(step): it would
    no longer be a function of the configuration, and LoRA's parameters, which start at zero, would
    hardly move.
    """
    from transformers.optimization import Adafactor

    return Adafactor(groups, scale_parameter=False, relative_step=False)


def prodigy(groups: list[ParamGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Prodigy (Mishchenko & Defazio, 2023, arXiv 2306.06101): it finds the learning rate itself."""
    try:
        from prodigyopt import Prodigy
    except ImportError as error:
        raise missing("prodigy", "prodigyopt") from error
    rates = {group["name"]: group[OWN_RATE] for group in groups}
    if len({*rates.values()}) > 1:
        raise ArgumentError(
            f"optimizer.name = 'prodigy' finds one step size for all, and was given the learning "
            f"rates {rates}: give them one learning_rate, or choose another optimizer."
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


def schedulefree(groups: list[ParamGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Schedule-free AdamW (Defazio et al., 2024, arXiv 2405.15682), ready to train."""
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError as error:
        raise missing("schedulefree", "schedulefree") from error
    built = AdamWScheduleFree(groups, betas=config.betas, eps=config.eps)
    built.train()
    optimizer: torch.optim.Optimizer = built
    return optimizer


def missing(name: str, package: str, extra: str = "optimizers") -> ArgumentError:
    return ArgumentError(
        f"optimizer.name = {name!r} needs {package}: {how_to_install(extra)}, "
        "or choose 'adamw' or 'adafactor'."
    )


BUILDERS = {
    "adamw": adamw,
    "adamw8bit": adamw8bit,
    "adafactor": adafactor,
    "prodigy": prodigy,
    "schedulefree": schedulefree,
}
