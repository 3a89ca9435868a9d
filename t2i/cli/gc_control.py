"""Python's search for garbage, put off while a command starts and left out when it ends.

The imports make a million objects that all stay. Searching among them, again and again while they
are made and once more at the end, finds nothing, and takes a fourth of the processor's time of one
picture of a small model (`benchmarks/startup.py`).
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

STARTUP_THRESHOLD = 200_000
"""New objects between two searches while a command starts."""
_usual: tuple[int, int, int] | None = None
"""The thresholds before the block, while garbage is searched seldom in it."""


@contextmanager
def delay_gc() -> Iterator[None]:
    """Within the block, until `search_as_usual` is called; afterwards all is as it was."""
    global _usual
    _usual = gc.get_threshold()
    gc.set_threshold(STARTUP_THRESHOLD, *_usual[1:])
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*_usual)
        _usual = None


def restore_gc() -> None:
    """The work begins: search among what is made from now on, and not in what is there.

    Outside of such a block, in somebody else's process, nothing is changed.
    """
    if _usual is not None:
        gc.freeze()
        gc.set_threshold(*_usual)


def freeze_gc() -> None:
    """The process ends, and with it all that is there."""
    gc.freeze()
