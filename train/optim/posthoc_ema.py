"""Post-hoc EMA: averages of any length, rebuilt after training from snapshots of two.

Karras et al. (2024), section 3.2 and appendix C, arXiv 2312.02696. Difference to the paper: its
least squares are free, here the weights sum to 1. Free weights sum to 1 only roughly, which scales
the whole model: on random walks the constraint cut the error 2 to 70 times.

Suffixes: P profiles that were tracked, one for each length of each snapshot.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from torch import Tensor

from t2i.errors import ArgumentError, TrainingError
from t2i.safe_reading.tensors import open_tensors
from train.optim.ema import MAX_EMA_LENGTH, compute_gamma_from_length, format_ema_tensor_name_prefix
from train.optim.ema_snapshots import AveragesSnapshotFile


@dataclass(frozen=True, slots=True)
class AverageProfile:
    """Profile of a power-function average: its length, as a fraction of the run, and the step at
    which it was taken.
    """

    length: float
    step: int


@dataclass(frozen=True, slots=True)
class ProfileMixture:
    """Linear combination of the averages in snapshots that approximates another average.

    weights_P : they sum to 1
    error : distance of the profiles, as a share of the wanted one's norm
    """

    weights_P: Tensor
    error: float


def reconstruct_average_and_error(
    found: Sequence[AveragesSnapshotFile], wanted: AverageProfile
) -> tuple[dict[str, Tensor], float]:
    """Reconstruct a post-hoc average of every weight, float32, from snapshots; return it with
    the error of its profile.

    Raises ArgumentError for a length or a step that the snapshots do not cover, TrainingError for
    snapshots of different runs.
    """
    _check_available(found, wanted)
    tracked = [AverageProfile(length, shot.step) for shot in found for length in shot.lengths]
    mixture = solve_profile_mixture(tracked, wanted)
    share = iter(mixture.weights_P.tolist())
    shares = [
        [(format_ema_tensor_name_prefix(length), next(share)) for length in shot.lengths]
        for shot in found
    ]
    average: dict[str, Tensor] = {}
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(open_tensors(shot.path)) for shot in found]
            first = format_ema_tensor_name_prefix(found[0].lengths[0])
            names = [key.removeprefix(first) for key in files[0].keys() if key.startswith(first)]
            for name in names:
                parts = (
                    weight * file.get_tensor(prefix + name).double()
                    for file, prefixed in zip(files, shares, strict=True)
                    for prefix, weight in prefixed
                )
                average[name] = sum(parts, torch.zeros((), dtype=torch.float64)).float()
    except (OSError, SafetensorError, RuntimeError) as error:
        raise TrainingError(
            f"The snapshots in {found[0].path.parent} cannot be read together: {error}. Move away "
            "those of another run."
        ) from error
    return average, mixture.error


def _check_available(found: Sequence[AveragesSnapshotFile], wanted: AverageProfile) -> None:
    if not 0 < wanted.length < MAX_EMA_LENGTH:
        raise ArgumentError(
            f"length = {wanted.length}: expected more than 0 and less than {MAX_EMA_LENGTH:.4f}, "
            "the length of the average in which all steps have the same weight."
        )
    if not found:
        raise ArgumentError(
            "There are no snapshots to rebuild an average from: a run writes them with "
            "ema.kind = 'power', every ema.snapshot_every steps."
        )
    if not found[0].step <= wanted.step <= found[-1].step:
        raise ArgumentError(
            f"step = {wanted.step}: there are snapshots of steps {found[0].step} to "
            f"{found[-1].step}; choose one among them."
        )


def solve_profile_mixture(
    tracked: Sequence[AverageProfile], wanted: AverageProfile
) -> ProfileMixture:
    """Solve for the mixture of tracked profiles that is nearest to the wanted one in the L2 norm.

    Minimises |sum_i x_i p_i - p|^2 under sum_i x_i = 1, by the linear system of its Lagrangian.
    """
    gram_PP = compute_profile_inner_products(tracked, tracked)
    with_P = compute_profile_inner_products(tracked, [wanted])[:, 0]
    norm = compute_profile_inner_products([wanted], [wanted])[0, 0]

    # in units of each profile's norm, so that all rows of the system are alike
    unit_P = gram_PP.diagonal().rsqrt()
    ones_P = unit_P / unit_P.norm()
    size = len(tracked)
    system = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    system[:size, :size] = gram_PP * unit_P[:, None] * unit_P
    system[:size, size] = system[size, :size] = ones_P
    given = torch.cat([with_P * unit_P, 1 / unit_P.norm()[None]])
    solved = torch.linalg.lstsq(system, given[:, None], driver="gelsd").solution[:size, 0]

    weights_P = solved * unit_P
    squared = weights_P @ gram_PP @ weights_P - 2 * weights_P @ with_P + norm
    return ProfileMixture(weights_P, (squared.clamp(min=0) / norm).sqrt().item())


def compute_profile_inner_products(
    rows: Sequence[AverageProfile], columns: Sequence[AverageProfile]
) -> Tensor:
    """Compute the inner products of averaging profiles, (rows, columns) float64.

    p(s) = (gamma + 1) s^gamma / t^(gamma + 1) for 0 <= s <= t, so for a and b the integral up to
    m = min(t_a, t_b) is
    (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1)
    * m^(gamma_a + gamma_b + 1) / (t_a^(gamma_a + 1) t_b^(gamma_b + 1)).
    """
    a, log_a = (value[:, None] for value in _powers_and_times(rows))
    b, log_b = _powers_and_times(columns)
    log_m = torch.minimum(log_a, log_b)
    exponent = (a + b + 1) * log_m - (a + 1) * log_a - (b + 1) * log_b
    return (a + 1) * (b + 1) / (a + b + 1) * exponent.exp()


def _powers_and_times(averages: Sequence[AverageProfile]) -> tuple[Tensor, Tensor]:
    gammas = {average.length: compute_gamma_from_length(average.length) for average in averages}
    powers = [gammas[average.length] for average in averages]
    times = [float(average.step) for average in averages]
    return torch.tensor(powers, dtype=torch.float64), torch.tensor(times).double().log()
