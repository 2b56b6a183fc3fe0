"""Small networks in the kinds of files that models come in."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from edgeseg.model import Model

SHAPE = (1, 3, 16, 24)


class Net(torch.nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Conv2d(8, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.stem(x)))))


class Returns(torch.nn.Module):
    """Returns its logits in one of the ways that libraries do; the auxiliary output is all zeros."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.net, self.how = Net(), how

    def forward(self, x: torch.Tensor) -> object:
        logits = self.net(x)
        zeros = torch.zeros_like(logits)
        if self.how == "dict":
            return OrderedDict(aux=zeros, out=logits)
        if self.how == "single":
            return (logits, logits.mean())
        if self.how == "named":
            return {"coarse": zeros, "fine": logits}
        return [zeros, [logits]]


def export(module: torch.nn.Module, path: Path) -> Path:
    torch.export.save(torch.export.export(module, (torch.zeros(SHAPE),)), str(path))
    return path


def script(module: torch.nn.Module, path: Path) -> Path:
    torch.jit.trace(module, torch.zeros(SHAPE)).save(str(path))
    return path


def outputs_agree(model: Model, net: torch.nn.Module, x: torch.Tensor) -> bool:
    with torch.inference_mode():
        return torch.allclose(model.logits()(x), net(x), atol=1e-6)


def altered(source: Path, out: Path, member: str, change: Callable[[bytes], bytes]) -> Path:
    """A copy of a zip archive with one member passed through ``change``."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith(member) else content)
    return out


def make_onnx(path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, (2, 3, 1, 1), np.arange(6, dtype=np.float32))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["scores"])],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, 2, 8, 8))],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), str(path))
