"""torch.compile of a target's denoiser, in place: the names of its weights stay as they are."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from t2i.attention.compiled import is_compiled
from t2i.errors import ArgumentError
from train.targets.target import Target

BACKEND = "inductor"
"""Of torch.compile; it needs a C++ compiler on a CPU."""


def compile_denoiser(target: Target) -> None:
    """Let the target's UNet be compiled when it first computes, and again for inputs that differ.

    Raises ArgumentError for a target without one.
    """
    unet = getattr(target, "unet", None)
    if not isinstance(unet, UNet2DConditionModel):
        raise ArgumentError(
            "train.compile = true, but this target trains no denoiser, which is what is compiled: "
            "set it to false."
        )
    unet.compile(backend=BACKEND)


class Compilations:
    """Says when a target's denoiser was compiled: that takes a while."""

    def __init__(self, target: Target) -> None:
        self._watches = is_compiled(target)
        self._graphs = graphs() if self._watches else 0

    def news(self) -> str | None:
        """What to say of the time since the last question."""
        if not self._watches:
            return None
        before, self._graphs = self._graphs, graphs()
        if self._graphs == before:
            return None
        if not before:
            return "the denoiser was compiled"
        return (
            "the denoiser was compiled once more, for an input of another size; after the second "
            "size one kernel serves all"
        )


def graphs() -> int:
    """Compiled in this process so far."""
    # Here, as a run that compiles nothing is spared the seconds of its import.
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


@contextmanager
def uncompiled(target: Target) -> Iterator[None]:
    """Within the block the target computes as it was written: each size that is drawn or measured
    once would be compiled for itself.
    """
    if not is_compiled(target):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
