"""torch.compile of a target's denoiser, in place, so that the names of its weights stay.

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
from train.batches.micro_batch import MicroBatch
from train.batches.micro_batch_splitting import SAVE_MEMORY_HINT, split_micro_batch
from train.parallel.processes import run_on_all_processes_and_gather
from train.targets.target import TrainingTarget

COMPILE_BACKEND: str | Callable[..., Any] = "inductor"
"""Backend of torch.compile; it needs a C++ compiler on a CPU."""
MAX_GRADIENT_DISTANCE = 0.1
"""Largest relative distance of a compiled gradient from the eager one: bf16 rounds."""
MAX_EXTRA_KERNELS = 8
"""Kernels allowed beyond one for each size of picture."""


@contextmanager
def compiling_denoiser(target: TrainingTarget, sizes: int) -> Iterator[None]:
    """Compile the target's UNet in place within the block, at its first pass for each picture size.

    One kernel for all sizes would differ after a resume that begins with another size, and
    inductor cannot make it (torch 2.13: "cannot determine truth value of Relational"). Raises
    ArgumentError for a target without a UNet.

    sizes : number of different sizes of pictures
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
    with config.patch(recompile_limit=max(config.recompile_limit, 2 * sizes + MAX_EXTRA_KERNELS)):
        unet.compile(backend=COMPILE_BACKEND, dynamic=False)
        yield


def check_compiled_gradient(
    target: TrainingTarget, batch: MicroBatch, accelerator: Accelerator, rows: int | None = None
) -> None:
    """Raise TrainingError, on every process, where a compiled gradient differs from the eager one.

    A compiler's mistake in the backward pass is silent: the loss is right, and the model learns
    little or nonsense.

    rows : rows of the batch that fit into memory, as far as that is known; they are halved while
        they do not fit
    """
    while True:
        piece = split_micro_batch(batch, rows)[0].to(accelerator.device)
        if all(
            run_on_all_processes_and_gather(
                accelerator, partial(_compare_if_fits, target, piece, accelerator)
            )
        ):
            return
        count = len(piece.slots)
        if count == 1:
            raise TrainingError(f"Out of memory with a single row at a time. {SAVE_MEMORY_HINT}")
        rows = (count + 1) // 2


def _compare_if_fits(target: TrainingTarget, batch: MicroBatch, accelerator: Accelerator) -> bool:
    """Compare the gradients; False where memory does not suffice."""
    try:
        _compare(target, batch, accelerator)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        return True
    # Only here is the traceback gone, which kept everything that was computed.
    clear_device_cache(garbage_collection=True)
    return False


def _compare(target: TrainingTarget, batch: MicroBatch, accelerator: Accelerator) -> None:
    compiled = compute_gradient(target, batch, accelerator)
    with without_compilation(target):
        eager = compute_gradient(target, batch, accelerator)
    off, length = (compiled - eager).norm().item(), eager.norm().item()
    if not off <= MAX_GRADIENT_DISTANCE * length:
        raise TrainingError(
            f"The compiled denoiser's gradient is off by {off / max(length, 1e-30):.0%}, a mistake "
            f"of torch {torch.__version__}'s compiler: set train.compile = false."
        )


def is_compiled(target: TrainingTarget) -> bool:
    """Return True for a target whose denoiser `compiling_denoiser` compiles."""
    unet: nn.Module | None = getattr(target, "unet", None)
    return unet is not None and unet._compiled_call_impl is not None


def compute_gradient(target: TrainingTarget, batch: MicroBatch, accelerator: Accelerator) -> Tensor:
    """Return the gradient of the batch's mean loss, all weights concatenated, on the CPU."""
    weights = [*target.collect_trained_parameters_by_name().values()]
    torch.manual_seed(target.seed)  # dropout draws from the global generator
    with accelerator.autocast():
        loss_B = target(batch)
    found = torch.autograd.grad(loss_B.mean(), weights, allow_unused=True)
    return torch.cat([part.flatten().float().cpu() for part in found if part is not None])


class CompilationMonitor:
    """Monitor that detects when torch.compile compiled a target's denoiser, to tell the user why
    it took long.
    """

    def __init__(self, target: TrainingTarget) -> None:
        self._is_compiled = is_compiled(target)
        self._graphs = 0

    def poll(self) -> str | None:
        """Return a message about what torch.compile compiled since the last call; None if
        nothing.
        """
        if not self._is_compiled:
            return None
        before, self._graphs = self._graphs, count_compiled_graphs()
        if self._graphs == before:
            return None
        if not before:
            return "the denoiser is compiled; its gradient equals the eager one"
        return "the denoiser was compiled once more, for pictures of another size"


def count_compiled_graphs() -> int:
    """Count the graphs that torch.compile made in this process so far."""
    # Imported here: it takes seconds, which a run that compiles nothing is spared.
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


@contextmanager
def without_compilation(target: TrainingTarget) -> Iterator[None]:
    """Run the target without its compiled kernels (eagerly) within the block.

    Otherwise each size that is drawn or measured once would be compiled for itself.
    """
    if not is_compiled(target):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
