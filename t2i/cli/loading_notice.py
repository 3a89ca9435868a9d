"""The first word of a command that must import the large libraries, which takes seconds."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from types import ModuleType

from t2i.cli.output import note
from t2i.cli.processes import launched_rank

SLOW_IMPORTS = ("torch", "diffusers", "transformers", "accelerate")
"""Half a second each, and ten on a machine that does other things."""


class SlowImportFinder(MetaPathFinder):
    """Finds nothing, but sees the first of SLOW looked for, whichever command does it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> None:
        if name in SLOW_IMPORTS:
            _remove_finder(self)
            note("loading ...")


@contextmanager
def show_loading_notice(*, quiet: bool) -> Iterator[None]:
    """Say so within the block, once, before the import begins; a program is told nothing."""
    said = SlowImportFinder()
    if not quiet and launched_rank() == 0:
        sys.meta_path.insert(0, said)
    try:
        yield
    finally:
        _remove_finder(said)


def _remove_finder(said: SlowImportFinder) -> None:
    if said in sys.meta_path:
        sys.meta_path.remove(said)
