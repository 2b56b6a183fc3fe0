"""ConvNeXt blocks (Liu et al. 2022, arXiv:2201.03545) under a dilated head (DeepLab's ASPP, arXiv:1706.05587): 7x7 depthwise
kernels, LayerNorm over channels last, layer scale, tanh GELU, parallel dilated branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUT = (1, 3, 128, 160)


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.wide, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.mix(x).permute(0, 2, 3, 1))
        y = self.scale * self.narrow(F.gelu(self.wide(y), approximate="tanh"))
        return x + y.permute(0, 3, 1, 2)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of an NCHW map, written out with means, as exporters see it in the wild."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels, 1, 1)), nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return self.weight * centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6) + self.bias


class ConvNeXtHead(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 4, 4), ChannelNorm(32), Block(32))
        self.middle = nn.Sequential(ChannelNorm(32), nn.Conv2d(32, 64, 2, 2), Block(64), Block(64), ChannelNorm(64))
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(64, 32, 3, padding=rate, dilation=rate, bias=False), nn.BatchNorm2d(32), nn.ReLU())
            for rate in (1, 3, 6)
        )
        self.fine = nn.Sequential(nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.classify = nn.Conv2d(96 + 16, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        quarter = self.stem(x)
        deep = self.middle(quarter)
        deep = torch.cat([branch(deep) for branch in self.branches], 1)
        deep = F.interpolate(deep, size=quarter.shape[-2:], mode="bilinear", align_corners=True)
        logits = self.classify(torch.cat((deep, self.fine(quarter)), 1))
        return F.interpolate(logits, size=x.shape[-2:], mode="bicubic", align_corners=False)


def build(classes: int = 6) -> nn.Module:
    return ConvNeXtHead(classes)
