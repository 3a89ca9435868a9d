"""Each test may choose its own precision."""

from collections.abc import Iterator

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps the precision of a process's first run; forget it."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
