"""Controls of a request with their networks, which stay loaded for the next request."""

from collections.abc import Mapping
from os.path import expanduser
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from t2i.cli.request.file_checks import locate_and_verify_file
from t2i.cli.request.request import Request

if TYPE_CHECKING:
    from pipelines.base.pipeline import Pipeline
    from t2i.controls.control import Control

_networks: WeakKeyDictionary[Any, Mapping[tuple[str, str | None], Any]] = WeakKeyDictionary()
"""UNet -> (path, SHA-256) of a network -> the network, of the last request."""


def build_controls(pipe: "Pipeline", request: Request) -> "list[Control]":
    """Load the ControlNets of a request and return them, with their hints, as the controls of a
    pipeline's call. Networks of the last call are used again.

    Raises ModelError for a network that cannot be loaded or has changed since it was recorded.
    """
    if not request.controls:
        _networks.pop(pipe.unet, None)
        return []
    from t2i.controls.control import Control
    from t2i.controls.loading import load_control_network

    before = _networks.get(pipe.unet, {})
    now: dict[tuple[str, str | None], Any] = {}
    for control in request.controls:
        key = (control.model.path, control.model.sha256)
        if key in before:
            now[key] = before[key]
        elif key not in now:
            path = locate_and_verify_file("control_model", control.model)
            now[key] = load_control_network(path, pipe.unet)
    _networks[pipe.unet] = now
    return [
        Control(
            now[control.model.path, control.model.sha256],
            expanduser(control.picture.path),
            control.scale,
            control.steps,
            control.mode,
            None if control.mask is None else expanduser(control.mask.path),
            control.blocks,
            parse_control_type(control.type),
        )
        for control in request.controls
    ]


def parse_control_type(text: str | None) -> int | str | None:
    """Parse the type of a hint for a union ControlNet: return an int if the text is a number, else
    the text, which names the type; None stays None.
    """
    return int(text) if text is not None and text.isdecimal() and len(text) < 6 else text
