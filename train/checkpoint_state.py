"""State of a run in a checkpoint: weights, averages, optimizer and counters, saved and restored."""

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator

from train.checkpoint import (
    TensorsByName,
    TrainingState,
    pack_optimizer_state,
    restore_optimizer_state,
)
from train.optim.ema import EMA
from train.parallel.fsdp import copy_into_sharded, gather_tensors
from train.step import TrainingStepper
from train.targets.target import TrainingTarget


def collect_checkpoint_state(
    step: int,
    identity: Mapping[str, Any],
    target: TrainingTarget,
    stepper: TrainingStepper,
    ema: EMA,
    accelerator: Accelerator,
) -> TrainingState:
    """Collect the state of a run after `step` steps for a checkpoint, sharded tensors gathered;
    complete on the main process alone. All processes must call this together.

    identity : what must be unchanged when the run is resumed, as
        `build_config_and_model_identity` returns it
    """
    optimizer, numbers = pack_optimizer_state(stepper.optimizer)
    scaler = accelerator.scaler
    facts = {
        **identity,
        "processes": accelerator.num_processes,
        "optimizer": numbers,
        "stepper": stepper.state_dict(),
        "scaler": scaler.state_dict() if scaler else None,
    }
    main = accelerator.is_main_process
    tensors: dict[str, TensorsByName] = {
        "weights": gather_tensors(target.collect_trained_parameters_by_name(), main=main),
        "average": gather_tensors(ema.state_dict(), main=main),
        "optimizer": gather_tensors(optimizer, main=main),
    }
    return TrainingState(step, tensors, facts)


def restore_checkpoint_state(
    state: TrainingState,
    target: TrainingTarget,
    stepper: TrainingStepper,
    ema: EMA,
    accelerator: Accelerator,
) -> None:
    """Restore trained weights, averages, optimizer, gradient scaler and stepper from the state of
    a checkpoint, in place.
    """
    for name, weight in target.collect_trained_parameters_by_name().items():
        copy_into_sharded(weight, state.tensors["weights"][name])
    ema.load_state_dict(state.tensors["average"])
    restore_optimizer_state(stepper.optimizer, state.tensors["optimizer"], state.facts["optimizer"])
    if accelerator.scaler is not None and state.facts["scaler"]:
        accelerator.scaler.load_state_dict(state.facts["scaler"])
    stepper.load_state_dict(state.facts.get("stepper", {}))
