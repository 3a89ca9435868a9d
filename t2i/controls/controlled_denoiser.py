"""The one place where controls enter a denoiser pass.

B batch rows, C channels, H W latent size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from t2i.conditioning.conditioning import Conditioning
from t2i.controls.adapter import AdapterFeatures, compute_adapter_features
from t2i.controls.control import Control, check_acts_in_run
from t2i.controls.controlnet import PreparedControlNet, check_maskable
from t2i.controls.hint_pictures import (
    convert_hint_pictures_to_tensor,
    prepare_control_mask,
    repeat_per_image,
)
from t2i.controls.network_checks import HINT_CHANNELS
from t2i.denoiser.offloading import is_offloaded

DenoiseFunction = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(latents (rows, C, H, W), timestep, conditioning of the rows) -> prediction (rows, C, H, W)."""
PreparedControl = PreparedControlNet | AdapterFeatures
FindStep = Callable[[], int]
"""() -> number of the step that is running."""


def prepare_controls(
    controls: Sequence[Control],
    num_images: int,
    size: tuple[int, int],
    num_steps: int,
    device: torch.device,
    options: Mapping[str, Any],
) -> list[PreparedControl]:
    """Prepare the controls of a run: return them with their pictures as tensors on the run's
    device; adapters run here, once.

    size : (height, width) of the images in pixels
    num_steps : of the run, of which steps given as shares are shares
    options : of `VaeImageProcessor.preprocess`, where the images are crops of larger ones

    Raises ArgumentError for pictures and masks that cannot be used, and for a control that acts at
    no step.
    """
    prepared: list[PreparedControl] = []
    for number, control in enumerate(controls):
        check_acts_in_run(control, number, num_steps)
        check_maskable(control, number)
        channels = control.network.config["in_channels"] if control.is_adapter else HINT_CHANNELS
        hint_BCYX = convert_hint_pictures_to_tensor(control.picture, size, channels, options)
        hint_BCYX = hint_BCYX.to(device, control.network.dtype)
        mask_B1YX = None
        if control.mask is not None:
            mask_B1YX = prepare_control_mask(control.mask, num_images, size, options).to(device)
        if control.is_adapter:
            prepared.append(
                compute_adapter_features(control, number, hint_BCYX, mask_B1YX, num_images)
            )
        else:
            hint_BCYX = repeat_per_image("picture", hint_BCYX, num_images)
            prepared.append(PreparedControlNet(control, number, hint_BCYX, mask_B1YX))
    return prepared


def wrap_controlled_denoiser(
    denoise: DenoiseFunction,
    controls: Sequence[PreparedControl],
    find_step: FindStep,
    num_steps: int,
) -> DenoiseFunction:
    """Return `denoise` with the residuals of all controls that act at the running step added to its
    conditioning; `denoise` itself without controls.
    """
    if not controls:
        return denoise

    def denoise_controlled(
        latents_BCHW: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> Tensor:
        step = find_step()
        total: dict[str, Tensor] = {}
        for prepared in controls:
            if not prepared.control.acts_at_step(step, num_steps):
                continue
            own = prepared.compute_extra_conditioning(latents_BCHW, timestep, conditioning)
            for name, residual_BCHW in own.items():
                residual_BCHW = residual_BCHW.to(latents_BCHW.dtype)
                total[name] = total[name] + residual_BCHW if name in total else residual_BCHW
        if total:
            conditioning = replace(conditioning, extra={**conditioning.extra, **total})
        return denoise(latents_BCHW, timestep, conditioning)

    return denoise_controlled


@contextmanager
def moving_control_networks(controls: Sequence[Control], device: torch.device) -> Iterator[None]:
    """Move the networks of controls (ControlNets) to a device within the block, and back afterwards
    those that were elsewhere. Offloaded ones are moved by their own hooks.
    """
    with ExitStack() as stack:
        for network in {id(control.network): control.network for control in controls}.values():
            if not is_offloaded(network):
                stack.callback(move_control_network, network, network.device)
                move_control_network(network, device)
        yield


def move_control_network(network: nn.Module, device: torch.device) -> None:
    """Move the network of a control (ControlNet) to a device, if it is elsewhere."""
    if next(network.parameters()).device != device:
        network.to(device)
