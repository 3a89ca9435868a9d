"""Whose call of a denoiser is under way: several pipelines may share one."""

import sys

from diffusers import DiffusionPipeline


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
