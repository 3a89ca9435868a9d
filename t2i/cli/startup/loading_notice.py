"""The notice "loading ..." before the import of the large libraries, which takes seconds."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from types import ModuleType

from t2i.cli.output import print_remark
from t2i.cli.processes import read_launcher_rank

SLOW_IMPORTS = ("torch", "diffusers", "transformers", "accelerate")
"""Libraries whose import takes half a second, or ten on a busy machine."""


class ImportNoticeFinder(MetaPathFinder):
    """Import finder that prints "loading ..." at the first import of a slow library."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> None:
        """Print the notice once if `name` is slow to import; return None to leave the import."""
        if name in SLOW_IMPORTS:
            _remove_finder(self)
            print_remark("loading ...")


@contextmanager
def announcing_slow_imports(*, quiet: bool) -> Iterator[None]:
    """Print "loading ..." once, before a slow library is imported within the block.

    Nothing is printed where `quiet`.
    """
    finder = ImportNoticeFinder()
    if not quiet and read_launcher_rank() == 0:
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        _remove_finder(finder)


def _remove_finder(finder: ImportNoticeFinder) -> None:
    if finder in sys.meta_path:
        sys.meta_path.remove(finder)
