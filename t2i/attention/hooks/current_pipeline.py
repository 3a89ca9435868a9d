"""Lookup of the pipeline that is calling a denoiser: several pipelines may share one."""

import sys

from diffusers import DiffusionPipeline


def is_called_inside_other_pipeline(pipeline: object) -> bool:
    """Return True if the running call was made by pipelines, and `pipeline` is none of them.

    Looks through the frames of the call stack. False for a `pipeline` that is none of diffusers'.
    """
    if not isinstance(pipeline, DiffusionPipeline):
        return False
    is_other = False
    frame = sys._getframe(1)
    while (frame := frame.f_back) is not None:  # type: ignore[assignment]  # None ends it
        names = frame.f_code.co_varnames
        caller = frame.f_locals.get("self") if names and names[0] == "self" else None
        if caller is pipeline:
            return False
        is_other = is_other or isinstance(caller, DiffusionPipeline)
    return is_other
