"""Whose call of a denoiser is under way: several pipelines may share one."""

import sys
import threading
from contextlib import ExitStack
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from t2i.attention.driver import Driven, Overhearing
from t2i.attention.modules import wrapped_call


class OverhearingOwn(Overhearing):
    """Hears the calls of its own pipeline, in its own thread, and no others."""

    def __init__(self, session: Driven, pipeline: Any, root: nn.Module) -> None:
        super().__init__(session, pipeline, root)
        self._thread = threading.get_ident()
        self._own = False
        self._wraps = root._compiled_call_impl is not None

    def install(self, stack: ExitStack) -> None:
        super().install(stack)
        stack.enter_context(wrapped_call(self.root, self._begin, self._end))

    # the hooks

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch lacks types for it
    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._wraps:
            self._begin(module, args, kwargs)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch lacks types for it
    def _after(self, module: nn.Module, args: object, output: object) -> None:
        if not self._wraps:
            self._end(module, args, output)

    # what they do

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != self._thread:
            return
        self._own = not called_by_another(self.pipeline)
        if self._own:
            super()._before(module, args, kwargs)

    def _end(self, module: nn.Module, args: object, output: object) -> None:
        if threading.get_ident() == self._thread and self._own:
            super()._after(module, args, output)


def called_by_another(pipeline: object) -> bool:
    """Whether what runs now is called by pipelines, and this one is none of them.

    A model in the place of the pipeline, or none, hears every call.
    """
    if not isinstance(pipeline, DiffusionPipeline):
        return False
    others = False
    frame = sys._getframe(1)
    while (frame := frame.f_back) is not None:  # type: ignore[assignment]  # None ends it
        names = frame.f_code.co_varnames
        caller = frame.f_locals.get("self") if names and names[0] == "self" else None
        if caller is pipeline:
            return False
        others = others or isinstance(caller, DiffusionPipeline)
    return others
