"""Garbage collection, delayed while a command starts and left out when it ends.

The imports make a million objects that all stay. Searching them, again and again while they are
made and once more at the end, finds nothing, and takes a fourth of the processor time of one image
of a small model (`benchmarks/startup.py`).
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

STARTUP_THRESHOLD = 10_000_000
"""Number of new objects between two collections while a command starts: more than it makes."""
_usual: tuple[int, int, int] | None = None
"""Thresholds to restore after a `delaying_gc` block; None outside of one."""


@contextmanager
def delaying_gc() -> Iterator[None]:
    """Let Python collect garbage rarely within the block, or until `end_gc_delay_and_freeze`."""
    global _usual
    _usual = gc.get_threshold()
    gc.set_threshold(STARTUP_THRESHOLD, *_usual[1:])
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*_usual)
        _usual = None


def end_gc_delay_and_freeze() -> None:
    """End `delaying_gc`: collect garbage as usual, but exempt the objects that exist already.

    Outside of a `delaying_gc` block, in somebody else's process, nothing is changed.
    """
    if _usual is not None:
        gc.freeze()
        gc.set_threshold(*_usual)


def freeze_gc() -> None:
    """Exempt all objects from garbage collection, as the process is about to end."""
    gc.freeze()
