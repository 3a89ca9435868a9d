"""The loop: what step n does is a function of the configuration and n, whatever came before."""

import itertools
import os
import pty
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from torch import Tensor

import t2i
from t2i.errors import ArgumentError, ModelError, OutputError, TrainingError
from t2i.run_folder import STOP_SIGNALS, StopSignalHandler, locking_folder
from tests.sweeps import sweep
from tests.train.apart import (
    by_two,
    ended,
    ready,
    run_train_module,
    said,
    start,
    start_program,
    told_by_accelerate,
)
from tests.train.runs import MODEL, tiny_run, train_only, write_run
from tests.train.states import assert_equal_bit_for_bit, largest_difference, logged, newest
from train import checkpoint
from train.batches import micro_batch
from train.batches.micro_batch import MicroBatch
from train.config.load_config import load_run_config
from train.config.run_config import RunConfig
from train.loop import run_training
from train.targets.denoiser import ScratchDenoiserTarget


def wait_for_step(out: Path, step: int, process: BaseProcess) -> None:
    """Return once the log shows `step`; fail if the process ends before."""
    log = out / "log.jsonl"
    for _ in range(1200):
        if log.exists() and len(log.read_text().splitlines()) >= step:
            return
        assert process.exitcode is None, said(out)
        time.sleep(0.05)
    raise AssertionError(f"no step {step} in a minute")


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 4 of 10 samples a step: step 3 ends in the middle of the second epoch.
    config = tiny_run(tmp_path, "train.checkpoint_every=3", "train.steps=5")
    whole = train_only(config, tmp_path / "whole")

    forward = ScratchDenoiserTarget.forward

    def crash(self: ScratchDenoiserTarget, batch: MicroBatch) -> Tensor:
        if batch.step == 4:
            raise RuntimeError("crash")
        return forward(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ScratchDenoiserTarget, "forward", crash)
        with pytest.raises(RuntimeError, match="crash"):
            run_training(config, tmp_path / "parts")
    assert newest(tmp_path / "parts").step == 3

    assert_equal_bit_for_bit(train_only(config, tmp_path / "parts"), whole)
    assert [line["step"] for line in logged(tmp_path / "parts")] == list(range(1, 6))
    assert [line["loss"] for line in logged(tmp_path / "parts")] == [
        line["loss"] for line in logged(tmp_path / "whole")
    ]


@pytest.mark.slow
def test_a_run_killed_with_9_ends_bit_for_bit_as_the_uninterrupted_one(tmp_path: Path) -> None:
    toml, killed = write_run(tmp_path), tmp_path / "killed"
    settings = ("train.steps=12", "train.checkpoint_every=2")
    ready()
    for _ in range(2):  # killed twice, in another epoch each time
        process = start(toml, killed, *settings)
        done = len(logged(killed)) if (killed / "log.jsonl").exists() else 0
        wait_for_step(killed, done + 3, process)
        process.kill()
        assert ended(process) == -signal.SIGKILL
    assert ended(start(toml, killed, *settings)) == 0, said(killed)
    whole = train_only(load_run_config(toml, settings), tmp_path / "whole")
    assert_equal_bit_for_bit(newest(killed), whole)


@pytest.mark.slow
def test_a_signal_saves_a_checkpoint_and_exits_0(tmp_path: Path) -> None:
    toml, out = write_run(tmp_path), tmp_path / "out"
    ready()
    process = start(toml, out, "train.steps=100000", "train.checkpoint_every=100000")
    wait_for_step(out, 2, process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)  # test_robust_kills has SIGTERM
    assert ended(process) == 0, said(out)
    assert "the same command goes on from here" in said(out)
    assert newest(tmp_path / "out").step >= 2


