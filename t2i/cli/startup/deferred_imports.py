"""Work of the libraries' imports that waits until somebody asks for its result.

Two lists take a sixth of the processor time of `t2i generate`, and nothing in it reads them:

- `transformers.models` reads the source of each of its models (3,000 files) to list their classes,
  as `transformers` has just done. Its submodules are found by their paths alone.
- `diffusers.utils.import_utils` asks for the files of every installed distribution, to find by
  which of them three optional packages are installed.

Only the process of the command `t2i` defers them; `import t2i` changes nothing.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_running = threading.RLock()


class DeferredPackage(ModuleType):
    """Package whose `__init__` runs at the first attribute that is none of its submodules."""

    def __getattr__(self, name: str) -> Any:
        package = _run_init(self)
        if package is not self:
            return getattr(package, name)
        if name in vars(self):
            return vars(self)[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        package = _run_init(self)
        return list(super().__dir__()) if package is self else dir(package)


class DistributionsByPackage(Mapping[str, list[str]]):
    """Mapping that calls a function like `importlib.metadata.packages_distributions` when it is
    first read, and holds what it returned.
    """

    def __init__(self, find: Callable[[], Mapping[str, list[str]]]) -> None:
        self.find = find
        self.found: Mapping[str, list[str]] | None = None

    def _read(self) -> Mapping[str, list[str]]:
        if self.found is None:
            self.found = self.find()
        return self.found

    def __getitem__(self, package: str) -> list[str]:
        return self._read()[package]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


class DeferringLoader(Loader):
    """Loader of a module whose import does costly work, which it defers; see DEFER_BY_MODULE."""

    def __init__(self, loader: Loader, defer: Callable[[Loader, ModuleType], None]) -> None:
        self.loader = loader
        self.defer = defer

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return the module that the usual loader makes."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module but for the deferred work."""
        self.defer(self.loader, module)


class DeferringFinder(MetaPathFinder):
    """Import finder of the modules in DEFER_BY_MODULE."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        """Return the spec of a module that defers its work; None leaves an import to others."""
        if name not in DEFER_BY_MODULE:
            return None
        mark, defer = DEFER_BY_MODULE[name]
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None or not spec.origin:
            return None
        if mark not in Path(spec.origin).read_text(encoding="utf-8", errors="replace"):
            return None
        spec.loader = DeferringLoader(spec.loader, defer)
        return spec


@contextmanager
def deferring_imports() -> Iterator[None]:
    """Defer the work of modules that are first imported within the block."""
    finder = DeferringFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _defer_init(_loader: Loader, module: ModuleType) -> None:
    """Run nothing of a package yet."""
    module.__class__ = DeferredPackage


def _defer_search_of_distributions(loader: Loader, module: ModuleType) -> None:
    """Run a module that asks for all distributions; they are searched when it reads the answer."""
    import importlib.metadata as metadata  # takes as long as the help of a command

    find = metadata.packages_distributions
    later = DistributionsByPackage(find)
    metadata.packages_distributions = lambda: later
    try:
        loader.exec_module(module)
    finally:
        metadata.packages_distributions = find


def _run_init(package: DeferredPackage) -> ModuleType:
    """Run a package's `__init__` unless that was done, and return the module that it put in the
    package's place. One that raises is run again at the next use.
    """
    name, spec = package.__name__, package.__spec__
    with _running:
        if spec is not None and isinstance(deferring := spec.loader, DeferringLoader):
            spec.loader = deferring.loader  # before it runs, so that it runs once
            try:
                deferring.loader.exec_module(package)
            except BaseException:
                spec.loader = deferring
                raise
            parent, _, child = name.rpartition(".")
            setattr(sys.modules[parent], child, sys.modules[name])
    return sys.modules[name]


DEFER_BY_MODULE: Mapping[str, tuple[str, Callable[[Loader, ModuleType], None]]] = {
    "transformers.models": (
        "sys.modules[__name__] = _LazyModule(__name__, _file, define_import_structure(_file)",
        _defer_init,
    ),
    "diffusers.utils.import_utils": (
        "_package_map = importlib_metadata.packages_distributions()",
        _defer_search_of_distributions,
    ),
}
"""Module -> the line of its source that does the work, and what defers it. A version without that
line is imported as usual."""
