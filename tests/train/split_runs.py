"""Runs on two processes, one after the other, each over split weights.

The arguments are TOML OUT START ..., where START is a checkpoint to go on from, or "-". Prints a
line for each run: what share of the weights each process held.
"""

import shutil
from pathlib import Path

from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor

from t2i.run_folder import StopSignalHandler
from tests.train.runs import accelerator_for
from train.config.load_config import load_run_config
from train.loop import TrainingRun
from train.parallel.fsdp import get_local_shard
from train.parallel.processes import leave_process_group, run_on_main_and_raise_on_all


def main(given: list[str]) -> None:
    for toml, out, start in zip(given[::3], given[1::3], given[2::3], strict=True):
        config = load_run_config(Path(toml))
        accelerator = accelerator_for(config)
        if start != "-":
            folder = Path(out) / "checkpoints" / Path(start).name
            run_on_main_and_raise_on_all(accelerator, lambda: shutil.copytree(start, folder))  # noqa: B023
        training = TrainingRun(config, Path(out), accelerator)
        assert all(isinstance(weight, DTensor) for weight in training.target.parameters())
        assert training.run(StopSignalHandler())
        if start == "-":
            training.export()

        weights = training.target.collect_trained_parameters_by_name().values()
        here = sum(get_local_shard(weight).numel() for weight in weights)
        shares = gather_object([here / sum(weight.numel() for weight in weights)])
        run_on_main_and_raise_on_all(accelerator, lambda: print(f"{out} {shares}", flush=True))  # noqa: B023
    leave_process_group(accelerator)
