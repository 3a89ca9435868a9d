"""Schedules of the passes that a run computes in full, for caches that cut the others."""

from t2i.errors import ArgumentError

POWER_STEP = 0.02
"""By how much the power is lowered, as published, until the passes are distinct."""


def list_uniform_passes(every: int, num_passes: int) -> tuple[int, ...]:
    """Return every n-th pass of a run, the first included."""
    return tuple(range(0, num_passes, every))


def list_power_passes(every: int, centre: float, power: float, num_passes: int) -> tuple[int, ...]:
    """Return as many passes as every n-th, the densest around a share `centre` of the run.

    The non-uniform 1:N strategy of Ma et al. 2023, https://arxiv.org/abs/2312.00858, equation 7:
    the numbers x^p + c for x evenly spaced from (-c)^(1/p) to (T - c)^(1/p), without repetitions.
    As in its code the root of -c is the complex one, of which the real part of x^p is taken, and p
    is lowered until there are as many distinct passes as every n-th.

    Raises ArgumentError where no power gives as many.
    """
    count = -(-num_passes // every)
    middle = int(centre * num_passes)
    tried = power
    while tried > 1:
        first, last = complex(-middle) ** (1 / tried), (num_passes - middle) ** (1 / tried)
        spaced = [first + (last - first) * number / count for number in range(count + 1)]
        distinct = sorted({int((x**tried).real) for x in spaced})
        passes = (0, *(offset + middle for offset in distinct[1:-1]))
        if len(passes) == count and len(set(passes)) == count:
            return passes
        tried -= POWER_STEP
    raise ArgumentError(
        f"Got centre={centre} and power={power} for a run of {num_passes} passes: no power down to "
        f"1 gives {count} distinct passes. Choose another centre, such as 0.3, or the uniform "
        "schedule."
    )


def check_full_passes(passes: object) -> None:
    """Raise ArgumentError for passes to compute in full that leave out the first, or are no tuple
    of rising numbers.
    """
    if (
        not isinstance(passes, tuple)
        or any(type(one) is not int or one < 0 for one in passes)
        or list(passes) != sorted(set(passes))
    ):
        raise ArgumentError(
            f"Got full={passes!r:.80}, expected a tuple of the numbers of the passes to compute in "
            "full, rising from 0, such as (0, 3, 6)."
        )
    if passes and passes[0] != 0:
        raise ArgumentError(
            f"Got full={passes!r:.80}, which skips the first pass of the run, before which "
            "nothing is kept: let it begin with 0."
        )
