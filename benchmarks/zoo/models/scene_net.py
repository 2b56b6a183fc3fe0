"""The embedded model: a small encoder-decoder of inverted residuals (Sandler et al. 2018, arXiv:1801.04381), ReLU6 throughout.

One skip joins by addition, one by concatenation; logits come at a quarter of the size and are enlarged bilinearly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, act: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU6(inplace=True)) if act else nn.Sequential(*layers)


def separable(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv(inputs, inputs, 3, groups=inputs), conv(inputs, outputs))


class Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1, expand: int = 4) -> None:
        super().__init__()
        wide = inputs * expand
        self.body = nn.Sequential(conv(inputs, wide), conv(wide, wide, 3, stride, groups=wide), conv(wide, outputs, act=False))
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skip else self.body(x)


class SceneNet(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.quarter = nn.Sequential(conv(3, 16, 3, stride=2), Inverted(16, 24, 2), Inverted(24, 24))
        self.eighth = nn.Sequential(Inverted(24, 32, 2), Inverted(32, 32))
        self.sixteenth = nn.Sequential(Inverted(32, 64, 2), Inverted(64, 64), Inverted(64, 64))
        self.reduce = conv(64, 32, act=False)
        self.middle = separable(32, 32)
        self.fine = separable(32 + 24, 32)
        self.classify = nn.Conv2d(32, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        quarter = self.quarter(x)
        eighth = self.eighth(quarter)
        deep = self.reduce(self.sixteenth(eighth))
        deep = F.interpolate(deep, size=eighth.shape[-2:], mode="bilinear", align_corners=False)
        middle = self.middle(deep + eighth)
        middle = F.interpolate(middle, size=quarter.shape[-2:], mode="bilinear", align_corners=False)
        logits = self.classify(self.fine(torch.cat((middle, quarter), 1)))
        return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)


INPUT = (1, 3, 128, 160)


def build(classes: int = 6) -> nn.Module:
    return SceneNet(classes)
