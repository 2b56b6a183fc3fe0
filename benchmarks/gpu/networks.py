"""Networks with random weights, for latency only. They take ImageNet-normalised RGB and give 11 or 12 classes."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

CLASSES = 11


def build(name: str) -> nn.Module:
    """A network by name. Raises ModuleNotFoundError where the package that defines it is not installed."""
    torch.manual_seed(0)
    return {
        "espnet": espnet,
        "deeplabv3plus": deeplabv3plus,
        "unetplusplus": unetplusplus,
        "segformer": segformer,
        "fcn_resnet50": FcnResNet50,
    }[name]()


def espnet() -> nn.Module:
    """The published network runs at any size; its weights mean nothing for these pixels."""
    return torch.jit.load(Path(os.environ.get("EDGESEG_DATA", "../shared")) / "models" / "espnet_camvid.pt")


def deeplabv3plus() -> nn.Module:
    import segmentation_models_pytorch as smp

    return smp.DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=CLASSES)


def unetplusplus() -> nn.Module:
    import segmentation_models_pytorch as smp

    return smp.UnetPlusPlus("mobilenet_v2", encoder_weights=None, classes=CLASSES)


def segformer() -> nn.Module:
    import segmentation_models_pytorch as smp

    return smp.Segformer("mit_b0", encoder_weights=None, classes=CLASSES)


class Bottleneck(nn.Module):
    """He et al. 2015 (arXiv:1512.03385), figure 5, with the stride in the 3x3 convolution."""

    def __init__(self, into: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(into, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        same = into == out and stride == 1
        shortcut = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.shortcut = nn.Identity() if same else shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class FcnResNet50(nn.Module):
    """ResNet-50 at output stride 8 with the two-convolution head of Long et al. 2015 (arXiv:1411.4038) as it is used today."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        into = 64
        for width, count, stride, dilation in ((64, 3, 1, 1), (128, 4, 2, 1), (256, 6, 1, 2), (512, 3, 1, 4)):
            for place in range(count):
                layers.append(Bottleneck(into, width, stride if place == 0 else 1, dilation))
                into = 4 * width
        self.backbone = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Conv2d(2048, 512, 3, 1, 1, bias=False), nn.BatchNorm2d(512), nn.ReLU(), nn.Conv2d(512, CLASSES, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(self.backbone(x))
        return nn.functional.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)
