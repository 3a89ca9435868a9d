"""The loss on held-out pictures: the same measure whatever a run is made of."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

import pytest
import torch

from t2i.errors import ArgumentError
from tests.sweeps import sweep
from tests.train.apart import by_two, said
from tests.train.finetunes import finetune_run, finetune_toml
from tests.train.runs import accelerated_for, tiny_run, train_only
from tests.train.states import KINDS, largest_difference, logged, losses
from train.config.run_config import RunConfig
from train.loop import TrainingRun, run_training
from train.objective.objective import Objective, ObjectiveConfig
from train.targets.denoising import BaseDenoisingTarget
from train.targets.finetune import FineTuneTarget
from train.validation import ValidationLossByLevel

HELD_OUT = ("data.held_out=3", "validation.every=2", "validation.levels=5")


@contextmanager
def training_of(config: RunConfig, out: Path) -> Iterator[TrainingRun]:
    with accelerated_for(config) as accelerator:
        yield TrainingRun(config, out, accelerator)


def first_measured(config: RunConfig, out: Path) -> ValidationLossByLevel:
    """Of a run that has not begun."""
    with training_of(config, out) as training:
        assert training.validation is not None
        with training.using_ema_weights() as target:
            return training.validation.measure_loss(target)


def lines(out: Path) -> list[tuple[int, float, list[float]]]:
    return [
        (line["step"], line["validation_loss"], line["validation_by_level"])
        for line in logged(out)
        if "validation_loss" in line
    ]


def difference(one: ValidationLossByLevel, other: ValidationLossByLevel) -> float:
    """The largest of any level, as a share."""
    pairs = zip(one.by_level, other.by_level, strict=True)
    return max(abs(a - b) / b for a, b in pairs)


@pytest.fixture(scope="module")
def base_loss(tmp_path_factory: pytest.TempPathFactory, base: Path) -> ValidationLossByLevel:
    """Of the base, before the first step of a LoRA."""
    folder = tmp_path_factory.mktemp("reference")
    return first_measured(finetune_run(folder, base, ("lora",), *HELD_OUT), folder / "out")


def test_a_run_made_otherwise_measures_the_same_bit_for_bit(
    tmp_path: Path, base: Path, base_loss: ValidationLossByLevel
) -> None:
    other = (
        "seed=9",
        "train.steps=1",
        "train.batch_size=6",
        "train.accumulation=2",
        "target.caption_dropout=0.9",
        "data.crop=center",
        "data.flip=false",
        "data.seed=4",
        "objective.weight=min_snr",
        "objective.loss=huber",
        "objective.density=logit_normal",
        "objective.noise_offset=0.1",
        "objective.input_perturbation=0.1",
    )
    config = finetune_run(tmp_path, base, ("lora",), *HELD_OUT, *other)
    assert first_measured(config, tmp_path / "out") == base_loss


def test_what_was_cached_is_measured_as_what_is_encoded_now(
    tmp_path: Path, base: Path, base_loss: ValidationLossByLevel
) -> None:
    plain = ("cache.latents=false", "cache.texts=false")
    config = finetune_run(tmp_path, base, ("lora",), *HELD_OUT, *plain)
    assert difference(first_measured(config, tmp_path / "out"), base_loss) < 1e-6


# The pictures say <mug>, which is a word of several tokens where it is not learned.
CAPTION = 'data.caption="a cat"'


@pytest.fixture(scope="module")
def cat_loss(tmp_path_factory: pytest.TempPathFactory, base: Path) -> ValidationLossByLevel:
    """As `base_loss`, under other captions."""
    folder = tmp_path_factory.mktemp("cat")
    config = finetune_run(folder, base, ("lora",), CAPTION, *HELD_OUT)
    return first_measured(config, folder / "out")


@pytest.mark.parametrize("method", sweep(["full", "dora", "pivotal"], quick=["full", "pivotal"]))
def test_every_method_begins_at_the_loss_of_its_base(
    tmp_path: Path, base: Path, cat_loss: ValidationLossByLevel, method: str
) -> None:
    config = finetune_run(tmp_path, base, (method,), CAPTION, *HELD_OUT)
    assert difference(first_measured(config, tmp_path / "out"), cat_loss) < 1e-6


def test_other_captions_are_another_measure(
    base_loss: ValidationLossByLevel, cat_loss: ValidationLossByLevel
) -> None:
    assert difference(cat_loss, base_loss) > 1e-6


@pytest.mark.parametrize("other", [("validation.seed=1",), ("validation.most=2",)])
def test_other_noise_or_pictures_are_another_measure(
    tmp_path: Path, base: Path, base_loss: ValidationLossByLevel, other: tuple[str, ...]
) -> None:
    config = finetune_run(tmp_path, base, ("lora",), *HELD_OUT, *other)
    assert difference(first_measured(config, tmp_path / "out"), base_loss) > 1e-4


def test_sdxl_is_measured_under_the_sizes_of_each_picture(tmp_path: Path, base_xl: Path) -> None:
    config = finetune_run(tmp_path, base_xl, ("lora",), *HELD_OUT)
    again = finetune_run(tmp_path, base_xl, ("full",), *HELD_OUT, "seed=7", "train.batch_size=1")
    one = first_measured(config, tmp_path / "one")
    assert difference(one, first_measured(again, tmp_path / "two")) < 1e-6
    assert all(0 < error < float("inf") for error in one.by_level)


def test_denoisers_of_other_runs_are_measured_on_the_same_scenes(tmp_path: Path) -> None:
    run_training(tiny_run(tmp_path, "train.steps=1", "export.precision=fp32"), tmp_path / "first")
    model = tmp_path / "first" / "model"
    parts = [f"target.{part}={model / part}" for part in ("vae", "unet", "text_encoder")]
    asked = [*parts, "validation.every=5", "validation.most=3"]
    one = first_measured(tiny_run(tmp_path, *asked), tmp_path / "one")
    other = tiny_run(tmp_path, *asked, "seed=8", "data.seed=9", "data.length=5", "ema.decay=0")
    assert first_measured(other, tmp_path / "two") == one
    assert len(one.by_level) == 8


def test_it_is_logged_before_the_first_step_and_after_the_last(
    tmp_path: Path, base: Path, base_loss: ValidationLossByLevel, capsys: pytest.CaptureFixture[str]
) -> None:
    config = finetune_run(tmp_path, base, ("lora",), *HELD_OUT, "train.steps=3")
    train_only(config, tmp_path / "out")
    found = lines(tmp_path / "out")
    assert [step for step, _, _ in found] == [0, 2, 3]
    assert found[0][1:] == (base_loss.mean_loss, base_loss.by_level)
    assert found[0][1] == fmean(found[0][2])
    assert len(found[0][2]) == 5
    assert f"step 0/3  validation loss {base_loss.mean_loss:.4f}" in capsys.readouterr().err


def test_the_weights_in_use_are_measured(tmp_path: Path, base: Path) -> None:
    config = finetune_run(tmp_path, base, ("full",), *HELD_OUT, "ema.decay=0.95")
    train_only(config, tmp_path / "out")
    _, loss, by_level = lines(tmp_path / "out")[-1]
    with training_of(config, tmp_path / "out") as training:  # resumed after the last step
        assert training.validation is not None
        with training.using_ema_weights() as target:
            assert training.validation.measure_loss(target) == ValidationLossByLevel(by_level)
            assert training.validation.measure_loss(target, alone=True) == ValidationLossByLevel(
                by_level
            )
        assert abs(training.validation.measure_loss(training.target).mean_loss - loss) > 1e-6


def test_a_resumed_run_logs_what_the_whole_one_does(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = finetune_run(tmp_path, base, ("lora",), *HELD_OUT, "train.checkpoint_every=2")
    train_only(config, tmp_path / "whole")
    forward, crashes = FineTuneTarget.forward, [1, 3]  # before the first checkpoint, and after it

    def crash(self, batch):  # type: ignore[no-untyped-def]
        if crashes and batch.step == crashes[0]:
            crashes.pop(0)
            raise RuntimeError("crash")
        return forward(self, batch)

    monkeypatch.setattr(FineTuneTarget, "forward", crash)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="crash"):
            train_only(config, tmp_path / "parts")
    train_only(config, tmp_path / "parts")
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert [step for step, _, _ in lines(tmp_path / "whole")] == [0, 2, 4]


def test_measuring_changes_nothing_of_the_run(tmp_path: Path, base: Path) -> None:
    asked = ("data.held_out=3", "objective.weight=min_snr")
    parts = ("lora", "text encoder")
    plain = train_only(finetune_run(tmp_path, base, parts, *asked), tmp_path / "plain")
    measuring = finetune_run(tmp_path, base, parts, *asked, "validation.every=1")
    measured = train_only(measuring, tmp_path / "measuring")
    for kind in KINDS:
        assert largest_difference(plain, measured, kind) == 0
    assert losses(tmp_path / "plain") == losses(tmp_path / "measuring")


def test_validation_may_be_asked_for_when_a_run_goes_on(tmp_path: Path, base: Path) -> None:
    before = ("data.held_out=3", "train.steps=2")
    train_only(finetune_run(tmp_path, base, ("lora",), *before), tmp_path / "out")
    train_only(finetune_run(tmp_path, base, ("lora",), *HELD_OUT), tmp_path / "out")
    assert [step for step, _, _ in lines(tmp_path / "out")] == [4]


def test_a_model_that_learns_the_pictures_has_a_smaller_loss_and_a_spoiled_one_a_larger(
    tmp_path: Path, base: Path
) -> None:
    settings = ("train.steps=16", "train.checkpoint_every=16", "optimizer.learning_rate=1e-2")
    config = finetune_run(tmp_path, base, ("full",), *HELD_OUT, *settings, "train.log_every=16")
    train_only(config, tmp_path / "out")
    first, last = (loss for _, loss, _ in (lines(tmp_path / "out")[n] for n in (0, -1)))
    assert last < 0.8 * first

    with training_of(config, tmp_path / "out") as training:
        assert training.validation is not None
        with training.using_ema_weights() as target, torch.no_grad():
            assert isinstance(target, BaseDenoisingTarget)
            target.unet.conv_out.weight += 0.2 * torch.randn_like(target.unet.conv_out.weight)
            assert training.validation.measure_loss(target).mean_loss > last


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_predictions_of_the_same_picture_have_the_same_error(prediction: str) -> None:
    """Two models that make the same x_0 of x_t: the error is that of v, by definition."""
    schedule = Objective(ObjectiveConfig(prediction="v_prediction"))
    objective = Objective(ObjectiveConfig.model_validate({"prediction": prediction}))
    torch.manual_seed(0)
    latents, noise, off = torch.randn(3, 4, 2, 6, 6).double()
    level = objective.noise_level_at_quantile(torch.tensor([0.1, 0.4, 0.7, 0.95]))
    alpha, sigma = (one.double().view(-1, 1, 1, 1) for one in (level.alpha_B, level.sigma_B))
    guess = latents + off  # its noise follows from x_t
    its_noise = (alpha * latents + sigma * noise - alpha * guess) / sigma
    output = objective.compute_prediction_target(guess, its_noise, level)
    found = objective.compute_velocity_errors(
        output, objective.compute_prediction_target(latents, noise, level), level
    )
    expected = schedule.compute_prediction_target(
        guess, its_noise, level
    ) - schedule.compute_prediction_target(latents, noise, level)
    torch.testing.assert_close(found, expected.pow(2).flatten(1).mean(1).float(), rtol=2e-5, atol=0)


def test_flow_is_measured_as_the_variance_preserving_model_of_the_same_snr() -> None:
    objective = Objective(ObjectiveConfig(prediction="flow"))
    torch.manual_seed(0)
    latents, noise, off = torch.randn(3, 3, 2, 6, 6).double()
    level = objective.noise_level_at_quantile(torch.tensor([0.2, 0.5, 0.9]))
    alpha, sigma = (one.double().view(-1, 1, 1, 1) for one in (level.alpha_B, level.sigma_B))
    its_noise = noise - alpha / sigma * off
    output = objective.compute_prediction_target(latents + off, its_noise, level)
    found = objective.compute_velocity_errors(
        output, objective.compute_prediction_target(latents, noise, level), level
    )
    length = (alpha**2 + sigma**2).sqrt()
    expected = (alpha * (its_noise - noise) - sigma * off) / length
    torch.testing.assert_close(found, expected.pow(2).flatten(1).mean(1).float(), rtol=2e-5, atol=0)


def test_nothing_held_out_is_refused_before_anything_is_read(tmp_path: Path, base: Path) -> None:
    with pytest.raises(ArgumentError, match=r"no picture is held out: set data.held_out to a"):
        finetune_run(tmp_path, base, ("lora",), "validation.every=2")


def test_an_autoencoder_has_no_validation_loss(tmp_path: Path) -> None:
    tree = tiny_run(tmp_path).model_dump(mode="json")
    tree |= {"target": {"kind": "autoencoder"}, "validation": {"every": 5}}
    with pytest.raises(ValueError, match=r"target.kind = 'autoencoder' is no denoiser and has no"):
        RunConfig.model_validate(tree)


def test_tensorboard_shows_the_loss_and_each_level(tmp_path: Path, base: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `track` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = finetune_run(tmp_path, base, ("lora",), *HELD_OUT, "train.tensorboard=true")
    train_only(config, tmp_path / "out")
    board = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    shown = [(one.step, one.value) for one in board.Scalars("validation_loss")]
    assert shown == [
        (step, pytest.approx(loss, rel=1e-6)) for step, loss, _ in lines(tmp_path / "out")
    ]
    assert len([tag for tag in board.Tags()["scalars"] if "validation_by_level/" in tag]) == 5


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path: Path, base: Path) -> None:
    parts = ("lora", "words")
    train_only(finetune_run(tmp_path, base, parts, *HELD_OUT), tmp_path / "one")
    toml = finetune_toml(tmp_path, base, *parts)
    assert by_two(toml, tmp_path / "two", *HELD_OUT) == [0, 0], said(tmp_path / "two")
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert json.dumps(one[0]) == json.dumps(two[0])  # the base: bit for bit
    for (step, loss, _), (there, other, _) in zip(one, two, strict=True):
        assert step == there
        assert abs(loss - other) < 1e-5
