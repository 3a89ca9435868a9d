"""Averages rebuilt from snapshots against those that were tracked, and against quadrature."""

import errno
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from t2i.errors import ArgumentError, OutputError, TrainingError
from train.optim import ema_snapshots as snapshot_files
from train.optim.ema import EMA, EMAConfig, compute_gamma_from_length
from train.optim.ema_snapshots import list_snapshots, remove_snapshots_after, save_snapshot
from train.optim.posthoc_ema import (
    AverageProfile,
    compute_profile_inner_products,
    reconstruct_average_and_error,
    solve_profile_mixture,
)

STEPS, EVERY = 400, 5


def walk() -> Tensor:
    """Weights (STEPS, 2, 3) of a random walk that starts far from zero."""
    torch.manual_seed(3)
    return torch.randn(2, 3) + 1e-3 * torch.randn(STEPS, 2, 3).cumsum(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "ema"
    path = walk()
    ema = EMA({"a.w": path[0]}, EMAConfig(kind="power"))
    for number, weights in enumerate(path, 1):
        ema.update({"a.w": weights}, number)
        if number % EVERY == 0:
            save_snapshot(folder, ema.state_dict(), ema.config.lengths, number)
    return folder


def tracked(length: float, step: int) -> Tensor:
    """The average of this length, followed directly."""
    path = walk()
    ema = EMA({"a.w": path[0]}, EMAConfig(kind="power", lengths=(length,)))
    for number, weights in enumerate(path[:step], 1):
        ema.update({"a.w": weights}, number)
    return ema.averaged_weights["a.w"]


@pytest.mark.parametrize("step", [STEPS, 200])
@pytest.mark.parametrize("length", [0.05, 0.075, 0.1, 0.15, 0.2])
def test_a_rebuilt_average_is_the_one_tracked_directly(
    folder: Path, length: float, step: int
) -> None:
    found, _ = reconstruct_average_and_error(list_snapshots(folder), AverageProfile(length, step))
    torch.testing.assert_close(found["a.w"], tracked(length, step), rtol=0, atol=1e-5)
    # lengths differ by more than that, so that the claim is one
    assert (tracked(0.05, step) - tracked(0.2, step)).abs().max() > 1e-3


def test_a_length_that_was_tracked_comes_back_from_its_snapshot_alone(folder: Path) -> None:
    _, error = reconstruct_average_and_error(list_snapshots(folder), AverageProfile(0.1, STEPS))
    mixture = solve_profile_mixture(
        [AverageProfile(0.05, 200), AverageProfile(0.1, 200), AverageProfile(0.1, 400)],
        AverageProfile(0.1, 400),
    )
    torch.testing.assert_close(mixture.weights_P, torch.tensor([0.0, 0.0, 1.0]).double())
    assert error < 1e-6
    assert mixture.error < 1e-6


def test_more_snapshots_meet_a_profile_better() -> None:
    def error(every: int) -> float:
        steps = range(every, 1001, every)
        found = [AverageProfile(length, step) for step in steps for length in (0.05, 0.1)]
        return solve_profile_mixture(found, AverageProfile(0.15, 1000)).error

    errors = [error(every) for every in (250, 100, 50, 25)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[-1]


def test_inner_products_are_the_integrals_of_the_profiles() -> None:
    averages = [AverageProfile(0.05, 100), AverageProfile(0.1, 100), AverageProfile(0.2, 60)]
    s = (torch.arange(400_000).double() + 0.5) / 4000

    def profile(average: AverageProfile) -> Tensor:
        gamma, t = compute_gamma_from_length(average.length), average.step
        return torch.where(s <= t, (gamma + 1) * s**gamma / t ** (gamma + 1), 0.0)

    profiles = torch.stack([profile(average) for average in averages])
    assert profiles.sum(1).mul(1 / 4000).tolist() == pytest.approx([1, 1, 1], rel=1e-6)
    torch.testing.assert_close(
        compute_profile_inner_products(averages, averages),
        profiles @ profiles.T / 4000,
        rtol=1e-5,
        atol=1e-12,
    )


def test_inner_products_do_not_overflow_after_a_million_steps() -> None:
    late = [AverageProfile(0.01, 1), AverageProfile(0.01, 10**6), AverageProfile(0.1, 10**6)]
    assert compute_profile_inner_products(late, late).isfinite().all()
    gamma = compute_gamma_from_length(0.1)
    expected = (gamma + 1) ** 2 / (2 * gamma + 1) / 10**6
    assert compute_profile_inner_products(late[2:], late[2:]).item() == pytest.approx(
        expected, rel=1e-9
    )


@pytest.mark.parametrize("length", [0.03, 0.15, 0.25])
def test_the_weights_of_a_mixture_sum_to_one_and_none_other_is_nearer(length: float) -> None:
    found = [AverageProfile(each, step) for step in range(100, 1001, 100) for each in (0.05, 0.1)]
    wanted = AverageProfile(length, 1000)
    mixture = solve_profile_mixture(found, wanted)
    assert mixture.weights_P.sum().item() == pytest.approx(1, abs=1e-12)

    def distance(weights_P: Tensor) -> float:
        gram, cross = (
            compute_profile_inner_products(found, found),
            compute_profile_inner_products(found, [wanted])[:, 0],
        )
        squared = weights_P @ gram @ weights_P - 2 * weights_P @ cross
        return (squared + compute_profile_inner_products([wanted], [wanted])[0, 0]).item()

    nearest = distance(mixture.weights_P)
    norm = compute_profile_inner_products([wanted], [wanted]).item()
    assert mixture.error == pytest.approx((nearest / norm) ** 0.5, rel=1e-6)
    torch.manual_seed(0)
    for _ in range(20):
        aside = torch.randn(len(found)).double()
        assert distance(mixture.weights_P + 1e-3 * (aside - aside.mean())) > nearest


def test_weights_that_never_moved_are_rebuilt_as_they_were(tmp_path: Path) -> None:
    still = torch.randn(4) * 100
    ema = EMA({"w": still}, EMAConfig(kind="power"))
    for number in range(1, 101):
        ema.update({"w": still}, number)
        if number % 50 == 0:
            save_snapshot(tmp_path, ema.state_dict(), ema.config.lengths, number)
    found, error = reconstruct_average_and_error(
        list_snapshots(tmp_path), AverageProfile(0.25, 100)
    )
    assert error > 0.05  # two snapshots say little of so long an average, and that is told
    torch.testing.assert_close(found["w"], still, rtol=1e-6, atol=0)


def test_a_snapshot_says_what_it_is(folder: Path) -> None:
    found = list_snapshots(folder)
    assert [shot.step for shot in found] == list(range(EVERY, STEPS + 1, EVERY))
    assert found[3].path.name == "step-00000020.safetensors"
    assert found[3].lengths == (0.05, 0.1)


def test_snapshots_after_the_step_that_a_run_goes_on_from_are_forgotten(tmp_path: Path) -> None:
    ema = EMA({"w": torch.ones(2)}, EMAConfig(kind="power"))
    for step in (5, 10, 15):
        ema.update({"w": torch.ones(2)}, step)
        save_snapshot(tmp_path, ema.state_dict(), ema.config.lengths, step)
    remove_snapshots_after(tmp_path, 10)
    assert [shot.step for shot in list_snapshots(tmp_path)] == [5, 10]
    remove_snapshots_after(tmp_path / "absent", 10)


@pytest.mark.parametrize(
    ("length", "step", "message"),
    [
        (0.3, STEPS, r"length = 0.3: expected more than 0 and less than 0.2887"),
        (0.0, STEPS, "length = 0.0: expected more than 0"),
        (0.1, STEPS + 1, r"step = 401: there are snapshots of steps 5 to 400"),
        (0.1, 4, "step = 4: there are snapshots"),
    ],
)
def test_what_the_snapshots_cannot_tell_is_refused(
    folder: Path, length: float, step: int, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        reconstruct_average_and_error(list_snapshots(folder), AverageProfile(length, step))


def test_a_run_without_snapshots_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"no snapshots .*ema.kind = 'power'"):
        reconstruct_average_and_error(list_snapshots(tmp_path), AverageProfile(0.1, 10))


@pytest.mark.parametrize("damage", [b"", b"garbage" * 20])
def test_a_damaged_snapshot_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "step-00000010.safetensors").write_bytes(damage)
    with pytest.raises(TrainingError, match=r"Cannot read the snapshot .*step-00000010"):
        list_snapshots(tmp_path)


def test_a_file_that_is_no_snapshot_is_named(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1)}, tmp_path / "step-00000010.safetensors")
    with pytest.raises(TrainingError, match="Cannot read the snapshot"):
        list_snapshots(tmp_path)


def test_snapshots_of_another_run_are_not_mixed_in(folder: Path, tmp_path: Path) -> None:
    other = EMA({"b.w": torch.ones(2)}, EMAConfig(kind="power"))
    save_snapshot(tmp_path, other.state_dict(), other.config.lengths, 20)
    with pytest.raises(TrainingError, match="cannot be read together"):
        reconstruct_average_and_error(
            [*list_snapshots(folder)[:1], *list_snapshots(tmp_path)], AverageProfile(0.1, 20)
        )


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device"),
    ],
    ids=["python", "safetensors"],
)
def test_a_full_disk_leaves_no_half_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(_tensors: object, part: Path, _facts: object) -> None:
        part.write_bytes(b"half")
        raise error

    monkeypatch.setattr(snapshot_files, "save_file", refuse)
    ema = EMA({"w": torch.ones(2)}, EMAConfig(kind="power"))
    with pytest.raises(OutputError, match=r"Cannot write .*step-00000010"):
        save_snapshot(tmp_path, ema.state_dict(), ema.config.lengths, 10)
    assert not list(tmp_path.iterdir())
