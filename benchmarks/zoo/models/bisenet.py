"""A BiSeNet (Yu et al. 2018, arXiv:1808.00897) on a small residual trunk: attention refinement, global
context, feature fusion."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUT = (1, 3, 160, 224)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, outputs, 3, 2), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.short(x))


class Refine(nn.Module):
    """Channels weighted by a sigmoid of their mean; batch norm sits on a 1x1 map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = conv(inputs, outputs)
        self.gate = nn.Sequential(nn.Conv2d(outputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        return x * self.gate(x.mean((2, 3), keepdim=True))


class Fuse(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = conv(inputs, outputs, 1)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(outputs, outputs // 4, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs // 4, outputs, 1),
            nn.Sigmoid(),
        )

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        x = self.project(torch.cat((one, two), 1))
        return x + x * self.gate(x)


class BiSeNet(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.spatial = nn.Sequential(conv(3, 24, 7, 2), conv(24, 24, 3, 2), conv(24, 24, 3, 2), conv(24, 48, 1))
        self.stem = nn.Sequential(conv(3, 16, 3, 2), nn.MaxPool2d(3, 2, 1))
        self.eighth, self.sixteenth, self.last = Residual(16, 32), Residual(32, 64), Residual(64, 96)
        self.refine16, self.refine32 = Refine(64, 48), Refine(96, 48)
        self.context = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(96, 48, 1))
        self.up16, self.up32 = conv(48, 48), conv(48, 48)
        self.fuse = Fuse(96, 64)
        self.head = conv(64, 32)
        self.classify = nn.Conv2d(32, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        sixteenth = self.sixteenth(self.eighth(self.stem(x)))
        last = self.last(sixteenth)
        deep = self.refine32(last) + self.context(last)
        deep = self.up32(F.interpolate(deep, scale_factor=2.0, mode="nearest"))
        deep = self.up16(F.interpolate(self.refine16(sixteenth) + deep, scale_factor=2.0, mode="nearest"))
        logits = self.classify(self.head(self.fuse(self.spatial(x), deep)))
        return F.interpolate(logits, scale_factor=8.0, mode="bilinear", align_corners=False)


def build(classes: int = 6) -> nn.Module:
    return BiSeNet(classes)
