"""Replacement of a method on single objects, shared by the blocks of several threads."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

Method = Callable[..., Any]


@dataclass(slots=True)
class _Patch:
    """Method of one object before it was replaced, and the number of blocks that replace it."""

    original: Method
    own: Any
    """The method if it was the object's own, as accelerate leaves one there; else None."""
    blocks: int = 0


class MethodPatches:
    """Patches of one method on any number of objects: each replaces the method within a block, and
    threads share it.

    Every purpose has an instance of its own, so that those of two may be nested on one object.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._patches: WeakKeyDictionary[Any, _Patch] = WeakKeyDictionary()
        self._lock = threading.Lock()

    @contextmanager
    def replacing(self, target: Any, build: Callable[[Method], Method]) -> Iterator[Method]:
        """Replace the method of `target` within the block, and yield the original.

        Several blocks, also of several threads, share the replacement that `build` makes of the
        original; the last one to end restores the very same object.
        """
        attributes = vars(target)
        with self._lock:
            patch = self._patches.get(target)
            if patch is None:
                patch = _Patch(getattr(target, self.name), attributes.get(self.name))
                self._patches[target] = patch
                attributes[self.name] = build(patch.original)
            patch.blocks += 1
        try:
            yield patch.original
        finally:
            with self._lock:
                patch.blocks -= 1
                if patch.blocks == 0:
                    del self._patches[target]
                    if patch.own is None:
                        del attributes[self.name]
                    else:
                        attributes[self.name] = patch.own
