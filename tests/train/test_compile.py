"""A compiled denoiser: the same run, the same names, the same files."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from t2i.errors import ArgumentError, TrainingError
from t2i.run_folder import StopSignalHandler
from tests.train.apart import ended, free_port, launched, ready, start_program
from tests.train.finetunes import finetune_run
from tests.train.runs import MODEL, accelerator_for, train_only, write_run
from tests.train.states import assert_equal_bit_for_bit, largest_difference, newest
from train import checkpoint
from train.batches.micro_batch import MicroBatch
from train.config.load_config import load_run_config
from train.config.run_config import RunConfig
from train.loop import TrainingRun, run_training
from train.parallel.processes import print_on_main_process
from train.setup import compiling
from train.setup.compiling import compiling_denoiser
from train.targets.denoising import BaseDenoisingTarget

pytestmark = pytest.mark.usefixtures("_own_accelerator")

SMALL = (
    MODEL.replace("block_out_channels = [8, 16]", "block_out_channels = [8]")
    .replace('["CrossAttnDownBlock2D", "DownBlock2D"]', '["CrossAttnDownBlock2D"]')
    .replace('["UpBlock2D", "CrossAttnUpBlock2D"]', '["CrossAttnUpBlock2D"]')
)
"""One level in place of two: most of the time of these tests is spent tracing."""


def tiny_run(folder: Path, *overrides: str) -> RunConfig:
    return load_run_config(write_run(folder, model=SMALL), overrides)


@pytest.fixture
def _traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph as it was traced, without the minutes in which inductor compiles it, and none that
    another test has left."""
    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "COMPILE_BACKEND", "eager")


@pytest.mark.slow
@pytest.mark.usefixtures("_traced_only")
def test_it_goes_with_gradient_checkpointing_and_places(tmp_path: Path) -> None:
    settings = (
        "train.steps=2",
        "target.gradient_checkpointing=true",
        "target.place_weight=0.1",
    )
    plain = train_only(tiny_run(tmp_path, *settings), tmp_path / "plain")
    config = tiny_run(tmp_path, *settings, "train.compile=true")
    compiled = train_only(config, tmp_path / "compiled")
    assert largest_difference(plain, compiled, "weights") < 1e-5


@pytest.mark.slow
@pytest.mark.usefixtures("_traced_only")
def test_weights_keep_their_names_and_nothing_is_compiled_to_draw(
    tmp_path: Path,
) -> None:
    config = tiny_run(tmp_path)
    training = TrainingRun(config, tmp_path / "out", accelerator_for(config))
    names = training.target.collect_trained_parameters_by_name().keys()
    limit = torch._dynamo.config.recompile_limit
    with compiling_denoiser(training.target, sizes=99):
        assert torch._dynamo.config.recompile_limit > limit
        assert training.target.collect_trained_parameters_by_name().keys() == names
        before = compiling.count_compiled_graphs()
        with training.using_ema_weights() as target, torch.no_grad():
            target(training.load_first_batch(2))
        assert compiling.count_compiled_graphs() == before
        training.target(training.load_first_batch(2))
        assert compiling.count_compiled_graphs() > before
    assert torch._dynamo.config.recompile_limit == limit


@pytest.mark.slow
def test_a_compiler_that_gets_the_gradient_wrong_is_found_out_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "COMPILE_BACKEND", half_the_gradient)
    config = tiny_run(tmp_path, "train.compile=true", "target.train_text_encoder=false")
    with pytest.raises(TrainingError, match=r"gradient is off by 50%.*set train.compile = false"):
        run_training(config, tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("_traced_only")
def test_the_comparison_takes_no_more_rows_than_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, asked = BaseDenoisingTarget.forward, []

    def limited(target: BaseDenoisingTarget, batch: MicroBatch) -> Tensor:
        asked.append(len(batch.slots))
        if len(batch.slots) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(target, batch)

    monkeypatch.setattr(BaseDenoisingTarget, "forward", limited)
    config = tiny_run(tmp_path, "train.compile=true", "train.steps=2", "train.checkpoint_every=1")
    assert run_training(config, tmp_path / "out")
    # What did not fit is not tried again once it is known, not in a resumed run either.
    last = tmp_path / "out/checkpoints/step-00000001"
    checkpoint.save_and_prune_checkpoints(
        tmp_path / "again/checkpoints", checkpoint.read_checkpoint(last), 2
    )
    asked.clear()
    assert run_training(config, tmp_path / "again")
    assert {*asked} == {2}


THEN_WRONG = "now with a wrong gradient"


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int], str]:
    """A compiled run, and another one that the second process compiles wrongly.

    Its folder, the exit statuses, and what was said; to be read only.
    """
    folder = tmp_path_factory.mktemp("two")
    ready()
    given, log, port = (
        [str(write_run(folder, model=SMALL)), str(folder)],
        folder / "said",
        free_port(),
    )
    processes = [
        start_program(compile_twice, given, log, trace_only, own) for own in launched(2, port)
    ]
    return folder / "right", [ended(process, 280) for process in processes], log.read_text()


