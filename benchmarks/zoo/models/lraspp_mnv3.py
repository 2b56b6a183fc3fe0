"""LR-ASPP on MobileNetV3 (Howard et al. 2019, arXiv:1905.02244, tables 1 and 2, figure 10).

What makes it hard for INT8: HardSwish and the squeeze-and-excite gates cut a delegate into many small partitions, and the
gates multiply two activations.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

# kernel, expanded channels, output channels, squeeze-and-excite, HardSwish (else ReLU), stride
Row = tuple[int, int, int, bool, bool, int]
ROWS: dict[str, tuple[Row, ...]] = {
    "large": (
        (3, 16, 16, False, False, 1),
        (3, 64, 24, False, False, 2),
        (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2),
        (5, 120, 40, True, False, 1),
        (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2),
        (3, 200, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 480, 112, True, True, 1),
        (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2),
        (5, 960, 160, True, True, 1),
        (5, 960, 160, True, True, 1),
    ),
    "small": (
        (3, 16, 16, True, False, 2),
        (3, 72, 24, False, False, 2),
        (3, 88, 24, False, False, 1),
        (5, 96, 40, True, True, 2),
        (5, 240, 40, True, True, 1),
        (5, 240, 40, True, True, 1),
        (5, 120, 48, True, True, 1),
        (5, 144, 48, True, True, 1),
        (5, 288, 96, True, True, 2),
        (5, 576, 96, True, True, 1),
        (5, 576, 96, True, True, 1),
    ),
}


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)


class Gate(nn.Module):
    """Squeeze-and-excite: channels scaled by a function of their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(8, (channels // 4 + 4) // 8 * 8)
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1),
            nn.Hardsigmoid(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale(x)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, row: Row, dilation: int) -> None:
        super().__init__()
        kernel, expanded, outputs, gate, hard, stride = row
        if dilation > 1:
            stride = 1
        act = nn.Hardswish if hard else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers += [nn.Conv2d(inputs, expanded, 1, bias=False), _norm(expanded), act(inplace=True)]
        pad = (kernel - 1) // 2 * dilation
        layers += [
            nn.Conv2d(expanded, expanded, kernel, stride, pad, dilation, groups=expanded, bias=False),
            _norm(expanded),
            act(inplace=True),
        ]
        if gate:
            layers.append(Gate(expanded))
        self.body = nn.Sequential(*layers, nn.Conv2d(expanded, outputs, 1, bias=False), _norm(outputs))
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skip else self.body(x)


class LRASPP(nn.Module):
    """``size``: large or small. The last stage keeps stride 16 and is dilated instead. Logits at the input's size."""

    def __init__(self, classes: int, size: str = "large", head: int = 128) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), _norm(16), nn.Hardswish(inplace=True))
        early: list[nn.Module] = []
        late: list[nn.Module] = []
        stride, dilation, channels, low = 2, 1, 16, 16
        for row in ROWS[size]:
            if row[-1] == 2 and stride == 16:
                dilation = 2
            stride = min(16, stride * row[-1])
            block = Bottleneck(channels, row, dilation)
            channels = row[2]
            if stride <= 8:
                early.append(block)
                low = channels
            else:
                late.append(block)
        self.early, self.late = nn.Sequential(*early), nn.Sequential(*late)
        self.last = nn.Sequential(
            nn.Conv2d(channels, channels * 6, 1, bias=False), _norm(channels * 6), nn.Hardswish(inplace=True)
        )
        self.project = nn.Sequential(nn.Conv2d(channels * 6, head, 1, bias=False), _norm(head), nn.ReLU(inplace=True))
        self.attend = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels * 6, head, 1, bias=False), nn.Sigmoid())
        self.from_low = nn.Conv2d(low, classes, 1, bias=False)
        self.classify = nn.Conv2d(head, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.early(self.stem(x))
        deep = self.last(self.late(low))
        high = self.project(deep) * self.attend(deep)
        high = F.interpolate(high, size=low.shape[-2:], mode="bilinear", align_corners=False)
        logits = self.from_low(low) + self.classify(high)
        return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)


INPUT = (1, 3, 192, 256)


def build(classes: int = 11, size: str = "large") -> nn.Module:
    return LRASPP(classes, size)
