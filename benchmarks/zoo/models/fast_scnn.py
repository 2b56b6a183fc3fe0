"""Fast-SCNN (Poudel et al. 2019, arXiv:1902.04502, table 1) with fewer blocks: two branches, pyramid pooling, feature fusion.

At ``INPUT`` every pooling bin divides the 6x12 map; at other sizes adaptive pooling has windows of unequal size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUT = (1, 3, 192, 384)


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(inputs, inputs, 3, stride, groups=inputs), conv(inputs, outputs))


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = inputs * 6
        self.body = nn.Sequential(
            conv(inputs, wide),
            conv(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skip else self.body(x)


class PyramidPool(nn.Module):
    def __init__(self, channels: int, bins: tuple[int, ...]) -> None:
        super().__init__()
        part = channels // len(bins)
        self.parts = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(size), conv(channels, part)) for size in bins)
        self.out = conv(channels + part * len(bins), channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([x, *(enlarge(part(x), x) for part in self.parts)], 1))


class FastSCNN(nn.Module):
    def __init__(self, classes: int, bins: tuple[int, ...]) -> None:
        super().__init__()
        self.shared = nn.Sequential(conv(3, 24, 3, 2), separable(24, 32, 2), separable(32, 48, 2))
        self.context = nn.Sequential(
            Bottleneck(48, 48, 2),
            Bottleneck(48, 48, 1),
            Bottleneck(48, 64, 2),
            Bottleneck(64, 64, 1),
            Bottleneck(64, 96, 1),
            PyramidPool(96, bins),
        )
        self.deep = nn.Sequential(conv(96, 96, 3, groups=96), nn.Conv2d(96, 96, 1), nn.BatchNorm2d(96))
        self.near = nn.Sequential(nn.Conv2d(48, 96, 1), nn.BatchNorm2d(96))
        self.head = nn.Sequential(separable(96, 96), separable(96, 96), nn.Dropout(0.1))
        self.classify = nn.Conv2d(96, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        near = self.shared(x)
        deep = enlarge(self.context(near), near)
        return enlarge(self.classify(self.head(F.relu(self.near(near) + self.deep(deep)))), x)


def build(classes: int = 6, bins: tuple[int, ...] = (1, 2, 3, 6)) -> nn.Module:
    return FastSCNN(classes, bins)
