"""Small convolution blocks that perception and fusion are made of."""

from torch import Tensor, nn


def conv_norm(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, groups: int = 8) -> nn.Sequential:
    """Convolution and group normalisation (batches are too small for batch normalisation), no activation."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
        nn.GroupNorm(groups, channels_out),
    )


def conv_norm_relu(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, group normalisation, ReLU."""
    return nn.Sequential(*conv_norm(channels_in, channels_out, kernel, stride), nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; same shape out as in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv_norm_relu(channels, channels)
        self.second = conv_norm(channels, channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return self.relu(features + self.second(self.first(features)))