@pytest.mark.slow
def test_a_closed_terminal_leaves_a_last_checkpoint(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    toml, out = write_run(tmp_path), tmp_path / "out"
    words = [str(toml), "--out", str(out), "--set=train.steps=100000"]
    words.append("--set=train.checkpoint_every=100000")
    ready()
    prepare = partial(use_terminal, os.ttyname(theirs))
    process = start_program(run_train_module, words, tmp_path / "said", prepare)
    with ThreadPoolExecutor(1) as pool:  # a bar fills the terminal, which somebody must read
        seen = pool.submit(lambda: [os.read(ours, 1000) for _ in range(5)])
        wait_for_step(out, 2, process)
        seen.result(60)
    os.close(theirs)
    os.close(ours)  # from here on every write to it fails
    assert process.pid is not None
    os.kill(process.pid, signal.SIGHUP)
    assert ended(process) == 0
    assert newest(out).step >= 2


def use_terminal(path: str) -> None:
    """Let this process read from a terminal and write to it."""
    terminal = os.open(path, os.O_RDWR | os.O_NOCTTY)
    for stream in (0, 1, 2):
        os.dup2(terminal, stream)
    os.close(terminal)


def test_each_signal_that_ends_a_session_is_a_wish_to_stop() -> None:
    for number in STOP_SIGNALS:
        with StopSignalHandler() as stop:
            signal.raise_signal(number)
            assert stop.wanted
    assert signal.SIGHUP in STOP_SIGNALS


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignalHandler() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.wanted
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_processes_fail_together_and_say_why(tmp_path: Path) -> None:
    toml = write_run(tmp_path)
    with locking_folder(tmp_path / "out"):
        assert by_two(toml, tmp_path / "out") == [5, 5]
    assert said(tmp_path / "out").count("OutputError: Another run is writing") == 2


@pytest.mark.slow
def test_accelerate_launch_trains(tmp_path: Path, plain: Path) -> None:
    words = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
    words += ["--dynamo_backend", "no", "--cpu"]
    toml, out = write_run(tmp_path), tmp_path / "out"
    command, told = told_by_accelerate(*words, "-m", "train", str(toml), "--out", str(out))
    assert command == [sys.executable, "-m", "train", str(toml), "--out", str(out)]
    assert told["ACCELERATE_USE_CPU"] == "True"
    assert ended(start(toml, out, environment=told)) == 0, said(out)
    one = newest(plain)
    assert largest_difference(one, newest(tmp_path / "out"), "weights") < 1e-5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.precision=fp16", "'fp16' needs an accelerator"),
        ("data.size=36", "data.size = 36 is not a multiple of 8.*choose 32 or 40"),
        ("data.size=64", "the model draws 32 x 32 pixels: set data.size = 32"),
        ("samples.every=1", "samples.prompts is empty"),
        ("optimizer.betas=[2, 3]", "optimizer.betas"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_first_step(
    tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        run_training(tiny_run(tmp_path, override), tmp_path / "out")


def test_a_run_is_not_shortened_behind_its_steps(tmp_path: Path, plain: Path) -> None:
    shutil.copytree(plain, tmp_path / "out")
    with pytest.raises(ArgumentError, match=r"has done 4 steps already, more than train.steps = 2"):
        run_training(tiny_run(tmp_path, "train.steps=2"), tmp_path / "out")


def test_a_run_does_not_go_on_with_another_model(tmp_path: Path, plain: Path) -> None:
    shutil.copytree(plain, tmp_path / "out")
    heads = MODEL.replace("attention_head_dim = 2", "attention_head_dim = 4")
    with pytest.raises(ArgumentError, match=r"\[model\] unet.attention_head_dim: 2 -> 4"):
        run_training(load_run_config(write_run(tmp_path, model=heads)), tmp_path / "out")


def test_accumulation_changes_nothing_but_rounding(tmp_path: Path, plain: Path) -> None:
    one = newest(plain)
    parts = train_only(tiny_run(tmp_path, "train.accumulation=2"), tmp_path / "parts")
    assert largest_difference(one, parts, "weights") < 1e-5


@pytest.mark.slow
def test_reading_ahead_changes_nothing(
    tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready()
    one = newest(plain)
    monkeypatch.setattr(
        micro_batch, "WORKER_START_METHOD", "forkserver"
    )  # test_pictures.py has "spawn"
    ahead = train_only(tiny_run(tmp_path, "train.workers=1"), tmp_path / "ahead")
    assert_equal_bit_for_bit(one, ahead)


def test_gradient_checkpointing_changes_nothing_but_rounding(tmp_path: Path, plain: Path) -> None:
    one = newest(plain)
    config = tiny_run(tmp_path, "target.gradient_checkpointing=true")
    saving = train_only(config, tmp_path / "saving")
    assert largest_difference(one, saving, "weights") < 1e-5


def test_bf16_trains_near_float32(tmp_path: Path, plain: Path) -> None:
    exact = newest(plain)
    rough = train_only(tiny_run(tmp_path, "train.precision=bf16"), tmp_path / "rough")
    assert rough.tensors["weights"]["unet.conv_in.weight"].dtype == torch.float32
    difference = largest_difference(exact, rough, "average")
    assert 0 < difference < 1e-2


def test_the_average_is_that_of_the_weights_of_every_step(tmp_path: Path) -> None:
    config = tiny_run(tmp_path, "train.checkpoint_every=1", "train.keep=10", "train.steps=3")
    train_only(config, tmp_path / "out")
    name = "unet.conv_in.weight"
    folders = sorted((tmp_path / "out" / "checkpoints").iterdir())
    states = [checkpoint.read_checkpoint(folder).tensors for folder in folders]
    for before, after in itertools.pairwise(states):
        expected = 0.9 * before["average"][name] + 0.1 * after["weights"][name]
        torch.testing.assert_close(after["average"][name], expected)


def test_a_loss_that_is_not_a_number_stops_before_the_weights_are_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = ScratchDenoiserTarget.forward
    target: list[ScratchDenoiserTarget] = []

    def poisoned(self: ScratchDenoiserTarget, batch: MicroBatch) -> Tensor:
        loss_B = forward(self, batch)
        target[:] = [self]
        return loss_B * torch.tensor([1, float("nan"), 1, 1]) if batch.step == 2 else loss_B

    monkeypatch.setattr(ScratchDenoiserTarget, "forward", poisoned)
    config = tiny_run(tmp_path)
    with pytest.raises(
        TrainingError, match=r"Step 3 gave loss nan.*those after step 2.*scenes/"
    ) as raised:
        run_training(config, tmp_path / "out")
    assert str(raised.value).count("scenes/") == 1
    saved = newest(tmp_path / "out")
    assert saved.step == 2
    for name, weight in target[0].collect_trained_parameters_by_name().items():
        assert torch.equal(weight, saved.tensors["weights"][name]), name


def test_a_second_run_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with (
        locking_folder(tmp_path / "out"),
        pytest.raises(OutputError, match="Another run is writing"),
    ):
        run_training(tiny_run(tmp_path), tmp_path / "out")


def test_a_run_does_not_go_on_under_another_configuration(tmp_path: Path, plain: Path) -> None:
    shutil.copytree(plain, tmp_path / "out")
    with pytest.raises(
        ArgumentError,
        match=r"started with another configuration: optimizer.learning_rate: 0.001 -> 0.5",
    ):
        run_training(tiny_run(tmp_path, "optimizer.learning_rate=0.5"), tmp_path / "out")


def test_a_run_does_not_go_on_over_another_autoencoder(tmp_path: Path) -> None:
    paths = []
    for number in range(2):
        torch.manual_seed(number)
        paths.append(tmp_path / f"vae{number}")
        channels = (8, 8, 8, 8)
        AutoencoderTiny(
            latent_channels=4,
            encoder_block_out_channels=channels,
            decoder_block_out_channels=channels,
            num_encoder_blocks=(0, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 0),
        ).save_pretrained(paths[-1])
    train_only(tiny_run(tmp_path, "train.steps=1", f"target.vae={paths[0]}"), tmp_path / "out")
    with pytest.raises(ArgumentError, match="the weights of the frozen parts"):
        run_training(
            tiny_run(tmp_path, "train.steps=1", f"target.vae={paths[1]}"), tmp_path / "out"
        )


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder"])
def test_a_missing_part_to_start_from_is_named(tmp_path: Path, part: str) -> None:
    with pytest.raises(ModelError, match=rf"No trained weights in .*nowhere \(target.{part}\)"):
        run_training(tiny_run(tmp_path, f"target.{part}=nowhere"), tmp_path / "out")


def test_a_part_of_another_shape_is_refused(tmp_path: Path, plain: Path) -> None:
    unet = plain / "model" / "unet"
    other = write_run(tmp_path / "other", model=MODEL.replace("[8, 16]", "[8, 32]"))
    with pytest.raises(
        ModelError, match=r"target.unet\) are not of the model's config: .*expected"
    ):
        run_training(load_run_config(other, [f"target.unet={unet}"]), tmp_path / "elsewhere")


def test_a_run_starts_from_the_parts_it_is_given(tmp_path: Path) -> None:
    exact = "export.precision=fp32"
    run_training(tiny_run(tmp_path, exact, "train.steps=2"), tmp_path / "first")
    model = tmp_path / "first" / "model"
    given = [f"target.{part}={model / part}" for part in ("vae", "unet", "text_encoder")]
    still = ("optimizer.learning_rate=1e-12", "train.steps=1", "seed=8")
    second = train_only(tiny_run(tmp_path, *given, *still), tmp_path / "second")
    average = newest(tmp_path / "first").tensors["average"]
    for name, weight in second.tensors["weights"].items():
        torch.testing.assert_close(weight, average[name], rtol=0, atol=1e-7)


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="choose a multiple of 3"):
        run_training(tiny_run(tmp_path, "train.accumulation=3"), tmp_path / "out")


def test_it_learns_and_the_result_opens_in_diffusers(tmp_path: Path) -> None:
    steps = ("train.steps=30", "train.checkpoint_every=30")
    config = tiny_run(tmp_path, *steps, "optimizer.learning_rate=0.01")
    run_training(config, tmp_path / "out")
    losses = [line["loss"] for line in logged(tmp_path / "out")]
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])

    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "out" / "model")
    average = newest(tmp_path / "out").tensors["average"]["unet.conv_in.weight"]
    assert torch.equal(pipe.unet.conv_in.weight.half(), average.half())
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a red apple", num_inference_steps=2).images[0]
    assert picture.size == (32, 32)


