"""LPIPS with the features of SqueezeNet, whose weights a user brings.

B pictures, C channels, H W size of the pictures, h w of a feature map.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from t2i.errors import ModelError
from t2i.evaluate.optional_imports import explaining_missing_extra
from t2i.safe_reading.tensors import read_tensors

SLICES = ((0, 2), (2, 5), (5, 8), (8, 10), (10, 11), (11, 12), (12, 13))
"""First and last layer, exclusive, of each slice of SqueezeNet whose output is compared."""
INPUT_SHIFT, INPUT_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class FireModule(nn.Module):
    """Fire module of SqueezeNet (Iandola et al. 2016, https://arxiv.org/abs/1602.07360)."""

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Return the squeezed and expanded features, (B, 2 * expanded, h, w)."""
        squeezed_BChw = self.squeeze(x_BChw).relu()
        wide = self.expand1x1(squeezed_BChw), self.expand3x3(squeezed_BChw)
        return torch.cat(wide, dim=1).relu()


def build_squeezenet_features() -> nn.Sequential:
    """Build the convolutional layers of SqueezeNet 1.1; weights are named as in torchvision."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, stride=2, ceil_mode=True)

    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2),
        nn.ReLU(),
        pool(),
        FireModule(64, 16, 64),
        FireModule(128, 16, 64),
        pool(),
        FireModule(128, 32, 128),
        FireModule(256, 32, 128),
        pool(),
        FireModule(256, 48, 192),
        FireModule(384, 48, 192),
        FireModule(384, 64, 256),
        FireModule(512, 64, 256),
    )


class Lpips(nn.Module):
    """Learned perceptual distance of pictures (Zhang et al. 2018, https://arxiv.org/abs/1801.03924).

    features : layers of `build_squeezenet_features`
    channel_weights : learned weight of each channel of each slice, (1, C, 1, 1)
    """

    def __init__(self, features: nn.Sequential, channel_weights: list[Tensor]) -> None:
        super().__init__()
        self.features = features
        self.channel_weights = channel_weights

    @torch.no_grad()
    def forward(self, one_B3HW: Tensor, other_B3HW: Tensor) -> Tensor:
        """Return the distance (B,) of pictures (B, 3, H, W), whose values are from -1 to 1."""
        sides = [self.normalized_features(side) for side in (one_B3HW, other_B3HW)]
        parts = [
            ((one - other).square() * weight.to(one)).sum(dim=1).mean(dim=(1, 2))
            for one, other, weight in zip(*sides, self.channel_weights, strict=True)
        ]
        return torch.stack(parts).sum(dim=0)

    def normalized_features(self, x_B3HW: Tensor) -> list[Tensor]:
        """Return the features of each slice (B, C, h, w), of unit length at each position."""
        shift, scale = (
            x_B3HW.new_tensor(values).view(1, 3, 1, 1) for values in (INPUT_SHIFT, INPUT_SCALE)
        )
        x = (x_B3HW - shift) / scale
        found = []
        for first, last in SLICES:
            x = self.features[first:last](x)
            found.append(x / (1e-8 + x.square().sum(dim=1, keepdim=True)).sqrt())
        return found


def load_lpips(path: Path) -> Lpips:
    """Load LPIPS with the weights of SqueezeNet 1.1 from a safetensors file.

    The tensors are named as in torchvision; the channels' weights are those of torchmetrics.
    Raises ModelError for another file.
    """
    features = build_squeezenet_features()
    prefix = "features."
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in read_tensors(path).items()
        if name.startswith(prefix)
    }
    try:
        features.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(
            f"{path} does not hold torchvision's SqueezeNet 1.1: expected the tensors "
            "features.0.weight to features.12.expand3x3.bias of its state_dict."
        ) from error
    return Lpips(features, list_channel_weights(load_torchmetrics_lpips_weights())).eval()


def load_torchmetrics_lpips_weights() -> Mapping[str, Tensor]:
    """Return the learned weights of LPIPS that are part of torchmetrics, by name."""
    with explaining_missing_extra():
        import torchmetrics

    file = Path(torchmetrics.__file__).parent / "functional/image/lpips_models/squeeze.pth"
    weights: Mapping[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return weights


def list_channel_weights(weights: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the channels' weights of each slice, (1, C, 1, 1), in the order of SLICES."""
    return [weights[f"lin{number}.model.1.weight"] for number in range(len(SLICES))]
