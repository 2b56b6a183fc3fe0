"""A user's folder in small: a trained net of 32x32 pixels in every kind of file, photos, masks and edgeseg.toml."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

SIZE = 32
IMAGES = 8

SPEC = """\
[input]
shape = [1, 3, 32, 32]

[classes]
names = ["ground", "plant", "water"]

[calibration]
images = "photos"

[evaluation]
images = "photos"
masks = "labels"
"""

# A module file, as users have it: state_dicts need its factory, pickles its class.
TINY_NET = '''\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Conv2d(16, 3, 1)

    def forward(self, x):
        y = self.head(self.down(self.stem(x)))
        return nn.functional.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=False)


class TwoHeads(nn.Module):
    """Two outputs that could both be the logits; the second is the right one."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        y = self.net(x)
        return {"edges": -y, "regions": y}


class Grey(nn.Module):
    """Takes one channel where edgeseg.toml says three."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.expand(-1, 3, -1, -1))
'''

_COLORS = np.array([[200, 60, 50], [60, 190, 70], [50, 70, 210]])


@dataclass(frozen=True)
class Workshop:
    """``folder`` holds edgeseg.toml, photos/, labels/, tiny_net.py and the model files below."""

    folder: Path

    @property
    def spec(self) -> Path:
        return self.folder / "edgeseg.toml"

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    @property
    def labels(self) -> Path:
        return self.folder / "labels"

    def model(self, name: str) -> Path:
        """tiny.pt2, script.pt, weights.pt, module.pt, two.pt2, grey.pt2 or tiny.onnx."""
        return self.folder / name


def build_workshop(folder: Path) -> Workshop:
    """Fill ``folder``: pictures by seed, a net trained on them for a moment, and its files."""
    (folder / "edgeseg.toml").write_text(SPEC)
    (folder / "tiny_net.py").write_text(TINY_NET)
    images, masks = _scenes(folder)
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module("tiny_net")
    finally:
        sys.path.remove(str(folder))
    _save_models(_trained(module.Net(), images, masks), module.TwoHeads, module.Grey, folder)
    return Workshop(folder)


def _scenes(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    (folder / "labels").mkdir()
    images, masks = [], []
    for index in range(IMAGES):
        mask = np.zeros((SIZE, SIZE), np.uint8)
        for value in (1, 2):
            top, left = rng.integers(0, SIZE - 12, 2)
            mask[top : top + 12, left : left + 12] = value
        image = np.clip(_COLORS[mask] + rng.normal(0, 25, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / "photos" / f"{index}.png")
        Image.fromarray(mask).save(folder / "labels" / f"{index}.png")
        images.append(image)
        masks.append(mask)
    return np.stack(images), np.stack(masks)


def _trained(net: torch.nn.Module, images: np.ndarray, masks: np.ndarray) -> torch.nn.Module:
    import torch

    torch.manual_seed(0)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).float() / 255
    y = torch.from_numpy(masks).long()
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    optimizer = torch.optim.Adam(net.parameters(), 0.03)
    for _ in range(80):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    net.eval()
    right = (net(x).argmax(1) == y).float().mean().item()
    assert right > 0.95, f"the tiny net did not learn: {right:.3f}"
    return net


def _save_models(net: torch.nn.Module, two_heads: type[torch.nn.Module], grey: type[torch.nn.Module], folder: Path) -> None:
    import torch

    color, gray = torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1, 1, SIZE, SIZE)
    torch.export.save(torch.export.export(net, (color,)), folder / "tiny.pt2")
    torch.export.save(torch.export.export(two_heads(net).eval(), (color,)), folder / "two.pt2")
    torch.export.save(torch.export.export(grey(net).eval(), (gray,)), folder / "grey.pt2")
    torch.jit.trace(net, color).save(str(folder / "script.pt"))
    torch.save(net.state_dict(), folder / "weights.pt")
    torch.save(net, folder / "module.pt")
    torch.onnx.export(
        net, (color,), str(folder / "tiny.onnx"), dynamo=False, opset_version=18, input_names=["input"], output_names=["logits"]
    )
