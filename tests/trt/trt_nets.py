"""Eight small segmentation networks of different kinds, for what must hold for any."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 6
SHAPE = (1, 3, 64, 80)


def cbr(
    into: int, out: int, size: int = 3, stride: int = 1, *, dilation: int = 1, groups: int = 1, act: object = nn.ReLU
) -> nn.Module:
    convolution = nn.Conv2d(into, out, size, stride, dilation * (size // 2), dilation, groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), act() if act else nn.Identity())


def up(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


class Inverted(nn.Module):
    """Inverted residual with an optional squeeze-and-excite gate."""

    def __init__(self, into: int, out: int, stride: int, act: object, gate: bool = False) -> None:
        super().__init__()
        wide = 4 * into
        self.body = nn.Sequential(cbr(into, wide, 1, act=act), cbr(wide, wide, 3, stride, groups=wide, act=act))
        parts = (nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 8, 1), nn.ReLU(), nn.Conv2d(8, wide, 1), nn.Hardsigmoid())
        self.gate = nn.Sequential(*parts) if gate else None
        self.out = cbr(wide, out, 1, act=None)
        self.same = stride == 1 and into == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y = self.out(y if self.gate is None else y * self.gate(y))
        return x + y if self.same else y


class Mobile(nn.Module):
    """ReLU6 in front, HardSwish and gates behind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = cbr(3, 16, 3, 2, act=nn.Hardswish)
        self.a = nn.Sequential(Inverted(16, 16, 1, nn.ReLU6), Inverted(16, 24, 2, nn.ReLU6), Inverted(24, 24, 1, nn.ReLU6))
        self.b = nn.Sequential(Inverted(24, 40, 2, nn.Hardswish, True), Inverted(40, 40, 1, nn.Hardswish, True))
        self.join, self.last = cbr(64, 32, 1, act=nn.Hardswish), nn.Conv2d(32, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(self.stem(x))
        return up(self.last(self.join(torch.cat([up(self.b(a), a), a], 1))), x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        parts = self.qkv(self.first(x)).reshape(batch, count, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, width))
        return x + self.mlp(self.second(x))


class Transformer(nn.Module):
    """Patches, a table of positions, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.positions = nn.Conv2d(3, 48, 8, 8), nn.Parameter(torch.randn(1, 80, 48) * 0.02)
        self.blocks, self.norm = nn.Sequential(Block(48, 4), Block(48, 4)), nn.LayerNorm(48)
        self.last = nn.Conv2d(48, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.patches(x)
        tokens = self.norm(self.blocks(maps.flatten(2).transpose(1, 2) + self.positions))
        return up(self.last(tokens.transpose(1, 2).reshape(maps.shape)), x)


class Transposed(nn.Module):
    """A decoder of transposed convolutions of three kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = cbr(3, 16), cbr(16, 32, 3, 2), cbr(32, 48, 3, 2)
        self.first, self.second = nn.ConvTranspose2d(48, 32, 4, 2, 1), nn.ConvTranspose2d(32, 16, 2, 2)
        self.m, self.n = cbr(64, 32, act=nn.ELU), cbr(32, 16, act=nn.LeakyReLU)
        self.last = nn.ConvTranspose2d(16, CLASSES, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        y = self.m(torch.cat([self.first(self.c(b)), b], 1))
        return self.last(self.n(torch.cat([self.second(y), a], 1)))


class Grouped(nn.Module):
    """Grouped convolutions in residuals whose shortcut pools."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(cbr(3, 32, 5, 2), nn.MaxPool2d(3, 2, 1))
        self.body = nn.Sequential(cbr(32, 64, 1), cbr(64, 64, 3, 2, groups=8), cbr(64, 64, 1, act=None))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(32, 64, 1))
        self.again = nn.Sequential(cbr(64, 64, 3, groups=4), cbr(64, 64, 1, act=None))
        self.last = nn.Conv2d(64, CLASSES, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = torch.relu(self.body(y) + self.shortcut(y))
        return up(self.last(torch.relu(self.again(y) + y)), x)


class Depthwise(nn.Module):
    """Large depthwise kernels, SiLU, PReLU, a pixel shuffle at the end."""

    def __init__(self) -> None:
        super().__init__()

        def part(into: int, out: int, size: int, stride: int) -> nn.Module:
            return nn.Sequential(
                cbr(into, into, size, stride, groups=into, act=nn.SiLU), cbr(into, out, 1, act=None), nn.PReLU(out)
            )

        self.body = nn.Sequential(cbr(3, 24, 3, 2, act=nn.SiLU), part(24, 32, 5, 2), part(32, 48, 7, 1))
        self.last = nn.Conv2d(48, CLASSES * 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.last(self.body(x)), 4)


class Normalized(nn.Module):
    """Group and instance norm, Mish."""

    def __init__(self) -> None:
        super().__init__()

        def part(into: int, out: int, stride: int, norm: Callable[[], nn.Module]) -> nn.Module:
            return nn.Sequential(nn.Conv2d(into, out, 3, stride, 1), norm(), nn.Mish())

        self.body = nn.Sequential(
            part(3, 16, 2, lambda: nn.GroupNorm(4, 16)),
            part(16, 32, 2, lambda: nn.InstanceNorm2d(32, affine=True)),
            part(32, 32, 1, lambda: nn.GroupNorm(8, 32)),
        )
        self.last = nn.Conv2d(32, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return up(self.last(self.body(x)), x)


class Dilated(nn.Module):
    """A spatial pyramid of dilated convolutions, its global mean spread by Expand."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = cbr(3, 24, 3, 2), nn.Sequential(cbr(24, 32, 3, 2), cbr(32, 48, 3, dilation=2))
        self.branches = nn.ModuleList([cbr(48, 24, 1), *(cbr(48, 24, 3, dilation=rate) for rate in (2, 4, 8))])
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(48, 24, 1), nn.ReLU())
        self.join, self.side = cbr(120, 32, 1), cbr(24, 12, 1)
        self.last = nn.Sequential(cbr(44, 32), nn.Conv2d(32, CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(x)
        high = self.high(low)
        mean = self.mean(high).expand(-1, -1, high.shape[2], high.shape[3])
        y = self.join(torch.cat([*(branch(high) for branch in self.branches), mean], 1))
        return up(self.last(torch.cat([up(y, low), self.side(low)], 1)), x)


class Mixed(nn.Module):
    """A channel split and shuffle, sums of two and three convolutions, gates, maxima, differences."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = cbr(3, 24, 3, 2), cbr(24, 32, 3, 2)
        self.left, self.right = nn.Sequential(cbr(12, 12, groups=12, act=None), cbr(12, 12, 1)), cbr(12, 12)
        self.a, self.b, self.c = cbr(32, 32, act=None), cbr(32, 32, 1, act=None), cbr(32, 32, dilation=2, act=None)
        self.gate, self.last = nn.Sequential(nn.Conv2d(32, 32, 1), nn.Sigmoid()), nn.Conv2d(56, CLASSES, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        y = torch.cat([self.left(left) + left, self.right(right) + right], 1)
        batch, count, height, width = y.shape
        y = y.view(batch, 2, count // 2, height, width).transpose(1, 2).reshape(batch, count, height, width)
        down = self.down(y)
        z = torch.relu(self.a(down) + self.b(down) + down)
        z = z + self.c(z) * self.gate(z)
        z = torch.maximum(z, down) - 0.1 * torch.abs(z)
        return up(self.last(torch.cat([y, up(z, y)], 1)), x)


NETS = (Mobile, Transformer, Transposed, Grouped, Depthwise, Normalized, Dilated, Mixed)
