"""Parameters of which the default run takes some, and `make test-all` every one."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def sweep(cases: Iterable[Any], *, quick: Collection[Any] | int) -> list[Any]:
    """Return all cases for `pytest.mark.parametrize`; those that are not in `quick` are long.

    cases : one value each, or a tuple of the values of several parameters
    quick : the cases whose code paths together are those of all, or how many, from the first on
    """
    every = list(cases)
    if isinstance(quick, int):
        return [*every[:quick], *map(as_long, every[quick:])]
    unknown = [case for case in quick if case not in every]
    assert not unknown, f"{unknown} are none of {every}"
    return [case if case in quick else as_long(case) for case in every]


def as_long(case: Any) -> Any:
    """Return a case that `make test-all` runs and the default run does not."""
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.long)
