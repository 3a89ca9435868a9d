"""Checks whether an inversion method suits a model and its guidance."""

from typing import Any

from pipelines.inversion.bdia import BdiaInversion
from pipelines.inversion.ddim import DdimInversion
from pipelines.inversion.inversion_run import InversionMethod
from pipelines.inversion.methods import format_method
from pipelines.inversion.noise_levels import is_flow_matching
from pipelines.inversion.null_text import UNCOND_BRANCH, NullTextInversion
from t2i.conditioning.run_state import Guidance
from t2i.errors import ArgumentError

FEW_STEP_SCHEDULERS = ("LCMScheduler", "TCDScheduler")


def is_few_step_model(pipe: Any) -> bool:
    """Return True for a model distilled to a few steps: its guidance or its scheduler says so."""
    few = type(pipe.scheduler).__name__ in FEW_STEP_SCHEDULERS
    return few or pipe.unet.config["time_cond_proj_dim"] is not None


def check_method_suits_model(pipe: Any, method: InversionMethod) -> None:
    """Raise ArgumentError for an inversion method that cannot be used with the pipeline's model.

    Those that invert a sampler's steps need many short ones, and null-text a diffusion model.
    """
    name = format_method(method).partition(":")[0]
    if is_few_step_model(pipe) and isinstance(
        method, DdimInversion | NullTextInversion | BdiaInversion
    ):
        raise ArgumentError(
            f"The method {name} inverts each step of a sampler, and the few long steps of a "
            "distilled model cannot be inverted: choose turbo, edit-friendly or difference."
        )
    if is_flow_matching(pipe.scheduler) and isinstance(method, NullTextInversion):
        raise ArgumentError(
            f"The method {name} optimises the unconditional embedding of a diffusion model, and "
            "this is a flow model: choose difference, edit-friendly or direct."
        )


def check_guidance_suits_method(guidance: Guidance, method: InversionMethod) -> None:
    """Raise ArgumentError where an inversion method needs an unconditional branch and the guidance
    has none.
    """
    if isinstance(method, NullTextInversion) and UNCOND_BRANCH not in guidance.possible_branches:
        raise ArgumentError(
            "null-text optimises the unconditional embedding, and this run computes none: give a "
            "guidance scale above 1, or choose the method direct."
        )
