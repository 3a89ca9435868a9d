"""Weights sharded over the processes: FSDP2, where Accelerate's config asks for it.

Of a sharded tensor (a DTensor) each process holds some rows. FSDP gathers the weights of a block
while that block computes, and all other weights while the whole target does. Functions on tensors
leave ordinary tensors as they are.
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

ELEMENTWISE_OPTIMIZERS = ("adamw", "schedulefree")
"""Optimizers that step each number by itself; others need whole rows, blocks or tensors."""


def build_requested_fsdp_plugin() -> FullyShardedDataParallelPlugin | None:
    """Build the FSDP plugin that Accelerate's config asks for (in environment variables), or return
    None where it asks for none.

    The plugin has no precision of its own: autocast computes in `train.precision` either way.
    Raises ArgumentError for FSDP 1.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    if os.environ.get("FSDP_VERSION") != "2":
        raise _fsdp_error("fsdp_version is not 2", "set fsdp_version: 2")
    return FullyShardedDataParallelPlugin(mixed_precision_policy=MixedPrecisionPolicy())


def check_fsdp_settings(
    asked: FullyShardedDataParallelPlugin, loop: LoopConfig, optimizer: str
) -> None:
    """Raise ArgumentError, with the remedy, for settings that sharded weights do not support."""
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
            optimizer not in ELEMENTWISE_OPTIMIZERS,
            f"choose {' or '.join(map(repr, ELEMENTWISE_OPTIMIZERS))}",
        ),
    }
    for what, (wrong, remedy) in remedies.items():
        if wrong:
            raise _fsdp_error(what, remedy)


def _fsdp_error(what: str, remedy: str) -> ArgumentError:
    return ArgumentError(
        f"The accelerate config asks for FSDP, which shards the weights, and {what}: {remedy}."
    )


def is_fsdp_requested() -> bool:
    """Return True where weights are to be sharded, also by a launcher of one process."""
    return build_requested_fsdp_plugin() is not None and torch.distributed.is_initialized()


def is_module_sharded(module: nn.Module) -> bool:
    """Return True for a module whose weights are sharded."""
    return isinstance(module, FSDPModule)


def move_to_device_unless_fsdp(target: Module, accelerator: Accelerator) -> Module:
    """Move the target to the accelerator's device, unless FSDP will move it there block by
    block.
    """
    return target if is_fsdp_requested() else target.to(accelerator.device)


def shard_weights_if_requested(
    target: nn.Module, accelerator: Accelerator
) -> dict[nn.Parameter, nn.Parameter]:
    """Shard the target's weights with FSDP2 where that is requested; return a map from old
    parameters to new ones.
    """
    asked = build_requested_fsdp_plugin()
    if asked is None or not is_fsdp_requested():
        return {parameter: parameter for parameter in target.parameters()}
    names = {parameter: name for name, parameter in target.named_parameters()}
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    settings: dict[str, Any] = {"reshard_after_forward": asked.reshard_after_forward}
    for block in list_fsdp_blocks(target, asked.transformer_cls_names_to_wrap):
        fully_shard(block, mesh=mesh, **settings)
    fully_shard(target, mesh=mesh)
    _autocast_forward(target, accelerator)

    now = dict(target.named_parameters())
    for parameter in names:
        # Remaining references to an old parameter must not keep the whole weight in memory.
        parameter.data = parameter.data.new_empty(0)
    return {parameter: now[name] for parameter, name in names.items()}


def list_fsdp_blocks(target: nn.Module, classes: list[str] | None = None) -> list[nn.Module]:
    """List the modules whose weights FSDP gathers one by one, inner modules first.

    These are the modules of the named classes. When none are named, they are the middle of each
    UNet and the members of the outermost module lists: the UNet's other blocks, and the layers of
    text encoders. Raises ArgumentError for a class that the model does not have.
    """
    if classes:
        found = [module for module in target.modules() if type(module).__name__ in classes]
        missing = {*classes} - {type(module).__name__ for module in found}
        if missing:
            there = {type(module).__name__ for module in target.modules()}
            raise ArgumentError(
                f"fsdp_transformer_layer_cls_to_wrap names {min(missing)}, a class that the model "
                f"does not have; it has {', '.join(sorted(there))}."
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


def _autocast_forward(target: nn.Module, accelerator: Accelerator) -> None:
    """Run the target's forward under autocast, as Accelerate does for unsharded models.

    The cache of autocast is off: it would keep a copy of every gathered block.
    """
    handler = AutocastKwargs(cache_enabled=False)
    target.forward = accelerator.autocast(handler)(target.forward)


def prepare_with_accelerate(
    target: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator
) -> tuple[nn.Module, Any]:
    """Return target and optimizer prepared by Accelerate; a target sharded by FSDP stays itself."""
    if is_module_sharded(target):
        return target, accelerator.prepare_optimizer(optimizer)
    model, accelerated = accelerator.prepare(target, optimizer)
    return model, accelerated


def gather_tensor(tensor: Tensor) -> Tensor:
    """Gather one whole tensor from its shards; all processes must call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_tensors(tensors: Mapping[str, Tensor], *, main: bool) -> dict[str, Tensor]:
    """Gather whole tensors from all shards by name; all processes must call this together.

    Sharded tensors are gathered one after the other and moved to the CPU; only the process with
    `main` keeps them, the others get none.
    """
    found = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, DTensor):
            found[name] = tensor
            continue
        whole = gather_tensor(tensor.detach())
        if main:
            found[name] = whole.cpu()
    return found


def get_local_shard(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor, sharing its memory; an unsharded tensor stays
    itself.
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """Shard a whole tensor, which all processes have, in the way `like` is sharded."""
    if not isinstance(like, DTensor):
        return value
    here = value.to(like.device)
    return distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def copy_into_sharded(tensor: Tensor, value: Tensor) -> None:
    """Copy the values of an unsharded tensor into one that may be sharded."""
    tensor.copy_(shard_like(value, tensor))
