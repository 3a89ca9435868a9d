"""A denoiser that is to put things in their places must know where in the picture it is.

B batch rows, C channels, H W size of the features.
"""

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn


class Places(nn.Module):
    """How badly a linear reading of the UNet's middle tells each feature's own row and column.

    A UNet hears of places only from the zeros around the picture, and under the strong noise in
    which a layout is decided that whisper is lost. As a small part of the loss this teaches it to
    keep the places at hand; the reading itself is not exported.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.reading = nn.Conv2d(unet.config["block_out_channels"][-1], 2, 1)
        self._middle_BCHW: Tensor | None = None
        middle: nn.Module = unet.mid_block
        middle.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _args: object, output_BCHW: Tensor) -> None:
        self._middle_BCHW = output_BCHW

    def losses(self) -> Tensor:
        """Mean squared error (B,) of rows and columns, each from -1 to 1, of the last pass."""
        assert self._middle_BCHW is not None
        read_B2HW = self.reading(self._middle_BCHW).float()
        self._middle_BCHW = None
        places_2HW = where(*read_B2HW.shape[-2:]).to(read_B2HW.device)
        losses_B: Tensor = (read_B2HW - places_2HW).pow(2).flatten(1).mean(1)
        return losses_B


def where(height: int, width: int) -> Tensor:
    """Row and column of every place, (2, H, W), from -1 to 1."""
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
