"""Split weights: two processes that hold half of each come to what one comes to alone."""

import os
import shutil
import signal
import subprocess
import sys
import warnings
from multiprocessing import connection
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from t2i.errors import ArgumentError
from tests.train import control_runs, split_runs
from tests.train.apart import (
    ended,
    free_port,
    launched,
    ready,
    said,
    start,
    start_program,
    told_by_accelerate,
    use_one_thread,
)
from tests.train.finetunes import finetune_toml
from tests.train.runs import RUN, accelerator_for, tiny_run, train_only, write_run
from tests.train.states import assert_equal_bit_for_bit, largest_difference, logged, newest
from train import checkpoint
from train.checkpoint import TrainingState
from train.config.load_config import load_run_config
from train.loop import run_training
from train.parallel import fsdp as sharding
from train.setup.assembly import assemble_target

REPO = Path(__file__).resolve().parents[2]
CONFIG = REPO / "configs" / "accelerate" / "fsdp2.yaml"
pytestmark = pytest.mark.usefixtures("_own_accelerator")

AVERAGED = """
kind = "power"
snapshot_every = 2
[samples]
every = 2
prompts = ["a red apple", "a cat"]
steps = 2
[export]
precision = "fp32"
"""
"""Drawing, snapshots and the model at the end: all that needs the weights whole."""


HEAP_CORRUPTION = {-signal.SIGABRT, -signal.SIGSEGV}
"""Exit statuses of a process that native code ended. With FSDP on CPUs, where gloo's threads gather
the weights, glibc found a corrupted heap in about one of thirty runs of the suite, never with the
checks of its malloc on, and never outside of FSDP; so such a pair of processes is started twice.
"""


def on_two_processes(*runs: tuple[Path, Path, Path | str], config: Path = CONFIG) -> dict[str, str]:
    """Do the runs (TOML, folder, checkpoint to go on from or "-"); what each said, by folder."""
    arguments = [str(argument) for run in runs for argument in run]
    _, told = told_by_accelerate("--config_file", str(config), "-m", "tests.train.split_runs")
    ready()
    log = runs[0][1].with_name("split.said")

    def statuses() -> list[int]:
        processes = [
            start_program(split_runs.main, arguments, log, use_one_thread, told | own)
            for own in launched(2, free_port())
        ]
        connection.wait([process.sentinel for process in processes], 280)
        if any(process.exitcode in HEAP_CORRUPTION for process in processes):
            for process in processes:
                process.kill()
        return [ended(process, 280) for process in processes]

    ends = statuses()
    if HEAP_CORRUPTION & {*ends}:
        warnings.warn(f"ended by a signal, done once more: {log.read_text()}", stacklevel=2)
        for _, out, _ in runs:
            shutil.rmtree(out, ignore_errors=True)
        log.unlink()
        ends = statuses()
    assert ends == [0, 0], log.read_text()
    said = [line.split(" [") for line in log.read_text().splitlines() if " [0." in line]
    return dict(said)


def assert_close(one: TrainingState, other: TrainingState) -> None:
    assert one.step == other.step
    for kind in ("weights", "average", "optimizer"):
        assert largest_difference(one, other, kind) < 1e-5, kind


