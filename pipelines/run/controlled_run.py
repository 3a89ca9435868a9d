"""Controls of a pipeline's run: checked, brought to its size and device, and added to its passes.

B batch rows (here: images), C channels, H W latent size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipelines.loop import DenoiseFunction
from pipelines.run.call_arguments import RunStart
from pipelines.run.exclusive_access import lock_denoise_that_changes_model
from t2i.attention.hooks.control_networks import announcing_control_networks
from t2i.conditioning.run_state import RunState
from t2i.controls.control import Control
from t2i.controls.controlled_denoiser import (
    moving_control_networks,
    prepare_controls,
    wrap_controlled_denoiser,
)
from t2i.controls.network_checks import check_controls
from t2i.denoiser.families import sd


def check_control_networks_fit_pipeline(pipe: Any, controls: Sequence[Control]) -> None:
    """Raise ArgumentError for controls whose networks were not made for the pipeline's model."""
    if not isinstance(controls, list | tuple) or controls:
        channels = pipe.vae.config["latent_channels"]
        check_controls(controls, pipe.unet, channels, sd.pixels_per_latent(pipe.vae))


@contextmanager
def wrapping_denoise_with_controls(
    denoise: DenoiseFunction,
    pipe: Any,
    run: RunState,
    run_start: RunStart,
    controls: Sequence[Control],
) -> Iterator[DenoiseFunction]:
    """Yield `denoise` with the controls added to each pass of a run; their networks are on the
    pipeline's device within the block.

    A step of a run in another order, as of an inversion, is the sampler's own step that it stands
    for.
    """
    if not controls:
        yield denoise
        return
    order: Sequence[int] | None = getattr(pipe.scheduler, "step_order", None)
    num_steps = max(order) + 1 if order else run.num_steps + run_start.remaining
    factor = sd.pixels_per_latent(pipe.vae)
    num_images, _, height, width = run.latents_BCHW.shape
    device = run.latents_BCHW.device

    def find_step() -> int:
        return order[run.step] if order else run.step

    networks = {
        number: control.network for number, control in enumerate(controls) if not control.is_adapter
    }
    with (
        moving_control_networks(controls, device),
        announcing_control_networks(pipe.unet, networks),
    ):
        prepared = prepare_controls(
            controls,
            num_images,
            (height * factor, width * factor),
            num_steps,
            device,
            run_start.resize_options,
        )
        controlled = wrap_controlled_denoiser(denoise, prepared, find_step, num_steps)
        for control in controls:
            controlled = lock_denoise_that_changes_model(controlled, control.network)
        yield controlled
