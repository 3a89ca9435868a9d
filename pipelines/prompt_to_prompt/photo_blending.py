"""Edits of an inverted photo that keep it outside of a mask: in latents, and in pixels.

B batch rows (here: targets), C channels, H W latent size, Y X image size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.images.blend_weights import compute_inward_feather_weights
from t2i.conditioning.run_state import RunState, StepCallback


@dataclass(frozen=True, slots=True)
class KeepUnmaskedOnPathCallback(StepCallback):
    """Step callback that resets latents outside of a mask to the path of the inverted photo.

    path_at : number of a step -> latents (1, C, H, W) of the path after it
    mask_11YX : 1 where the photo may change; a latent changes if any of its pixels may
    """

    path_at: Callable[[int], Tensor]
    mask_11YX: Tensor

    def after_step(self, run: RunState) -> None:
        """Reset the run's latents outside of the mask to those of the inverted photo's path."""
        latents_BCHW = run.latents_BCHW
        path_1CHW = self.path_at(run.step).to(latents_BCHW)
        mask_11HW = functional.adaptive_max_pool2d(self.mask_11YX, latents_BCHW.shape[-2:])
        run.latents_BCHW = torch.where(
            mask_11HW.to(latents_BCHW.device) > 0, latents_BCHW, path_1CHW
        )


def restore_unchanged_pixels(
    pixels_B3YX: Tensor, own_13YX: Tensor, weights_B1YX: Tensor, mask_11YX: Tensor | None
) -> Tensor:
    """Return the pixels of edits, in float32, and exactly the source's own where the weights are 0
    and outside of the mask, with a soft edge inside it.
    """
    weights_B1YX = weights_B1YX.to(pixels_B3YX.device)
    if mask_11YX is not None:
        weights_B1YX = weights_B1YX * compute_inward_feather_weights(mask_11YX[0, 0]).to(
            weights_B1YX.device
        )
    own_13YX = own_13YX.to(pixels_B3YX.device, torch.float32)
    mixed_B3YX = own_13YX + weights_B1YX * (pixels_B3YX.float().clamp(-1, 1) - own_13YX)
    return torch.where(weights_B1YX > 0, mixed_B3YX, own_13YX)


def compute_changed_pixel_weights(
    latents_BCHW: Tensor, source_1CHW: Tensor, size: tuple[int, int]
) -> Tensor:
    """Return weights (B, 1, Y, X) of where latents differ from the source's: 1 there, falling to 0
    over the next latent, into which the decoder reaches.

    A blend by words leaves the others equal to the bit. size : Y and X
    """
    changed_BHW = (latents_BCHW != source_1CHW.to(latents_BCHW)).any(dim=1).float()
    wide_BHW = functional.max_pool2d(changed_BHW, 3, stride=1, padding=1)
    wide_B1YX = functional.interpolate(wide_BHW[:, None], size)
    width = max(1, size[0] // latents_BCHW.shape[2])
    return torch.stack(
        [compute_inward_feather_weights(wide_YX, width)[None] for (wide_YX,) in wide_B1YX.cpu()]
    )