def at_step(out: Path, step: int) -> Path:
    return out / "checkpoints" / f"step-{step:08d}"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "more",
    [
        False,
        # Adapters and words, and runs that were not split from the beginning to the end.
        pytest.param(True, marks=pytest.mark.long),
    ],
)
def test_split_weights_train_draw_export_and_resume_as_whole_ones(
    more: bool, tmp_path: Path, base: Path
) -> None:
    averaged = with_overrides("train.steps=2", "train.checkpoint_every=1")
    averaged = averaged.replace("decay = 0.9", AVERAGED)
    toml = write_run(tmp_path, averaged)
    tuned = finetune_toml(tmp_path / "tuned", base, "pivotal", "[export]\nprecision = 'fp32'")
    tuned.write_text(tuned.read_text().replace("steps = 4", "steps = 1"))
    run_training(load_run_config(toml), tmp_path / "one")
    one = newest(tmp_path / "one")

    held = on_two_processes(
        (toml, tmp_path / "two", "-"),
        (toml, tmp_path / "split again", tmp_path / "two/checkpoints/step-00000001"),
        *[
            (toml, tmp_path / "whole, then split", tmp_path / "one/checkpoints/step-00000001"),
            (tuned, tmp_path / "tuned by two", "-"),
        ][: 2 * more],
    )

    # Each process held half.
    assert len(held) == 2 + 2 * more
    for shares in held.values():
        assert all(0.4 < float(share) < 0.6 for share in shares.rstrip("]").split(", "))

    # It is the run of one process, and resumes to the bit.
    two = newest(tmp_path / "two")
    assert two.facts["processes"] == 2
    assert_close(one, two)
    # Adam would not show that they were clipped by the norm of a part.
    norms, expected = (grad_norms(tmp_path / out) for out in ("two", "one"))
    assert norms == pytest.approx(expected, rel=1e-4)
    assert max(norms) > 1
    assert_equal_bit_for_bit(two, newest(tmp_path / "split again"))
    whole_again = tmp_path / "split, then whole"
    checkpoint.save_and_prune_checkpoints(
        whole_again / "checkpoints", checkpoint.read_checkpoint(at_step(tmp_path / "two", 1)), 2
    )
    assert_close(one, train_only(load_run_config(toml), whole_again))

    # What is drawn and written is of the whole weights.
    sheet = "samples/step-00000002.png"
    sheets = [np.asarray(Image.open(tmp_path / out / sheet), int) for out in ("one", "two")]
    assert np.abs(sheets[0] - sheets[1]).max() <= 1
    for name in ("ema/step-00000002.safetensors", "model/unet/diffusion_pytorch_model.safetensors"):
        assert_files_close(tmp_path / "one" / name, tmp_path / "two" / name)

    if not more:
        return
    assert_close(one, newest(tmp_path / "whole, then split"))
    # Adapters, new words and a text encoder, most of the model being frozen.
    run_training(load_run_config(tuned), tmp_path / "tuned by one")
    assert_close(newest(tmp_path / "tuned by one"), newest(tmp_path / "tuned by two"))
    for name in ("lora.safetensors", "mug.safetensors"):
        folders = (tmp_path / f"tuned by {who}" / "model" / name for who in ("one", "two"))
        assert_files_close(*folders)


def grad_norms(out: Path) -> list[float]:
    return [line["grad_norm"] for line in logged(out) if "grad_norm" in line]


def assert_files_close(one: Path, other: Path) -> None:
    tensors, others = load_file(one), load_file(other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, others[name], rtol=0, atol=1e-5)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_controls_over_split_weights_are_those_of_one_process(tmp_path: Path, base: Path) -> None:
    kinds = {"controlnet": "", "t2i-adapter": "", "lora": "[target.lora]\nrank = 2\n"}
    tomls: dict[str, Path] = {}
    for name, table in kinds.items():
        kind = "controlnet" if name == "lora" else name
        tomls[name] = control_runs.write_run(tmp_path / name, base, kind)
        text = tomls[name].read_text().replace("[data]", f"{table}[data]", 1)
        tomls[name].write_text(text.replace("steps = 6", "steps = 2"))
    held = on_two_processes(
        *((toml, tmp_path / f"two {name}", "-") for name, toml in tomls.items())
    )
    assert len(held) == len(kinds)
    for name, toml in tomls.items():
        one = tmp_path / f"one {name}"
        assert run_training(load_run_config(toml), one)
        assert_close(newest(one), newest(tmp_path / f"two {name}"))
        written = "model/diffusion_pytorch_model.safetensors"
        assert_files_close(one / written, tmp_path / f"two {name}" / written)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_way_to_split_comes_to_the_same(tmp_path: Path, base_xl: Path) -> None:
    others = {
        "schedule-free": ("optimizer.name=schedulefree", "ema.kind=none", "rate.decay=none"),
        "accumulated": ("train.accumulation=2",),
        "saving memory": ("target.gradient_checkpointing=true",),
        "with places": ("target.place_weight=0.1",),
    }
    runs = []
    for name, overrides in others.items():
        toml = write_run(tmp_path / name, with_overrides(*overrides))
        runs.append((toml, tmp_path / name / "two", "-"))
    xl = finetune_toml(tmp_path / "xl", base_xl, "pivotal")
    runs.append((xl, tmp_path / "xl" / "two", "-"))
    smaller = tmp_path / "smaller.yaml"
    smaller.write_text(
        CONFIG.read_text().replace(
            "NO_WRAP",
            "TRANSFORMER_BASED_WRAP\n  fsdp_transformer_layer_cls_to_wrap: "
            "BasicTransformerBlock,ResnetBlock2D,CLIPEncoderLayer",
        )
    )
    on_two_processes(*runs, config=CONFIG)
    blockwise = [(toml, out.with_name("by class"), start) for toml, out, start in runs]
    on_two_processes(*blockwise, config=smaller)
    for toml, out, _ in runs:
        one = train_only(load_run_config(toml), out.with_name("one"))
        assert_close(one, newest(out))
        assert_close(one, newest(out.with_name("by class")))