# Other runs here train and draw with "v_prediction".
@pytest.mark.parametrize(
    "prediction",
    sweep(["epsilon", "v_prediction", "sample", "flow"], quick=["epsilon", "sample", "flow"]),
)
def test_every_prediction_draws_while_it_trains_and_when_loaded(
    tmp_path: Path, prediction: str
) -> None:
    config = tiny_run(
        tmp_path,
        f"objective.prediction={prediction}",
        "objective.zero_terminal_snr=false",
        "objective.weight=min_snr",
        "train.steps=2",
        "samples.every=2",
        "samples.steps=2",
        'samples.prompts=["a cat"]',
    )
    run_training(config, tmp_path / "out")
    assert (tmp_path / "out" / "samples" / "step-00000002.png").exists()
    pipe = t2i.load(str(tmp_path / "out" / "model"))
    options = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "pt"}
    pictures = pipe("a cat", **options).images
    assert pictures.isfinite().all()
    assert pictures.std() > 0


def test_the_same_loop_trains_an_autoencoder(tmp_path: Path) -> None:
    config = tiny_run(tmp_path)
    tree = config.model_dump(mode="json")
    tree |= {"target": {"kind": "autoencoder"}, "samples": {}}
    tree["train"] |= {"steps": 20, "checkpoint_every": 20}
    tree["optimizer"]["learning_rate"] = 1e-2
    run_training(RunConfig.model_validate(tree), tmp_path / "out")
    losses = [line["loss"] for line in logged(tmp_path / "out")]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert (tmp_path / "out" / "samples" / "step-00000020.png").exists()
    vae = AutoencoderTiny.from_pretrained(tmp_path / "out" / "model")
    assert vae.config["scaling_factor"] != 1


