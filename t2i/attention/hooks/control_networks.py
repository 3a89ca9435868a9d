"""Networks that a run calls beside its denoiser, such as ControlNets: their attention has sites of
its own, named "control.0/...".
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel
from torch import nn

from t2i.attention.site import split_control_name
from t2i.errors import AttentionError


@dataclass(frozen=True, slots=True, eq=False)
class AnnouncedControlNetworks:
    """Control networks (ControlNets) that a run calls in each pass, before its denoiser, and that
    denoiser.

    networks : number of a control -> its network; one network may serve several controls
    """

    denoiser: nn.Module
    networks: Mapping[int, nn.Module]


_current: ContextVar[AnnouncedControlNetworks | None] = ContextVar("control_networks", default=None)


@contextmanager
def announcing_control_networks(
    denoiser: nn.Module, networks: Mapping[int, nn.Module]
) -> Iterator[None]:
    """Declare within the block that this thread's runs of a denoiser call these control networks
    (ControlNets), so that attention sessions find the sites in them.
    """
    denoiser = getattr(denoiser, "_orig_mod", denoiser)
    token = _current.set(AnnouncedControlNetworks(denoiser, networks))
    try:
        yield
    finally:
        _current.reset(token)


def get_announced_control_networks(denoiser: nn.Module) -> Mapping[int, nn.Module]:
    """Return the control networks (ControlNets) that the current run of a denoiser calls, by
    control number; empty if none were announced for this denoiser.
    """
    current = _current.get()
    return {} if current is None or current.denoiser is not denoiser else current.networks


def get_denoiser_of_announced_networks() -> nn.Module | None:
    """Return the denoiser for which control networks (ControlNets) are announced; None if none are
    announced.
    """
    current = _current.get()
    return None if current is None else current.denoiser


def find_site_module(denoiser: nn.Module, name: str) -> nn.Module:
    """Return the module of the attention site of this name, in the denoiser or in a control network
    of the current run.

    Raises AttentionError for a control that the run does not have.
    """
    number, own_name = split_control_name(name)
    if number is None:
        return denoiser.get_submodule(own_name)
    networks = get_announced_control_networks(denoiser)
    if number not in networks:
        raise AttentionError(f"Got the site {name!r}, and the run has no control {number}.")
    assert isinstance(number, int)
    return networks[number].get_submodule(own_name)


def find_control_networks(pipeline: Any) -> dict[int, nn.Module]:
    """Return the ControlNets of one of diffusers' pipelines as it calls them, by their numbers in
    its list; empty for pipelines without any, or whose ControlNets are of other families.
    """
    if hasattr(pipeline, "do_perturbed_attention_guidance"):
        return {}  # its ControlNets have other rows than its denoiser
    of_pipeline = getattr(pipeline, "controlnet", None)
    every = getattr(of_pipeline, "nets", [of_pipeline])
    kinds = (ControlNetModel, ControlNetUnionModel)
    return {
        number: network
        for number, network in enumerate(every)
        if isinstance(getattr(network, "_orig_mod", network), kinds)
    }


class CalledControlNetworks:
    """ControlNets of one of diffusers' pipelines, and which of them its running pass has called.

    networks : number of a control -> its network as it is called; torch.compile may have wrapped it
    """

    def __init__(self, pipeline: Any) -> None:
        self.networks = find_control_networks(pipeline)
        self._called: set[int] = set()

    @property
    def unwrapped(self) -> dict[int, nn.Module]:
        """Networks themselves, by the numbers of their controls."""
        return {
            number: getattr(network, "_orig_mod", network)
            for number, network in self.networks.items()
        }

    def begin_pass(self) -> None:
        """Begin a pass, in which no network has been called yet."""
        self._called.clear()

    def note_call(self, network: nn.Module) -> int | None:
        """Note a call of a network and return the number of its control: the first of that network
        that the pass has not called yet, as one may serve several. None if all were called.
        """
        for number, one in self.networks.items():
            if one is network and number not in self._called:
                self._called.add(number)
                return number
        return None