def compile_twice(given: list[str]) -> None:
    """In each process: what the fixture above says. Raises TrainingError."""
    config = load_run_config(Path(given[0]), COMPILED)
    accelerator = accelerator_for(config)
    assert TrainingRun(config, Path(given[1]) / "right", accelerator).run(StopSignalHandler())
    print_on_main_process(accelerator, THEN_WRONG)
    torch._dynamo.reset()
    if os.environ["RANK"] == "1":
        compiling.COMPILE_BACKEND = half_the_gradient
    TrainingRun(config, Path(given[1]) / "wrong", accelerator).run(StopSignalHandler())


COMPILED = ("train.steps=3", "train.compile=true")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_compile_and_come_to_the_same(
    tmp_path: Path, two_processes: tuple[Path, list[int], str]
) -> None:
    out, _, said = two_processes
    said, found, _ = said.partition(THEN_WRONG)
    assert found, said
    assert said.count("the denoiser is compiled") == 1
    assert "once more" not in said
    plain = train_only(tiny_run(tmp_path, "train.steps=3"), tmp_path / "plain")
    assert largest_difference(plain, newest(out), "weights") < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_wrong_gradient_of_one_process_ends_all_and_is_said(
    two_processes: tuple[Path, list[int], str],
) -> None:
    _, statuses, said = two_processes
    assert statuses == [6, 6], said
    _, _, said = said.partition(THEN_WRONG)
    assert said.count("TrainingError: The compiled denoiser's gradient is off") == 2


def trace_only() -> None:
    torch.set_num_threads(1)
    compiling.COMPILE_BACKEND = "eager"


def half_the_gradient(
    graph: GraphModule, _inputs: Sequence[Tensor]
) -> Callable[..., Sequence[Tensor]]:
    """A compiler that makes a mistake."""

    def compiled(*inputs: Tensor) -> Sequence[Tensor]:
        return [(out + out.detach()) / 2 for out in graph(*inputs)]

    return compiled


def test_a_target_without_a_denoiser_is_refused(tmp_path: Path) -> None:
    config = tiny_run(tmp_path, 'target={kind="autoencoder"}', "train.compile=true")
    with pytest.raises(ArgumentError, match=r"train.compile = true, but .* no denoiser"):
        run_training(config, tmp_path / "out")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_traced_only")
def test_a_compiled_run_is_the_same_draws_exports_and_resumes(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def config(*overrides: str) -> RunConfig:
        settings = (
            'samples={every=2, prompts=["a red <mug>"], steps=2}',
            "train.checkpoint_every=2",
        )
        return finetune_run(tmp_path, base, ("lora", "words"), *settings, *overrides)

    plain = train_only(config(), tmp_path / "plain")
    capsys.readouterr()
    compiled = train_only(config("train.compile=true"), tmp_path / "compiled")
    said = capsys.readouterr().err
    assert said.count("the denoiser is compiled") == 1
    # Three sizes of pictures.
    assert said.count("the denoiser was compiled once more, for pictures of another size") == 2

    for kind in ("weights", "average"):
        assert largest_difference(plain, compiled, kind) < 1e-5, kind
    for name in ("lora.safetensors", "mug.safetensors"):
        assert (tmp_path / "compiled/model" / name).is_file()
    sheets = [tmp_path / out / "samples/step-00000004.png" for out in ("plain", "compiled")]
    assert all(sheet.is_file() for sheet in sheets)

    # From the checkpoint of step 2 on: whatever size comes first then has the kernel it had.
    again = tmp_path / "again"
    middle = checkpoint.read_checkpoint(tmp_path / "compiled/checkpoints/step-00000002")
    checkpoint.save_and_prune_checkpoints(again / "checkpoints", middle, 2)
    assert_equal_bit_for_bit(compiled, train_only(config("train.compile=true"), again))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_inductor_comes_to_the_same(tmp_path: Path) -> None:
    settings = ("train.steps=3", "train.checkpoint_every=1", "train.keep=9")
    plain = train_only(tiny_run(tmp_path, *settings), tmp_path / "plain")
    config = tiny_run(tmp_path, *settings, "train.compile=true")
    compiled = train_only(config, tmp_path / "compiled")
    assert largest_difference(plain, compiled, "weights") < 1e-5