def test_drawing_samples_changes_nothing_of_the_run(tmp_path: Path, plain: Path) -> None:
    drawing = tiny_run(
        tmp_path, "samples.every=3", "samples.steps=2", 'samples.prompts=["a cat", "a dog"]'
    )
    assert_equal_bit_for_bit(newest(plain), train_only(drawing, tmp_path / "drawing"))
    sheets = sorted(path.name for path in (tmp_path / "drawing" / "samples").iterdir())
    assert sheets == ["step-00000003.png", "step-00000004.png"]


def test_tensorboard_writes_when_asked(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `track` is not installed")
    run_training(tiny_run(tmp_path, "train.tensorboard=true", "train.steps=2"), tmp_path / "out")
    assert list((tmp_path / "out" / "tensorboard").glob("events.*"))


def test_a_sheet_that_cannot_be_drawn_is_said_and_does_not_stop_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_run(
        tmp_path,
        "train.steps=2",
        "samples.every=1",
        "samples.steps=2",
        "samples.guidance_scale=3e38",
        'samples.prompts=["a cat"]',
    )
    run_training(config, tmp_path / "out")
    assert newest(tmp_path / "out").step == 2
    assert not list((tmp_path / "out" / "samples").glob("*.png"))
    assert "step 1/2  not drawn: Got guidance_scale=3e+38" in (capsys.readouterr().err)


def test_the_final_weights_have_a_sheet_and_a_run_that_cannot_write_it_ends_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("train.steps=1", "samples.steps=1", 'samples.prompts=["a cat"]')
    assert run_training(tiny_run(tmp_path, *asked), tmp_path / "out")
    assert (tmp_path / "out" / "samples" / "step-00000001.png").is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "samples").write_text("mine")
    assert run_training(tiny_run(tmp_path, *asked), tmp_path / "other")
    assert "step 1/1  not drawn: Cannot write" in capsys.readouterr().err
    assert (tmp_path / "other" / "model" / "unet").is_dir()
