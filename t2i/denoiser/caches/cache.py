"""Interface of the caches of a run: choices to leave out a part of some denoiser passes, and to
reuse what an earlier pass of the run computed there.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Protocol

from torch import nn

from t2i.conditioning.conditioning import Conditioning
from t2i.denoiser.caches.pass_state import PassState


class CacheHooks(Protocol):
    """Interface of the hooks that a cache has installed in a UNet for one run, with what they keep
    of its passes.
    """

    def begin_pass(self, conditioning: Conditioning) -> Conditioning:
        """Decide what the beginning pass leaves out, and return its conditioning without what only
        that would read.
        """


class Cache(Protocol):
    """Interface of a cache: a frozen dataclass that says what a run leaves out, at which passes.

    Passes are counted from 0 in a run; the first is never cut. What is kept of earlier passes
    belongs to the run, not to the cache, so that one cache may serve any number of runs.
    """

    name: ClassVar[str]
    """Name in files and on the command line."""

    def check_unet(self, unet: nn.Module) -> None:
        """Raise ArgumentError for a denoiser without the modules that the cache leaves out."""

    def list_cached_modules(self, unet: nn.Module) -> Sequence[str]:
        """Return the names of the modules whose calls a cut pass leaves out; those within them are
        left out, too.
        """

    def list_computed_passes(self, called: Sequence[int], num_passes: int) -> Sequence[int]:
        """Return those of the passes `called`, at which no other cache leaves out a module of this
        cache, in which this one lets it be computed.

        Raises ArgumentError for a schedule that does not fit a run of so many passes.
        """

    def installing(self, unet: nn.Module, state: PassState) -> AbstractContextManager[CacheHooks]:
        """Context manager that installs the hooks of the cache in the UNet for one run."""
