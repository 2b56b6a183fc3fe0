"""ShuffleNet V2 units (Ma et al. 2018, arXiv:1807.11164) with a pixel-shuffle decoder: channel splits,
shuffles, depth to space."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUT = (1, 3, 128, 160)


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, act: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if act else nn.Sequential(*layers)


def shuffle(x: Tensor) -> Tensor:
    batch, channels, rows, columns = x.shape
    return x.reshape(batch, 2, channels // 2, rows, columns).transpose(1, 2).reshape(batch, channels, rows, columns)


class Unit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(conv(half, half), conv(half, half, 3, groups=half, act=False), conv(half, half))

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = x.chunk(2, dim=1)
        return shuffle(torch.cat((kept, self.body(worked)), 1))


class Down(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.left = nn.Sequential(conv(inputs, inputs, 3, 2, groups=inputs, act=False), conv(inputs, half))
        self.right = nn.Sequential(conv(inputs, half), conv(half, half, 3, 2, groups=half, act=False), conv(half, half))

    def forward(self, x: Tensor) -> Tensor:
        return shuffle(torch.cat((self.left(x), self.right(x)), 1))


class ShuffleSeg(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1))
        self.eighth = nn.Sequential(Down(24, 48), Unit(48), Unit(48))
        self.sixteenth = nn.Sequential(Down(48, 96), Unit(96), Unit(96), Unit(96))
        self.up = nn.Sequential(conv(96, 48 * 4), nn.PixelShuffle(2))
        self.head = conv(48, 64, 3)
        self.classify = nn.Conv2d(64, classes * 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        eighth = self.eighth(self.stem(x))
        deep = self.up(self.sixteenth(eighth))
        logits = F.pixel_shuffle(self.classify(self.head(F.relu(eighth + deep))), 4)
        return F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)


def build(classes: int = 6) -> nn.Module:
    return ShuffleSeg(classes)
