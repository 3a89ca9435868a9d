"""Auxiliary loss that makes the UNet represent positions in the image.

B batch rows, C channels, H W size of the features.
"""

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn


class MidBlockPositionLoss(nn.Module):
    """Auxiliary loss: error of a linear prediction of row and column from the UNet's mid block.

    A UNet can infer positions only from the zero padding around the image, and under the strong
    noise in which a layout is decided little of that is left. As a small part of the loss this
    trains it to keep positions; the linear layer itself is not exported.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.reading = nn.Conv2d(unet.config["block_out_channels"][-1], 2, 1)
        self._middle_BCHW: Tensor | None = None
        middle: nn.Module = unet.mid_block
        middle.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _args: object, output_BCHW: Tensor) -> None:
        self._middle_BCHW = output_BCHW

    def compute_losses(self) -> Tensor:
        """Return the mean squared error of predicted positions of each row, (B,), in the last
        forward pass.
        """
        assert self._middle_BCHW is not None
        predicted_B2HW = self.reading(self._middle_BCHW).float()
        self._middle_BCHW = None
        positions_2HW = build_row_column_grid(*predicted_B2HW.shape[-2:]).to(predicted_B2HW.device)
        losses_B: Tensor = (predicted_B2HW - positions_2HW).pow(2).flatten(1).mean(1)
        return losses_B


def build_row_column_grid(height: int, width: int) -> Tensor:
    """Build the coordinates (row, column) of every position, (2, H, W), from -1 to 1."""
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