def with_overrides(*overrides: str) -> str:
    """The tiny run as a TOML with other values."""
    lines = RUN.splitlines()
    for override in overrides:
        key, value = override.split("=")
        table, name = key.split(".")
        place = lines.index(f"[{table}]") + 1
        shown = value if value in ("true", "false") or value[0].isdigit() else f'"{value}"'
        lines = [
            line for line in lines if not (line.startswith(f"{name} =") and line in lines[place:])
        ]
        lines.insert(place, f"{name} = {shown}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("variable", "value", "override", "message"),
    [
        ("FSDP_VERSION", "1", None, "fsdp_version is not 2: set fsdp_version: 2"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", None, "target.gradient_checkpointing = true"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", None, "every process reads the model"),
        ("FSDP_OFFLOAD_PARAMS", "true", None, "fsdp_offload_params is on: set it to false"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", None, "choose TRANSFORMER_BASED_WRAP"),
        (None, None, "train.precision=fp16", "train.precision is 'fp16': choose 'bf16' or 'no'"),
        (None, None, "train.compile=true", "train.compile is true: set it to false"),
        (None, None, "train.channels_last=true", "train.channels_last is true: set it to false"),
        (None, None, "optimizer.name=prodigy", "'prodigy': choose 'adamw' or 'schedulefree'"),
    ],
)
def test_what_split_weights_cannot_have_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str | None,
    value: str,
    override: str | None,
    message: str,
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    if variable is not None:
        monkeypatch.setenv(variable, value)
    with pytest.raises(ArgumentError, match=f"asks for FSDP, .*{message}"):
        accelerator_for(tiny_run(tmp_path, *filter(None, [override])))


def test_deepspeed_is_refused_and_fsdp2_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ArgumentError, match=r"asks for DeepSpeed.*configs/accelerate/fsdp2.yaml"):
        accelerator_for(tiny_run(tmp_path))


def test_a_model_is_put_together_block_by_block(tmp_path: Path, base: Path) -> None:
    target, _ = assemble_target(load_run_config(finetune_toml(tmp_path, base, "pivotal")))
    names = {module: name for name, module in target.named_modules()}
    found = {names[block] for block in sharding.list_fsdp_blocks(target)}
    assert {name for name in found if name.startswith("unet.")} == {
        *(f"unet.{way}_blocks.{number}" for way in ("down", "up") for number in range(2)),
        "unet.mid_block",
    }
    assert {name.rpartition(".")[0] for name in found if name.startswith("text")} == {
        "text_encoder.encoder.layers"
    }
    inner_first = sharding.list_fsdp_blocks(
        target, ["CrossAttnDownBlock2D", "BasicTransformerBlock"]
    )
    assert type(inner_first[-1]).__name__ == "CrossAttnDownBlock2D"
    with pytest.raises(ArgumentError, match="names T5Block, a class that the model does not have"):
        sharding.list_fsdp_blocks(target, ["T5Block"])


def test_tensors_that_are_not_split_are_left_alone() -> None:
    tensor, value = nn.Parameter(torch.zeros(3)), torch.arange(3.0)
    assert sharding.gather_tensor(tensor) is tensor
    assert sharding.get_local_shard(tensor) is tensor
    assert sharding.shard_like(value, tensor) is value
    kept: dict[str, Tensor] = sharding.gather_tensors({"w": tensor}, main=False)
    assert kept["w"] is tensor
    sharding.copy_into_sharded(tensor, value)
    assert torch.equal(tensor, value)


@pytest.mark.parametrize("path", sorted(CONFIG.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_accelerate_config_is_read(path: Path) -> None:
    read = load_config_from_file(str(path))
    told = yaml.safe_load(path.read_text())
    assert read.distributed_type == told["distributed_type"]
    assert read.num_processes == told["num_processes"]
    # Precision is the run's to say.
    assert read.mixed_precision == "no"


@pytest.mark.slow
def test_two_processes_as_accelerate_launch_describes_them_equal_one(
    tmp_path: Path, plain: Path
) -> None:
    toml, out = write_run(tmp_path), tmp_path / "two"
    words = ["--config_file", str(CONFIG.parent / "two-processes.yaml"), "-m", "train", str(toml)]
    _, told = told_by_accelerate(*words)
    ready()
    processes = [
        start(toml, out, prepare=use_one_thread, environment=told | own)
        for own in launched(2, free_port())
    ]
    assert [ended(process, 180) for process in processes] == [0, 0], said(out)
    two = newest(out)
    assert two.facts["processes"] == 2
    assert_close(newest(plain), two)


@pytest.mark.long  # three processes import everything: the test above has what they do
def test_two_processes_of_accelerate_launch_equal_one(tmp_path: Path, plain: Path) -> None:
    # It is torch's launcher, `torchrun`, that it starts them with.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    command += ["--config_file", str(CONFIG.parent / "two-processes.yaml"), "-m", "train"]
    command += [str(write_run(tmp_path)), "--out", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=REPO, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    two = newest(tmp_path / "two")
    assert two.facts["processes"] == 2
    assert_close(newest(plain), two)
