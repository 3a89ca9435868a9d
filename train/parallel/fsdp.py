"""Weights split among the processes: FSDP2, as Accelerate's config asks for it.

Of a split tensor (a DTensor) each process holds some rows. A block of the model is put together
while it computes, everything else in it while the target does. What is said here of split tensors
leaves plain ones as they are.
"""

import os
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from t2i.errors import ArgumentError
from train.loop_config import LoopConfig

Module = TypeVar("Module", bound=nn.Module)

OPTIMIZERS = ("adamw", "schedulefree")
"""Those that step each number by itself; the others look at rows, blocks or sums of a tensor."""


def plugin() -> FullyShardedDataParallelPlugin | None:
    """What Accelerate's config says of FSDP, or None where it does not ask for it.

    Without a precision of its own: autocast computes in `train.precision`, split or not. Raises
    ArgumentError where it asks for the first version.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    if os.environ.get("FSDP_VERSION") != "2":
        raise refused("fsdp_version is not 2", "set fsdp_version: 2")
    return FullyShardedDataParallelPlugin(mixed_precision_policy=MixedPrecisionPolicy())


def check_plugin(asked: FullyShardedDataParallelPlugin, loop: LoopConfig, optimizer: str) -> None:
    """Raise ArgumentError for what split weights cannot have here, with the remedy."""
    remedies = {
        "fsdp_activation_checkpointing is on": (
            asked.activation_checkpointing,
            "set it to false, and target.gradient_checkpointing = true in the run's config",
        ),
        "fsdp_cpu_ram_efficient_loading is on": (
            asked.cpu_ram_efficient_loading,
            "set it to false: every process reads the model",
        ),
        "fsdp_offload_params is on": (
            "CPUOffload" in type(asked.cpu_offload).__name__,
            "set it to false",
        ),
        "fsdp_auto_wrap_policy is SIZE_BASED_WRAP": (
            asked.min_num_params is not None,
            "choose TRANSFORMER_BASED_WRAP with fsdp_transformer_layer_cls_to_wrap, or NO_WRAP",
        ),
        "train.precision is 'fp16'": (loop.precision == "fp16", "choose 'bf16' or 'no'"),
        "train.channels_last is true": (loop.channels_last, "set it to false"),
        "train.compile is true": (loop.compile, "set it to false"),
        f"optimizer.name is {optimizer!r}": (
            optimizer not in OPTIMIZERS,
            f"choose {' or '.join(map(repr, OPTIMIZERS))}",
        ),
    }
    for what, (wrong, remedy) in remedies.items():
        if wrong:
            raise refused(what, remedy)


def refused(what: str, remedy: str) -> ArgumentError:
    return ArgumentError(
        f"The accelerate config asks for FSDP, which splits the weights, and {what}: {remedy}."
    )


def is_wanted() -> bool:
    """Also of the only process of a launcher, as on several: its part is then the whole."""
    return plugin() is not None and torch.distributed.is_initialized()


def is_split(module: nn.Module) -> bool:
    return isinstance(module, FSDPModule)


def placed(target: Module, accelerator: Accelerator) -> Module:
    """The target on its device; one that is to be split goes there block by block, later."""
    return target if is_wanted() else target.to(accelerator.device)


def split(target: nn.Module, accelerator: Accelerator) -> dict[nn.Parameter, nn.Parameter]:
    """Split the target's weights where that is asked for; each parameter it had -> the one now."""
    asked = plugin()
    if asked is None or not is_wanted():
        return {parameter: parameter for parameter in target.parameters()}
    names = {parameter: name for name, parameter in target.named_parameters()}
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    settings: dict[str, Any] = {"reshard_after_forward": asked.reshard_after_forward}
    for block in blocks(target, asked.transformer_cls_names_to_wrap):
        fully_shard(block, mesh=mesh, **settings)
    fully_shard(target, mesh=mesh)
    compute_in_precision(target, accelerator)

    now = dict(target.named_parameters())
    for parameter in names:
        # Whoever still has one of the old parameters must not keep the whole weight with it.
        parameter.data = parameter.data.new_empty(0)
    return {parameter: now[name] for parameter, name in names.items()}


def blocks(target: nn.Module, classes: list[str] | None = None) -> list[nn.Module]:
    """What is put together by itself, inner ones first.

    Modules of the named classes; when none are named, the middle of each UNet and the members of
    the outermost lists: its other blocks, and the layers of text encoders.
    """
    if classes:
        found = [module for module in target.modules() if type(module).__name__ in classes]
        missing = {*classes} - {type(module).__name__ for module in found}
        if missing:
            there = {type(module).__name__ for module in target.modules()}
            raise ArgumentError(
                f"fsdp_transformer_layer_cls_to_wrap names {min(missing)}, which the model has not "
                f"got; it has {', '.join(sorted(there))}."
            )
        return found[::-1]
    found, waiting = [], [target]
    while waiting:
        for name, child in waiting.pop().named_children():
            if isinstance(child, nn.ModuleList):
                lists = [member for member in child if isinstance(member, nn.ModuleList)]
                waiting += lists
                found += [member for member in child if member not in lists]
            elif name == "mid_block":
                found.append(child)
            else:
                waiting.append(child)
    return [module for module in found if next(module.parameters(), None) is not None]


def compute_in_precision(target: nn.Module, accelerator: Accelerator) -> None:
    """Let the target's forward be under autocast, as Accelerate does with whole ones.

    Without its cache, which would keep a copy of every block that was put together.
    """
    handler = AutocastKwargs(cache_enabled=False)
    target.forward = accelerator.autocast(handler)(target.forward)


def prepared(
    target: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator
) -> tuple[nn.Module, Any]:
    """Target and optimizer as Accelerate runs them."""
    if is_split(target):
        return target, accelerator.prepare_optimizer(optimizer)
    model, accelerated = accelerator.prepare(target, optimizer)
    return model, accelerated


def whole(tensor: Tensor) -> Tensor:
    """The tensor put together; all processes ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Tensor], *, main: bool) -> dict[str, Tensor]:
    """Whole tensors; all processes ask for them, and of split ones `main` alone gets any.

    One after the other, those that were put together on the CPU.
    """
    found = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, DTensor):
            found[name] = tensor
            continue
        together = whole(tensor.detach())
        if main:
            found[name] = together.cpu()
    return found


def held(tensor: Tensor) -> Tensor:
    """What this process holds of it, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def split_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which all processes have, split as `like` is."""
    if not isinstance(like, DTensor):
        return value
    here = value.to(like.device)
    return distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def fill(tensor: Tensor, value: Tensor) -> None:
    """Give the tensor the values of a whole one."""
    tensor.copy_(split_like(value, tensor))
