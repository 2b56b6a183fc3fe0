"""A U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with padding, batch norm, LeakyReLU and 2x2 transposed convolutions.

One sigmoid logit by default: foreground against background.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUT = (1, 3, 128, 128)


def double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for source in (inputs, outputs):
        layers += [nn.Conv2d(source, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1, inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    def __init__(self, classes: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.down = nn.ModuleList(double(a, b) for a, b in zip((3, *widths[:-1]), widths, strict=True))
        pairs = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, flat, 2, 2) for deep, flat in pairs)
        self.join = nn.ModuleList(double(2 * flat, flat) for _, flat in pairs)
        self.classify = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for index, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if index else x)
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat((skip, up(x)), 1))
        return self.classify(x)


def build(classes: int = 1, widths: tuple[int, ...] = (16, 24, 40, 64)) -> nn.Module:
    return UNet(classes, widths)
