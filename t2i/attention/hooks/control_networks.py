"""Networks that a run calls beside its denoiser, such as ControlNets: their attention has sites of
its own, named "control.0/...".
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import nn

from t2i.attention.site import split_control_name
from t2i.errors import AttentionError


@dataclass(frozen=True, slots=True, eq=False)
class AnnouncedControls:
    """Networks that a run of a denoiser calls in each pass, before the denoiser itself.

    networks : number of a control -> its network; one network may serve several controls
    """

    denoiser: nn.Module
    networks: Mapping[int, nn.Module]


_current: ContextVar[AnnouncedControls | None] = ContextVar("control_networks", default=None)


@contextmanager
def announcing_controls(denoiser: nn.Module, networks: Mapping[int, nn.Module]) -> Iterator[None]:
    """Declare within the block that this thread's runs of a denoiser call these networks, so that
    sessions find the sites in them.
    """
    denoiser = getattr(denoiser, "_orig_mod", denoiser)
    token = _current.set(AnnouncedControls(denoiser, networks))
    try:
        yield
    finally:
        _current.reset(token)


def get_announced_controls(denoiser: nn.Module) -> Mapping[int, nn.Module]:
    """Return the networks that the running run of a denoiser calls beside it, by the numbers of
    their controls.
    """
    current = _current.get()
    return {} if current is None or current.denoiser is not denoiser else current.networks


def get_denoiser_of_running_run() -> nn.Module | None:
    """Return the denoiser that the announced networks belong to; None without any."""
    current = _current.get()
    return None if current is None else current.denoiser


def find_site_module(denoiser: nn.Module, name: str) -> nn.Module:
    """Return the module of the site of this name: of the denoiser, or of a control's network in the
    running run.

    Raises AttentionError for a control that the run does not have.
    """
    number, own_name = split_control_name(name)
    if number is None:
        return denoiser.get_submodule(own_name)
    networks = get_announced_controls(denoiser)
    if number not in networks:
        raise AttentionError(f"Got the site {name!r}, and the run has no control {number}.")
    assert isinstance(number, int)
    return networks[number].get_submodule(own_name)
