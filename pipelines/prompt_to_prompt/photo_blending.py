"""Edits of an inverted photo that keep it outside of a mask: in latents, and in pixels.

B batch rows (here: targets), C channels, H W latent size, Y X image size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.images.blend_weights import soften_edge
from pipelines.images.photo import Photo
from t2i.conditioning.run_state import RunState


@dataclass(frozen=True, slots=True)
class KeepPathCallback:
    """Step callback that resets latents outside of a mask to the path of the inverted photo.

    path_at : number of a step -> latents (1, C, H, W) of the path after it
    mask_11YX : 1 where the photo may change; a latent changes if any of its pixels may
    """

    path_at: Callable[[int], Tensor]
    mask_11YX: Tensor

    def before_pass(self, run: RunState) -> None:
        """Do nothing before a denoiser pass: the path is restored after each step."""

    def after_step(self, run: RunState) -> None:
        """Restore the path's latents outside of the mask."""
        latents_BCHW = run.latents_BCHW
        path_1CHW = self.path_at(run.step).to(latents_BCHW)
        mask_11HW = functional.adaptive_max_pool2d(self.mask_11YX, latents_BCHW.shape[-2:])
        run.latents_BCHW = torch.where(
            mask_11HW.to(latents_BCHW.device) > 0, latents_BCHW, path_1CHW
        )


def restore_photo(pixels_B3YX: Tensor, photo: Photo | None) -> Tensor:
    """Return the pixels of edits, and outside of the photo's mask exactly the photo's own, in
    float32, with a soft edge inside it; unchanged without a mask.
    """
    mask_11YX = None if photo is None else photo.mask_pixels
    if photo is None or mask_11YX is None:
        return pixels_B3YX
    weights_YX = soften_edge(mask_11YX[0, 0]).to(pixels_B3YX.device)
    photo_13YX = photo.pixels.to(pixels_B3YX.device, torch.float32)
    mixed_B3YX = photo_13YX + weights_YX * (pixels_B3YX.float().clamp(-1, 1) - photo_13YX)
    return torch.where(weights_YX > 0, mixed_B3YX, photo_13YX)
