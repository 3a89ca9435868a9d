"""torch.compile of a target's denoiser, in place: the names of its weights stay as they are.

B batch rows.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from t2i.denoiser.memory_checks import is_out_of_memory
from t2i.errors import ArgumentError, TrainingError
from train.batches.batch import Batch
from train.batches.micro_batches import SAVE_MEMORY, cut
from train.parallel.processes import together
from train.targets.target import Target

BACKEND: str | Callable[..., Any] = "inductor"
"""Of torch.compile; it needs a C++ compiler on a CPU."""
NEAR = 0.1
"""How far a compiled gradient may be from the plain one, as a share of it: bf16 rounds."""
SPARE = 8
"""Kernels beyond one for each size."""


@contextmanager
def compiled_denoiser(target: Target, sizes: int) -> Iterator[None]:
    """Within the block the target's UNet is compiled when it first computes, for each size of
    picture by itself.

    One kernel for all sizes would be another one after a resume that begins with another size, and
    inductor cannot make it (torch 2.13: "cannot determine truth value of Relational"). Raises
    ArgumentError for a target without a UNet.

    sizes : of pictures, how many there are
    """
    unet = getattr(target, "unet", None)
    if not isinstance(unet, UNet2DConditionModel):
        raise ArgumentError(
            "train.compile = true, but this target trains no denoiser, which is what is compiled: "
            "set it to false."
        )
    # Beyond its limit torch computes without a compiled kernel. A batch that does not fit into
    # memory is halved, which is a size of its own.
    config: Any = torch._dynamo.config
    with config.patch(recompile_limit=max(config.recompile_limit, 2 * sizes + SPARE)):
        unet.compile(backend=BACKEND, dynamic=False)
        yield


def check_gradient(
    target: Target, batch: Batch, accelerator: Accelerator, rows: int | None = None
) -> None:
    """Raise TrainingError, on every process, where the compiled denoiser of one would learn
    something else than the plain.

    A compiler's mistake in the backward pass is silent: the loss is right, and the model learns
    little or nonsense.

    rows : of the batch, the most that fit into memory as far as it is known; fewer are compared
        where they do not fit either
    """
    while True:
        piece = cut(batch, rows)[0].to(accelerator.device)
        if all(together(accelerator, partial(compared, target, piece, accelerator))):
            return
        count = len(piece.slots)
        if count == 1:
            raise TrainingError(f"Out of memory with a single row at a time. {SAVE_MEMORY}")
        rows = (count + 1) // 2


def compared(target: Target, batch: Batch, accelerator: Accelerator) -> bool:
    """Whether memory sufficed to. Raises TrainingError where the two gradients differ."""
    try:
        compare(target, batch, accelerator)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        return True
    # Only here is the traceback gone, which held on to all that was computed.
    clear_device_cache(garbage_collection=True)
    return False


def compare(target: Target, batch: Batch, accelerator: Accelerator) -> None:
    compiled = gradient(target, batch, accelerator)
    with uncompiled(target):
        plain = gradient(target, batch, accelerator)
    off, length = (compiled - plain).norm().item(), plain.norm().item()
    if not off <= NEAR * length:
        raise TrainingError(
            f"The compiled denoiser's gradient is off by {off / max(length, 1e-30):.0%}, a mistake "
            f"of torch {torch.__version__}'s compiler: set train.compile = false."
        )


def is_compiled(target: Target) -> bool:
    """Whether `compiled_denoiser` has seen to it."""
    unet: nn.Module | None = getattr(target, "unet", None)
    return unet is not None and unet._compiled_call_impl is not None


def gradient(target: Target, batch: Batch, accelerator: Accelerator) -> Tensor:
    """Of the batch's mean loss, all trained weights one after the other, on the CPU."""
    weights = [*target.weights().values()]
    torch.manual_seed(target.seed)  # dropout draws from the global generator
    with accelerator.autocast():
        loss_B = target(batch)
    found = torch.autograd.grad(loss_B.mean(), weights, allow_unused=True)
    return torch.cat([part.flatten().float().cpu() for part in found if part is not None])


class Compilations:
    """Says when a target's denoiser was compiled: that takes a while."""

    def __init__(self, target: Target) -> None:
        self._watches = is_compiled(target)
        self._graphs = 0

    def news(self) -> str | None:
        """What to say of the time since the last question."""
        if not self._watches:
            return None
        before, self._graphs = self._graphs, graphs()
        if self._graphs == before:
            return None
        if not before:
            return "the denoiser is compiled; its gradient is that of the plain one"
        return "the denoiser was compiled once more, for pictures of another size"


def graphs() -> int:
    """Compiled in this process so far."""
    # Here, as a run that compiles nothing is spared the seconds of its import.
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


@contextmanager
def uncompiled(target: Target) -> Iterator[None]:
    """Within the block the target computes as it was written: each size that is drawn or measured
    once would be compiled for itself.
    """
    if not is_compiled(target):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
