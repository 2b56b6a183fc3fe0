"""The converter zoo: every net of models/ with random weights that behave like trained ones.

Batch norms get the statistics of real pictures, and the last bias is set so that every class wins somewhere. Drift measured on
such a net says nothing about accuracy; that it converts, loads and agrees says much. Import this file by its path.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from edgeseg.data.scenes import SPLITS, render

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class ZooModel:
    """``shape``: the input, (1, 3, H, W), RGB / 255. ``stride``: input size over output size."""

    name: str
    module: nn.Module
    shape: tuple[int, int, int, int]
    classes: int
    stride: int


def names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (HERE / "models").glob("*.py")))


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"edgeseg_zoo_{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def pictures(shape: tuple[int, int, int, int], count: int, first: int = SPLITS["calibration"]) -> Tensor:
    """``count`` scenes, stretched to the input's size: float32 (count, 3, H, W) in 0..1."""
    images = torch.from_numpy(np.stack([render(first + i)[0] for i in range(count)])).permute(0, 3, 1, 2).float() / 255
    return nn.functional.interpolate(images, size=shape[2:], mode="bilinear", align_corners=False)


def load(name: str, seed: int = 0) -> ZooModel:
    """Build the net, calibrate it, give it back in eval mode. Deterministic by ``seed``."""
    source = _load(name, HERE / "models" / f"{name}.py")
    training = _load("training", HERE / "training.py")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module: nn.Module = source.build()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d | nn.GroupNorm):  # trained gains differ from channel to channel
                nn.init.uniform_(part.weight, 0.4, 1.6)
                nn.init.normal_(part.bias, 0, 0.2)
    shape = source.INPUT
    images = pictures(shape, 12)
    training.calibrate_batch_norm(module, images.split(4))
    with torch.no_grad():
        logits = torch.cat([module(image) for image in images.split(1)])
        offset = logits.mean((0, 2, 3))
        last = module.classify
        last.bias -= offset.repeat_interleave(len(last.bias) // len(offset))
    return ZooModel(name, module, shape, logits.shape[1], shape[2] // logits.shape[2])
