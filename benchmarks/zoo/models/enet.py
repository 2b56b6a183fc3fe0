"""An ENet (Paszke et al. 2016, arXiv:1606.02147) that enlarges by transposed convolution instead of unpooling.

PReLU with one slope a channel, asymmetric 5x1 and dilated kernels, a pooled skip padded with zero channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUT = (1, 3, 128, 192)


def norm_act(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.PReLU(channels, init=0.2))


class Initial(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 13, 3, 2, 1, bias=False), norm_act(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(torch.cat((self.conv(x), F.max_pool2d(x, 2)), 1))


class Bottleneck(nn.Module):
    def __init__(self, channels: int, dilation: int = 1, asymmetric: bool = False) -> None:
        super().__init__()
        inner = channels // 4
        if asymmetric:
            middle: nn.Module = nn.Sequential(
                nn.Conv2d(inner, inner, (5, 1), padding=(2, 0), bias=False), nn.Conv2d(inner, inner, (1, 5), padding=(0, 2))
            )
        else:
            middle = nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation)
        self.body = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False),
            norm_act(inner),
            middle,
            norm_act(inner),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.act = nn.PReLU(channels, init=0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.body(x))


class Down(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        inner = inputs // 2
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inner, 2, 2, bias=False),
            norm_act(inner),
            nn.Conv2d(inner, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.extra = outputs - inputs
        self.act = nn.PReLU(outputs, init=0.2)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.pad(F.max_pool2d(x, 2), (0, 0, 0, 0, 0, self.extra))
        return self.act(skip + self.body(x))


class Up(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.body = nn.Sequential(
            nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + F.interpolate(self.skip(x), scale_factor=2.0, mode="bilinear"))


class ENet(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        middle = [Bottleneck(96), Bottleneck(96, 2), Bottleneck(96, asymmetric=True), Bottleneck(96, 4), Bottleneck(96, 8)]
        self.encode = nn.Sequential(Initial(), Down(16, 48), Bottleneck(48), Bottleneck(48), Down(48, 96), *middle)
        self.decode = nn.Sequential(Up(96, 48), Bottleneck(48), Up(48, 16), Bottleneck(16))
        self.classify = nn.ConvTranspose2d(16, classes, 3, 2, 1, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.decode(self.encode(x)))


def build(classes: int = 6) -> nn.Module:
    return ENet(classes)
