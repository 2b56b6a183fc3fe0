"""A semantic FPN (Kirillov et al. 2019, arXiv:1901.02446) with group norm and SiLU: nothing here folds into a convolution."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

INPUT = (1, 3, 128, 160)


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.SiLU(inplace=True))


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(channels, channels), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.body(x))


class FPN(nn.Module):
    """Logits at a quarter of the input's size: stride 4."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        channels = (24, 40, 64, 96)
        self.stem = conv(3, 16, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(conv(a, b, 2), Residual(b)) for a, b in zip((16, *channels[:-1]), channels, strict=True)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(conv(width, width) for _ in channels)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        maps: list[Tensor] = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            maps.append(lateral(x))
        for level in range(len(maps) - 2, -1, -1):
            maps[level] = maps[level] + F.interpolate(maps[level + 1], scale_factor=2.0, mode="nearest")
        total = self.smooth[0](maps[0])
        for level in range(1, len(maps)):
            total = total + F.interpolate(
                self.smooth[level](maps[level]), scale_factor=float(2**level), mode="bilinear", align_corners=False
            )
        return self.classify(total)


def build(classes: int = 6) -> nn.Module:
    return FPN(classes)
