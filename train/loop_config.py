"""The settings of the training loop: the table [train] of a run's TOML."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LoopConfig(BaseModel):
    """Configuration of the training loop: steps, batch size, precision, checkpoints, logging."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(ge=1)
    """Optimizer steps in all."""
    batch_size: int = Field(ge=1)
    """Pictures per step, over all processes and accumulation parts."""
    accumulation: int = Field(1, ge=1)
    """Parts in which each process computes its share of a batch."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """What autocast computes in; weights and averages stay float32."""
    channels_last: bool = False
    """Lay the weights of convolutions out channels last: the same model, most often faster."""
    compile: bool = False
    """Compile the denoiser: the same but for rounding; the first step takes minutes."""
    device: Literal["auto", "cpu"] = "auto"
    workers: int = Field(0, ge=0)
    """Processes that read data ahead."""
    log_every: int = Field(10, ge=1)
    tensorboard: bool = False
    checkpoint_every: int = Field(500, ge=1)
    keep: int = Field(2, ge=1)
    """Checkpoints that stay."""
    bad_steps: int = Field(0, ge=0)
    """Steps that are skipped where loss or gradient is no number; one more ends the run."""
